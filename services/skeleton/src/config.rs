//! Settings every service has: flags, and environment variables of the same names.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use onceward::DatabaseUrl;
use onceward::secret::SecretFileError;
use onceward_http::Limits;

use crate::{OperatorOptions, TelemetryOptions};

/// Which database, by its URL or by a file that holds the URL.
#[derive(Debug, Clone, Args)]
pub struct DatabaseOptions {
    /// Database: sqlite:///path/file.db or postgres://user:password@host:port/name. With a password
    /// better in a file: command lines and environments can be seen by others.
    #[arg(
        long,
        env = "ONCEWARD_DATABASE",
        hide_env_values = true,
        required_unless_present = "database_file",
        value_name = "URL"
    )]
    pub database: Option<DatabaseUrl>,
    /// File with that URL.
    #[arg(
        long,
        env = "ONCEWARD_DATABASE_FILE",
        conflicts_with = "database",
        value_name = "FILE"
    )]
    pub database_file: Option<PathBuf>,
}

impl DatabaseOptions {
    /// The URL, read from its file if it is in one.
    ///
    /// # Errors
    /// A file that can't be read, is empty or no text; see [`onceward::secret::read_secret`].
    pub fn url(&self) -> Result<DatabaseUrl, SecretFileError> {
        match (&self.database, &self.database_file) {
            (Some(url), _) => Ok(url.clone()),
            (None, Some(file)) => DatabaseUrl::from_file(file),
            // The command line asks for one of them; as a library, an empty URL is refused later.
            (None, None) => Ok(DatabaseUrl::from("")),
        }
    }
}

/// Where a service listens, which database it has, and its limits.
#[derive(Debug, Clone, Args)]
pub struct ServerOptions {
    /// Which database.
    #[command(flatten)]
    pub database: DatabaseOptions,
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
