//! What a client may cost.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::Args;

/// Bounds of an HTTP server. [`Default`] gives the documented values.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = "HTTP limits")]
pub struct Limits {
    /// Longest time a request may take, in milliseconds; then it is answered 503.
    #[arg(
        long,
        env = "ONCEWARD_REQUEST_TIMEOUT_MS",
        default_value_t = Limits::default().request_timeout_ms,
        value_name = "MS"
    )]
    pub request_timeout_ms: u64,
    /// Longest wait for the head of a request, and between two requests of a connection, in
    /// milliseconds; then the connection is closed.
    #[arg(
        long,
        env = "ONCEWARD_HEADER_TIMEOUT_MS",
        default_value_t = Limits::default().header_timeout_ms,
        value_name = "MS"
    )]
    pub header_timeout_ms: u64,
    /// Longest wait for a client that does not take its answer, in milliseconds; then the
    /// connection is closed.
    #[arg(
        long,
        env = "ONCEWARD_SEND_TIMEOUT_MS",
        default_value_t = Limits::default().send_timeout_ms,
        value_name = "MS"
    )]
    pub send_timeout_ms: u64,
    /// Requests answered at the same time; one more is answered 503 at once.
    #[arg(
        long,
        env = "ONCEWARD_MAX_REQUESTS",
        default_value_t = Limits::default().max_requests,
        value_name = "N"
    )]
    pub max_requests: u64,
    /// Connections open at the same time; one more is answered 503 and closed.
    #[arg(
        long,
        env = "ONCEWARD_MAX_CONNECTIONS",
        default_value_t = Limits::default().max_connections,
        value_name = "N"
    )]
    pub max_connections: u64,
    /// Largest body of a request, in bytes; a larger one is answered 413.
    #[arg(
        long,
        env = "ONCEWARD_MAX_BODY_BYTES",
        default_value_t = Limits::default().max_body_bytes,
        value_name = "BYTES"
    )]
    pub max_body_bytes: u64,
    /// Longest path with query, in bytes; a longer one is answered 414.
    #[arg(
        long,
        env = "ONCEWARD_MAX_URI_BYTES",
        default_value_t = Limits::default().max_uri_bytes,
        value_name = "BYTES"
    )]
    pub max_uri_bytes: u64,
    /// All header fields of a request together, in bytes; more is answered 431.
    #[arg(
        long,
        env = "ONCEWARD_MAX_HEADER_BYTES",
        default_value_t = Limits::default().max_header_bytes,
        value_name = "BYTES"
    )]
    pub max_header_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_timeout_ms: 10_000,
            header_timeout_ms: 10_000,
            send_timeout_ms: 10_000,
            max_requests: 256,
            // Below the 1,024 open files that many systems allow, with room for databases and Kafka.
            max_connections: 768,
            max_body_bytes: 64 * 1024,
            max_uri_bytes: 8 * 1024,
            max_header_bytes: 16 * 1024,
        }
    }
}

impl Limits {
    /// Everything that is wrong with these settings; empty if they are fit to serve by.
    pub fn validate(&self) -> Vec<String> {
        const TIME_MS: RangeInclusive<u64> = 1..=600_000;
        const COUNT: RangeInclusive<u64> = 1..=100_000;
        const HEAD_BYTES: RangeInclusive<u64> = 256..=65_535;
        let rules = [
            ("request_timeout_ms", self.request_timeout_ms, TIME_MS),
            ("header_timeout_ms", self.header_timeout_ms, TIME_MS),
            ("send_timeout_ms", self.send_timeout_ms, TIME_MS),
            ("max_requests", self.max_requests, COUNT),
            ("max_connections", self.max_connections, COUNT),
            ("max_body_bytes", self.max_body_bytes, 0..=64 * 1024 * 1024),
            ("max_uri_bytes", self.max_uri_bytes, HEAD_BYTES),
            ("max_header_bytes", self.max_header_bytes, HEAD_BYTES),
        ];
        rules
            .into_iter()
            .filter(|(_, value, allowed)| !allowed.contains(value))
            .map(|(name, _, allowed)| {
                format!("{name} must be {} to {}", allowed.start(), allowed.end())
            })
            .collect()
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }
    pub(crate) fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms)
    }
    pub(crate) fn send_timeout(&self) -> Duration {
        Duration::from_millis(self.send_timeout_ms)
    }
}

/// A limit as the machine counts.
pub(crate) fn size(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::Limits;

    #[test]
    fn the_defaults_are_sound_and_every_problem_is_told_at_once() {
        assert_eq!(Limits::default().validate(), Vec::<String>::new());
        let wrong = Limits {
            request_timeout_ms: 0,
            max_requests: 0,
            max_uri_bytes: 1,
            ..Limits::default()
        };
        assert_eq!(
            wrong.validate(),
            [
                "request_timeout_ms must be 1 to 600000",
                "max_requests must be 1 to 100000",
                "max_uri_bytes must be 256 to 65535",
            ]
        );
    }
}
