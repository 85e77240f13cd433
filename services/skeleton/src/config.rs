//! Settings every service has: flags, and environment variables of the same names.

use std::net::SocketAddr;

use clap::Args;

use crate::TelemetryOptions;

/// Where a service listens, which database it has, and its limits.
#[derive(Debug, Clone, Args)]
pub struct ServerOptions {
    /// Database: sqlite:///path/file.db or postgres://user:password@host:port/name.
    #[arg(
        long,
        env = "ONCEWARD_DATABASE",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub database: String,
    /// Address of the HTTP server; each service has a default port on 127.0.0.1.
    #[arg(long, env = "ONCEWARD_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Longest time a request may take, in milliseconds; then it is answered 503.
    #[arg(
        long,
        env = "ONCEWARD_REQUEST_TIMEOUT_MS",
        default_value_t = 10_000,
        value_name = "MS"
    )]
    pub request_timeout_ms: u64,
    /// Longest wait for requests and tasks at the end, in milliseconds.
    #[arg(
        long,
        env = "ONCEWARD_DRAIN_TIMEOUT_MS",
        default_value_t = 5_000,
        value_name = "MS"
    )]
    pub drain_timeout_ms: u64,
    /// Logs and traces.
    #[command(flatten)]
    pub telemetry: TelemetryOptions,
}
