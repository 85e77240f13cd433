//! SQLite: writers are serialised, so commit order is `seq` order and the cursor is the last `seq`.

mod reader;
mod wake;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Sqlite};
use uuid::Uuid;

use super::dialect::{Dialect, OwnerSign, Passed, PassedRows};
use super::mirror::corrupt;
use super::row::BatchEnd;
use super::takeover::same_row;
use super::{
    Backlog, Batch, DatabaseKind, FetchLimits, Finding, Identity, JanitorChunk, Loss, Mirror,
    RelayEpoch, SourceError,
};
use crate::{Cursor, LastRow, MessageId, Micros, SqliteCursor, Tx, sqlite_options};
use reader::{Read as Found, Reader};
pub use wake::SqliteWake;

/// What a store remembers of its file.
#[derive(Debug)]
pub struct SqliteLocal {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Held while this process owns the source, and while it tries to.
    lock: Option<File>,
    reader: Reader,
}

fn options(url: &str) -> Result<SqliteConnectOptions, SourceError> {
    Ok(sqlite_options(url)?
        .create_if_missing(false)
        .shared_cache(false)
        .disable_statement_logging())
}

/// Device and inode, by `stat` alone: opening and closing the file here would drop SQLite's POSIX
/// locks in the whole process.
fn place(path: &Path) -> Result<(u64, u64), SourceError> {
    let found =
        std::fs::metadata(path).map_err(|e| SourceError::database("stat")(sqlx::Error::Io(e)))?;
    Ok((found.dev(), found.ino()))
}

fn cursor_seq(cursor: &Cursor) -> Result<i64, SourceError> {
    match cursor {
        Cursor::Sqlite(SqliteCursor { seq }) => Ok(*seq),
        Cursor::Postgres(_) => Err(corrupt("cursor", &"a Postgres cursor on SQLite")),
    }
}

impl SqliteLocal {
    fn lock_path(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".relay-lock");
        PathBuf::from(name)
    }

    /// Takes the lock unless it is held already. Errors count as "not got".
    fn try_lock(&mut self) -> bool {
        if self.lock.is_some() {
            return true;
        }
        let opened = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(self.lock_path());
        match opened.map(|file| file.try_lock().map(|()| file)) {
            Ok(Ok(file)) => {
                self.lock = Some(file);
                true
            }
            Ok(Err(_held)) => false,
            Err(error) => {
                tracing::debug!(path = %self.lock_path().display(), error = %error,
                    "no lock file; take-over waits for the lease");
                false
            }
        }
    }

    /// The epoch of the owner that last held the lock.
    fn locked_epoch(&mut self) -> Option<i64> {
        let file = self.lock.as_mut()?;
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).ok()?;
        file.read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
    }
}

impl Dialect for Sqlite {
    type Local = SqliteLocal;
    type Wake = SqliteWake;
    const CLOCK: &'static str = "select cast(unixepoch('subsec') * 1000000 as integer)";
    const BEGIN_SNAPSHOT: &'static str = "BEGIN";
    const KIND: DatabaseKind = DatabaseKind::Sqlite;

    async fn connect(
        url: &str,
        _application: &str,
    ) -> Result<(SqliteConnection, SqliteLocal), SourceError> {
        let options = options(url)?;
        let path = options.get_filename().to_path_buf();
        let (device, inode) = place(&path)?;
        let conn = options
            .connect()
            .await
            .map_err(SourceError::database("connect"))?;
        let local = SqliteLocal {
            path,
            device,
            inode,
            lock: None,
            reader: Reader::default(),
        };
        Self::check_place(&local)?;
        Ok((conn, local))
    }

    fn check_place(local: &SqliteLocal) -> Result<(), SourceError> {
        if place(&local.path)? == (local.device, local.inode) {
            return Ok(());
        }
        Err(Loss::FileReplaced {
            path: local.path.clone(),
        }
        .into())
    }

    fn adopt_local(kept: &mut SqliteLocal, fresh: SqliteLocal) {
        kept.reader = fresh.reader;
    }

