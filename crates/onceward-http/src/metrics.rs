//! Names of metrics.

/// Counter: requests and connections that went over a limit. Label `reason`: `uri`, `head`,
/// `body`, `slow_body`, `busy`, `too_long`, `connections`.
pub const REFUSED: &str = "onceward_http_refused_total";

/// Registers the help text with the recorder of this process.
pub(crate) fn describe() {
    ::metrics::describe_counter!(REFUSED, "Requests and connections that went over a limit");
}
