//! Settings every service has: flags, and environment variables of the same names.

use std::net::SocketAddr;

use clap::Args;
use onceward_http::Limits;

use crate::{OperatorOptions, TelemetryOptions};

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
    /// What a client may cost.
    #[command(flatten)]
    pub limits: Limits,
    /// Who may use operator routes.
    #[command(flatten)]
    pub operators: OperatorOptions,
}
