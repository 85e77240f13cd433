//! Opens databases: for reading so that nothing is created, locked or held up; for writing only
//! where a command writes.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use auditor::Connection;
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;

use crate::locate::{Place, Source};

/// Runs the same sqlx code on either database.
macro_rules! on {
    ($connection:expr, $c:ident => $body:expr) => {
        match $connection {
            auditor::Connection::Sqlite($c) => $body,
            auditor::Connection::Postgres($c) => $body,
        }
    };
}
pub(crate) use on;

/// A database that can be read.
#[derive(Debug)]
pub(crate) struct Reading<'p> {
    pub source: &'p Source,
    pub connection: Connection,
}

/// Opens every database named, and says of each that can't be read why.
pub(crate) async fn open_all<'p>(
    place: &'p Place,
    only: Option<&str>,
) -> Result<(Vec<Reading<'p>>, Vec<Unreadable>)> {
    let (mut open, mut failed) = (vec![], vec![]);
    for source in place.only(only)? {
        match open_for_reading(&source.url).await {
            Ok(connection) => open.push(Reading { source, connection }),
            Err(why) => failed.push(Unreadable {
                source: source.name.clone(),
                why: format!("{why:#}"),
            }),
        }
    }
    Ok((open, failed))
}

/// A database that can't be read, and why.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Unreadable {
    pub source: String,
    pub why: String,
}

/// One line for stderr per database that was left out.
pub(crate) fn talk(failed: &[Unreadable]) -> Vec<String> {
    failed
        .iter()
        .map(|f| format!("note: source {} is left out: {}", f.source, f.why))
        .collect()
}

/// Opens for reading and checks that our tables are there.
pub(crate) async fn open_for_reading(url: &str) -> Result<Connection> {
    if let Some(file) = missing_file(url) {
        bail!("{file} does not exist");
    }
    let mut connection = auditor::open_read_only(url).await?;
    if let Connection::Postgres(c) = &mut connection {
        // A look must never hold the janitor or a migration up.
        sqlx::raw_sql("set statement_timeout = '30s'; set lock_timeout = '2s'")
            .execute(c)
            .await?;
    }
    if !is_migrated(&mut connection).await? {
        bail!("not migrated; run `onceward schema migrate URL --source NAME`");
    }
    Ok(connection)
}

/// Whether the library's tables are there.
async fn is_migrated(connection: &mut Connection) -> Result<bool> {
    Ok(has_table(connection, "outbox_source").await?
        && has_table(connection, "consumer_offset").await?)
}

/// Whether a table of this name is there.
pub(crate) async fn has_table(connection: &mut Connection, name: &str) -> Result<bool> {
    let count: i64 = match connection {
        Connection::Sqlite(c) => {
            sqlx::query_scalar("select count(*) from sqlite_master where name = $1")
                .bind(name)
                .fetch_one(c)
                .await?
        }
        Connection::Postgres(c) => sqlx::query_scalar(
            "select count(*) from pg_class where oid = to_regclass($1) and relkind in ('r','v')",
        )
        .bind(name)
        .fetch_one(c)
        .await?,
    };
    Ok(count > 0)
}

/// The database file, if the URL names one that is not there.
fn missing_file(url: &str) -> Option<String> {
    if !url.starts_with("sqlite:") {
        return None;
    }
    let options: SqliteConnectOptions = url.parse().ok()?;
    let file = options.get_filename();
    (!file.exists()).then(|| file.display().to_string())
}

/// Opens for writing one or two rows. Creates no database.
pub(crate) async fn open_for_writing(url: &str) -> Result<Connection> {
    let mut connection = if url.starts_with("sqlite:") {
        let options: SqliteConnectOptions = url.parse()?;
        let options = options
            .create_if_missing(false)
            .synchronous(sqlx::sqlite::SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        Connection::Sqlite(options.connect().await.context("can't open for writing")?)
    } else if url.starts_with("postgres") {
        let options: PgConnectOptions = url.parse()?;
        let options = options.application_name("onceward").options([
            ("statement_timeout", "10s"),
            ("lock_timeout", "5s"),
            ("idle_in_transaction_session_timeout", "10s"),
        ]);
        let connecting = tokio::time::timeout(Duration::from_secs(5), options.connect());
        Connection::Postgres(
            connecting
                .await
                .context("no answer from Postgres in 5 s")??,
        )
    } else {
        bail!("a database URL starts with sqlite: or postgres:");
    };
    if !is_migrated(&mut connection).await? {
        bail!("not migrated; run `onceward schema migrate URL --source NAME`");
    }
    Ok(connection)
}
