//! Opens databases: for reading so that nothing is created, locked or held up; for writing only
//! where a command writes.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use auditor::Connection;
use onceward::source::DatabaseKind;
use onceward::{DatabaseUrl, connect_trouble};
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

/// Opens every database named, or only the one of this name, and says of each that can't be read why.
pub(crate) async fn open_all<'p>(
    place: &'p Place,
    only: Option<&str>,
) -> Result<(Vec<Reading<'p>>, Vec<Unreadable>)> {
    let (mut open, mut failed) = (vec![], vec![]);
    let wanted = match only {
        Some(name) => std::slice::from_ref(place.source(name)?),
        None => &place.sources,
    };
    for source in wanted {
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
pub(crate) async fn open_for_reading(url: &DatabaseUrl) -> Result<Connection> {
    if let Some(file) = missing_file(url) {
        bail!("{file} does not exist");
    }
    let mut connection = look_into(url).await?;
    if let Connection::Postgres(c) = &mut connection {
        // A look must never hold the janitor or a migration up.
        sqlx::raw_sql("set statement_timeout = '30s'; set lock_timeout = '2s'")
            .execute(c)
            .await?;
    }
    must_be_migrated(&mut connection).await?;
    Ok(connection)
}

/// Opens for reading, whatever tables are there.
pub(crate) async fn look_into(url: &DatabaseUrl) -> Result<Connection> {
    url.check()?;
    let opened = auditor::open_read_only(url.reveal()).await;
    opened.map_err(|error| said_clearly(url, error))
}

/// What the library says of a connection that does not come about, if it is that.
pub(crate) fn said_clearly(url: &DatabaseUrl, error: anyhow::Error) -> anyhow::Error {
    let Some(below) = error.downcast_ref::<sqlx::Error>() else {
        return error;
    };
    match url.reveal().parse() {
        Ok(options) if url.check().is_ok_and(|kind| kind == DatabaseKind::Postgres) => {
            anyhow!(connect_trouble(&options, below))
        }
        _ => error,
    }
}

/// Refuses a database without the library's tables.
async fn must_be_migrated(connection: &mut Connection) -> Result<()> {
    for table in ["outbox_source", "consumer_offset"] {
        if !has_table(connection, table).await? {
            bail!("not migrated; run `onceward schema migrate URL --source NAME`");
        }
    }
    Ok(())
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
fn missing_file(url: &DatabaseUrl) -> Option<String> {
    if !url.reveal().starts_with("sqlite:") {
        return None;
    }
    let options: SqliteConnectOptions = url.reveal().parse().ok()?;
    let file = options.get_filename();
    (!file.exists()).then(|| file.display().to_string())
}

/// Opens for writing one or two rows. Creates no database.
pub(crate) async fn open_for_writing(url: &DatabaseUrl) -> Result<Connection> {
    let mut connection = match url.check()? {
        DatabaseKind::Sqlite => {
            let options: SqliteConnectOptions = url.reveal().parse()?;
            let options = options
                .create_if_missing(false)
                .synchronous(sqlx::sqlite::SqliteSynchronous::Full)
                .foreign_keys(true)
                .busy_timeout(Duration::from_secs(10));
            Connection::Sqlite(options.connect().await.context("can't open for writing")?)
        }
        DatabaseKind::Postgres => {
            let options: PgConnectOptions = url.reveal().parse()?;
            let options = options.application_name("onceward").options([
                ("statement_timeout", "10s"),
                ("lock_timeout", "5s"),
                ("idle_in_transaction_session_timeout", "10s"),
            ]);
            let connecting = tokio::time::timeout(Duration::from_secs(5), options.connect());
            let connected = connecting.await.context("no answer from Postgres in 5 s")?;
            Connection::Postgres(connected.map_err(|error| said_clearly(url, error.into()))?)
        }
    };
    must_be_migrated(&mut connection).await?;
    Ok(connection)
}