    async fn check_primary(
        _conn: &mut SqliteConnection,
        local: &SqliteLocal,
    ) -> Result<(), SourceError> {
        Self::check_place(local)
    }

    async fn check_identity(
        conn: &mut SqliteConnection,
        local: &SqliteLocal,
        _identity: &Identity,
    ) -> Result<(), SourceError> {
        Self::check_primary(conn, local).await
    }

    // Rows are numbered by the file itself: nothing about them changes with its place.
    async fn rows_are_foreign(
        _conn: &mut SqliteConnection,
        _identity: &Identity,
        _cursor: &Cursor,
    ) -> Result<bool, SourceError> {
        Ok(false)
    }
    fn renumbered(_passed: PassedRows) -> Cursor {
        Self::genesis()
    }
    async fn renumber(
        _tx: &mut Tx<'_, Self>,
        _cursor: &Cursor,
        _mirror: Option<&Mirror>,
        _last: Option<LastRow>,
    ) -> Result<(), SourceError> {
        Ok(())
    }
    async fn hidden_rows(
        _conn: &mut SqliteConnection,
        _cursor: &Cursor,
        _last: Option<LastRow>,
    ) -> Result<i64, SourceError> {
        Ok(0)
    }

    async fn server_identity(
        _conn: &mut SqliteConnection,
    ) -> Result<(Option<String>, Option<String>), SourceError> {
        Ok((None, None))
    }

    fn owner_sign(local: &mut SqliteLocal, current: RelayEpoch) -> OwnerSign {
        if local.try_lock() && local.locked_epoch() == Some(current.0) {
            OwnerSign::Dead
        } else {
            OwnerSign::Unknown
        }
    }

    fn mark_owner(local: &mut SqliteLocal, epoch: RelayEpoch) {
        if !local.try_lock() || local.locked_epoch() == Some(epoch.0) {
            return;
        }
        // The epoch tells whose lock it was: an owner that could not get the lock (its frozen
        // predecessor holds it) must not be taken for dead once that one is gone.
        let Some(file) = local.lock.as_mut() else {
            return;
        };
        let written = file
            .seek(SeekFrom::Start(0))
            .and_then(|_| file.set_len(0))
            .and_then(|()| writeln!(file, "{}", epoch.0));
        if let Err(error) = written {
            tracing::debug!(error = %error, "lock file not written");
        }
    }

    fn unmark_owner(local: &mut SqliteLocal) {
        local.lock = None;
    }

    async fn findings(conn: &mut SqliteConnection) -> Result<Vec<Finding>, SourceError> {
        let failed = || SourceError::database("settings lookup");
        let mut findings = Vec::new();
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode")
            .fetch_one(&mut *conn)
            .await
            .map_err(failed())?;
        if !mode.eq_ignore_ascii_case("wal") {
            findings.push(Finding::refusal(
                format!("journal_mode is {mode}"),
                "put the file on a local file system, where it can be WAL",
            ));
        }
        // `synchronous` is each connection's own: that of the writers can't be seen from here.
        Ok(findings)
    }

    fn genesis() -> Cursor {
        Cursor::Sqlite(SqliteCursor { seq: 0 })
    }

    async fn end(conn: &mut SqliteConnection) -> Result<(Cursor, Option<LastRow>), SourceError> {
        let found: Option<(i64, Uuid)> =
            sqlx::query_as("select seq, message_id from outbox order by seq desc limit 1")
                .fetch_optional(&mut *conn)
                .await
                .map_err(SourceError::database("last row lookup"))?;
        if let Some((seq, id)) = found {
            let last = LastRow {
                seq,
                message_id: MessageId(id),
            };
            return Ok((Cursor::Sqlite(SqliteCursor { seq }), Some(last)));
        }
        // An empty outbox has had rows; its next number is above all of them.
        let seq: Option<i64> =
            sqlx::query_scalar("select seq from sqlite_sequence where name = 'outbox'")
                .fetch_optional(conn)
                .await
                .map_err(SourceError::database("last row lookup"))?;
        let seq = seq.unwrap_or(0);
        Ok((Cursor::Sqlite(SqliteCursor { seq }), None))
    }

