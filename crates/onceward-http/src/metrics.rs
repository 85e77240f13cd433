//! Names of metrics.

/// Counter: requests and connections that went over a limit. Label `reason`: `uri`, `head`,
/// `body`, `slow_body`, `busy`, `too_long`, `connections`.
pub const REFUSED: &str = "onceward_http_refused_total";
