//! Reads rows by rusqlite on a blocking thread: columns are borrowed from SQLite's own pages and copied
//! once. sqlx would make an object of each row and send it over a channel, which costs more than
//! SQLite's reading. Both link the same SQLite, so they share its locks in this process.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row};
use uuid::Uuid;

use super::super::mirror::corrupt;
use super::super::row::{RawRow, RowCollector};
use super::super::{FetchLimits, OutboxRow, SourceError};
use crate::MessageId;

/// One statement, so one snapshot: the last row passed comes first, then what follows it.
const FETCH: &str = "select seq, message_id, aggregate_type, aggregate_id, message_type, topic, \
     message_key, case when seq > ?2 then payload end, headers, occurred_at \
     from outbox where seq >= ?1 order by seq limit ?3";

/// Names the operation in errors.
const FETCHING: &str = "outbox fetch";

/// A connection of its own, opened when first used.
#[derive(Debug, Default)]
pub(super) struct Reader {
    /// The mutex is never waited for: `SourceStore` is used by one at a time. It makes this `Sync`.
    conn: Mutex<Option<Connection>>,
}

/// What a fetch found.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) rows: Vec<OutboxRow>,
    pub(super) more: bool,
    /// Id of the last row passed, if it is still there.
    pub(super) last_found: Option<MessageId>,
}

impl Reader {
    /// Rows behind `from`. `last` is the last row passed.
    pub(super) async fn read(
        &mut self,
        path: &Path,
        from: i64,
        last: Option<i64>,
        limits: FetchLimits,
    ) -> Result<Read, SourceError> {
        let kept = self
            .conn
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let path = path.to_owned();
        // Given up half-way, the thread closes the connection; the next fetch opens one.
        let reading = blocking(FETCHING, move || {
            let conn = match kept {
                Some(conn) => conn,
                None => open(&path).map_err(failed(FETCHING))?,
            };
            let read = read(&conn, from, last, limits)?;
            Ok((conn, read))
        });
        let (conn, read) = reading.await?;
        *self.conn.get_mut().unwrap_or_else(PoisonError::into_inner) = Some(conn);
        Ok(read)
    }
}

/// For `map_err`: names the operation that failed.
pub(super) fn failed(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> SourceError {
    move |error| SourceError::database(doing)(sqlx::Error::Io(std::io::Error::other(error)))
}

/// Runs `work` on a thread that may wait.
pub(super) async fn blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| SourceError::database(doing)(sqlx::Error::Io(error.into())))?
}

/// A connection that only reads.
pub(super) fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(Duration::from_secs(5))?;
    conn.pragma_update(None, "query_only", true)?;
    Ok(conn)
}

fn read(
    conn: &Connection,
    from: i64,
    last: Option<i64>,
    limits: FetchLimits,
) -> Result<Read, SourceError> {
    let max_rows = usize::try_from(limits.max_rows.max(1)).unwrap_or(usize::MAX);
    let start = last.unwrap_or(from.saturating_add(1));
    let most = i64::from(limits.max_rows.max(1)).saturating_add(2);
    let mut statement = conn.prepare_cached(FETCH).map_err(failed(FETCHING))?;
    let mut found = statement
        .query((start, from, most))
        .map_err(failed(FETCHING))?;
    let mut rows = RowCollector::default();
    let (mut bytes, mut more, mut last_found) = (0_u64, false, None);
    while let Some(row) = found.next().map_err(failed(FETCHING))? {
        let seq: i64 = row.get(0).map_err(failed(FETCHING))?;
        if seq <= from {
            if last == Some(seq) {
                last_found = Some(message_id(row)?);
            }
            continue;
        }
        let row = raw(row, seq)?;
        bytes = bytes.saturating_add(u64::try_from(row.payload.len()).unwrap_or(u64::MAX));
        if rows.len() == max_rows || (bytes > limits.max_bytes && rows.len() > 0) {
            more = true;
            break;
        }
        rows.push(&row);
    }
    Ok(Read {
        rows: rows.finish().map_err(|e| corrupt("outbox row", &e))?,
        more,
        last_found,
    })
}

fn raw<'a>(row: &'a Row<'_>, seq: i64) -> Result<RawRow<'a>, SourceError> {
    Ok(RawRow {
        seq,
        message_id: message_id(row)?,
        aggregate_type: bytes(row, 2)?,
        aggregate_id: bytes(row, 3)?,
        message_type: bytes(row, 4)?,
        topic: bytes(row, 5)?,
        message_key: nullable(row, 6)?,
        payload: bytes(row, 7)?,
        headers: bytes(row, 8)?,
        occurred_at: row.get(9).map_err(failed(FETCHING))?,
    })
}

fn message_id(row: &Row<'_>) -> Result<MessageId, SourceError> {
    let id = Uuid::from_slice(bytes(row, 1)?);
    Ok(MessageId(id.map_err(|e| corrupt("message_id", &e))?))
}

fn bytes<'a>(row: &'a Row<'_>, column: usize) -> Result<&'a [u8], SourceError> {
    nullable(row, column)?.ok_or_else(|| corrupt("outbox row", &format!("no column {column}")))
}

fn nullable<'a>(row: &'a Row<'_>, column: usize) -> Result<Option<&'a [u8]>, SourceError> {
    match row.get_ref(column).map_err(failed(FETCHING))? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Ok(Some(bytes)),
        ValueRef::Null => Ok(None),
        other => Err(corrupt(
            "outbox row",
            &format!("column {column} holds {}", other.data_type()),
        )),
    }
}