    async fn fetch(
        _conn: &mut SqliteConnection,
        local: &mut SqliteLocal,
        from: &Cursor,
        last: Option<LastRow>,
        limits: FetchLimits,
    ) -> Result<Batch, SourceError> {
        Self::check_place(local)?;
        let from_seq = cursor_seq(from)?;
        let Found {
            rows,
            more,
            last_found,
        } = local
            .reader
            .read(&local.path, from_seq, last.map(|row| row.seq), limits)
            .await?;
        if let Some(last) = last {
            same_row(last, last_found)?;
        }
        if rows.is_empty() {
            return Ok(Batch::empty(from.clone()));
        }
        Ok(Batch {
            rows,
            more,
            end: BatchEnd::Sqlite { from: from_seq },
        })
    }

    async fn between(
        tx: &mut Tx<'_, Self>,
        from: &Cursor,
        to: &Cursor,
    ) -> Result<Passed, SourceError> {
        let failed = || SourceError::database("verification");
        let mut ids = sqlx::query_scalar::<_, Uuid>(
            "select message_id from outbox where seq > $1 and seq <= $2",
        )
        .bind(cursor_seq(from)?)
        .bind(cursor_seq(to)?)
        .fetch(&mut **tx);
        let mut passed = Passed::default();
        while let Some(id) = ids.try_next().await.map_err(failed())? {
            passed.add(MessageId(id));
        }
        Ok(passed)
    }

    async fn backlog(
        conn: &mut SqliteConnection,
        from: &Cursor,
        cap: u32,
    ) -> Result<Backlog, SourceError> {
        let (rows, oldest): (i64, Option<i64>) = sqlx::query_as(
            "select count(*), min(occurred_at) from \
             (select occurred_at from outbox where seq > $1 order by seq limit $2)",
        )
        .bind(cursor_seq(from)?)
        .bind(i64::from(cap))
        .fetch_one(conn)
        .await
        .map_err(SourceError::database("backlog count"))?;
        Ok(Backlog::new(rows, oldest, cap))
    }

    async fn copies_passed(
        conn: &mut SqliteConnection,
        cursor: &Cursor,
        topic: &str,
        message_key: Option<&str>,
        message_id: Option<Uuid>,
    ) -> Result<bool, SourceError> {
        let ahead: i64 = sqlx::query_scalar(
            "select count(*) from outbox_dead_letter where state = 'parked' and topic = $1 \
             and ((message_key is null and message_id = $3) or message_key = $2) and seq > $4",
        )
        .bind(topic)
        .bind(message_key)
        .bind(message_id)
        .bind(cursor_seq(cursor)?)
        .fetch_one(conn)
        .await
        .map_err(SourceError::database("copies lookup"))?;
        Ok(ahead == 0)
    }

    async fn purge(
        tx: &mut Tx<'_, Self>,
        mirror: &Mirror,
        older_than: Micros,
        max_rows: u32,
    ) -> Result<JanitorChunk, SourceError> {
        // The window keeps the call cheap when the oldest rows are still young.
        let deleted: Vec<i64> = sqlx::query_scalar(
            "delete from outbox where seq in (select seq from (select seq, occurred_at \
             from outbox where seq <= $1 order by seq limit $4) \
             where seq <> $2 and occurred_at < $3 order by seq limit $5) returning seq",
        )
        .bind(cursor_seq(&mirror.cursor)?)
        .bind(mirror.last.map_or(0, |row| row.seq))
        .bind(older_than)
        .bind(i64::from(max_rows).saturating_add(1))
        .bind(i64::from(max_rows))
        .fetch_all(&mut **tx)
        .await
        .map_err(SourceError::database("purge"))?;
        Ok(JanitorChunk::of(&deleted))
    }

    async fn wake(url: &str) -> Result<SqliteWake, SourceError> {
        SqliteWake::watch(url).await
    }
}
