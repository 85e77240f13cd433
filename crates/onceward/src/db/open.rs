//! Connections with the right settings.

use std::str::FromStr;
use std::time::Duration;

use sqlx::pool::PoolOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, Postgres, Sqlite};

use super::{Db, OpenOptions, connect_trouble};
use crate::secret::check_settings;
use crate::{Error, Result};

/// Connections for reads.
const READERS: u32 = 5;
/// Longest wait for a read connection, and on SQLite for another process's write lock.
const WAIT: Duration = Duration::from_secs(5);

impl Db<Sqlite> {
    /// Opens `sqlite:` URLs: WAL, `synchronous=FULL` (a lesser one lets a row be published that a
    /// power loss then undoes), foreign keys, 5 s busy timeout. The file must exist, unless the URL says
    /// `?mode=rwc`.
    ///
    /// # Errors
    /// [`Error::Database`] if the URL is none or the file can't be opened.
    pub async fn open(url: &str, options: OpenOptions) -> Result<Self> {
        let connect = sqlite_options(url)?;
        let pool = sqlite_pool_options()
            .max_connections(READERS)
            .acquire_timeout(WAIT)
            .connect_with(connect)
            .await
            .map_err(Error::database("connect"))?;
        Ok(Self::with_options(pool, options))
    }
}

impl Db<Postgres> {
    /// Opens `postgres:` URLs: `synchronous_commit=on`, a transaction that idles for 10 s is ended,
    /// a lock is waited for 5 s at most.
    ///
    /// # Errors
    /// [`Error::Connect`] says what to mend; [`Error::UnknownUrlSetting`], [`Error::Database`] for a URL that
    /// is none.
    pub async fn open(url: &str, options: OpenOptions) -> Result<Self> {
        let connect = postgres_options(url)?;
        let pool = PoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(WAIT)
            .connect_with(connect.clone())
            .await
            .map_err(|error| Error::Connect(connect_trouble(&connect, &error)))?;
        Ok(Self::with_options(pool, options))
    }
}

/// How this library connects to a SQLite file.
///
/// # Errors
/// [`Error::Database`] if the URL is none.
pub fn sqlite_options(url: &str) -> Result<SqliteConnectOptions> {
    Ok(SqliteConnectOptions::from_str(url)
        .map_err(Error::database("database URL"))?
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(WAIT))
}

/// Where to begin with a pool of your own over a SQLite file: it replaces connections that are no longer fit.
///
/// After some errors, that of a full disk among them, SQLite rolls back by itself. sqlx takes the
/// connection for one that is in a transaction still, and begins no other on it, ever.
pub fn sqlite_pool_options() -> SqlitePoolOptions {
    SqlitePoolOptions::new().before_acquire(|conn, _| {
        let is_fit = !conn.is_in_transaction();
        Box::pin(async move { Ok(is_fit) })
    })
}

/// The URL as the driver understands it, without settings that it would ignore.
pub(crate) fn parse_postgres(url: &str) -> Result<PgConnectOptions> {
    check_settings(url)?;
    PgConnectOptions::from_str(url).map_err(Error::database("database URL"))
}

/// How this library connects to Postgres.
///
/// # Errors
/// [`Error::UnknownUrlSetting`]; [`Error::Database`] if the URL is none.
pub fn postgres_options(url: &str) -> Result<PgConnectOptions> {
    Ok(parse_postgres(url)?.application_name("onceward").options([
        ("synchronous_commit", "on"),
        ("idle_in_transaction_session_timeout", "10s"),
        ("lock_timeout", "5s"),
    ]))
}
