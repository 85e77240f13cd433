//! The database beside the live one.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::SqliteSynchronous;
use sqlx::{Pool, Sqlite};

use super::RebuildError;
use crate::schema::{self, Line};
use crate::{Db, Error, OpenOptions, Result, SourceName, sqlite_options};

/// Longest transaction of the shadow, whose only writer is the rebuild.
const WRITE_TIME_LIMIT: Duration = Duration::from_secs(120);
/// Lines of migrations with such a bookkeeping table are a library's.
const LIBRARY: &str = "_onceward";

/// A new SQLite file with a service's tables.
#[derive(Debug)]
pub struct Shadow {
    /// The database.
    pub db: Db<Sqlite>,
    /// The service's own tables, without those of the libraries.
    pub tables: Vec<String>,
}

impl Shadow {
    /// Makes the file, with the library's tables and those of `lines`.
    ///
    /// # Errors
    /// [`RebuildError::Exists`] unless there is nothing at `file`, or an empty file; else what SQLite says.
    pub async fn create(
        file: &Path,
        source: &SourceName,
        lines: &[Line],
    ) -> Result<Self, RebuildError> {
        if std::fs::metadata(file).is_ok_and(|found| found.len() > 0) {
            return Err(RebuildError::Exists(file.display().to_string()));
        }
        // One that a power cut has damaged is made again.
        let connect = sqlite_options("sqlite:")?
            .filename(file)
            .create_if_missing(true)
            .synchronous(SqliteSynchronous::Off);
        let pool = Pool::connect_with(connect).await;
        let options = OpenOptions {
            write_time_limit: WRITE_TIME_LIMIT,
        };
        let db = Db::with_options(pool.map_err(Error::database("shadow"))?, options);
        schema::migrate(db.pool(), source).await?;
        let mut own = Vec::new();
        for line in lines {
            let before = tables(db.pool()).await?;
            line.migrate(db.pool()).await?;
            if !line.bookkeeping.starts_with(LIBRARY) {
                let after = tables(db.pool()).await?;
                let made = after.difference(&before);
                own.extend(made.filter(|table| *table != line.bookkeeping).cloned());
            }
        }
        Ok(Self { db, tables: own })
    }
}

async fn tables(pool: &Pool<Sqlite>) -> Result<BTreeSet<String>> {
    let found: Vec<String> = sqlx::query_scalar(
        "select name from sqlite_master where type = 'table' and name not like 'sqlite_%'",
    )
    .fetch_all(pool)
    .await
    .map_err(Error::database("tables read"))?;
    Ok(found.into_iter().collect())
}
