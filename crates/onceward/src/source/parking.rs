//! Rows that Kafka refuses for what they are: their key is parked, copies kept, later rows of the
//! key queue behind them until somebody asks for replay or discard.
//!
//! Parking spans two systems. (a) The Kafka transaction is aborted; (b) [`SourceStore::park`]
//! stores key and copies in one guarded transaction; (c) a Kafka transaction publishes the other
//! rows with the progress that passes the parked ones. Publishing always skips parked rows, so a
//! crash between (b) and (c) only means that (c) is done by the next owner.

use std::collections::HashSet;

use sqlx::{Database, Row};
use uuid::Uuid;

use super::lease::{clock, commit, rollback};
use super::mirror::corrupt;
use super::row::{RawRow, RowCollector};
use super::{Dialect, FetchLimits, OutboxRow, RelayEpoch, SourceError, SourceStore};
use crate::{Cursor, MessageId, QueryResult, ReplayProgress, RequestKind, Tx, breach};

/// What publishing must skip.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParkedKeys {
    keys: HashSet<(String, String)>,
    /// Rows without a key are parked alone.
    rows: HashSet<MessageId>,
}

impl ParkedKeys {
    /// Whether this row is withheld.
    pub fn contains(&self, row: &OutboxRow) -> bool {
        if self.keys.is_empty() && self.rows.is_empty() {
            return false;
        }
        match row.message_key() {
            Some(_) if breach::is_broken(breach::KEY_WAITS) => self.rows.contains(&row.message_id),
            Some(key) => self.keys.contains(&(row.topic().into(), key.into())),
            None => self.rows.contains(&row.message_id),
        }
    }
    /// Adds the key of this row (or the row itself, if it has none).
    pub fn insert(&mut self, row: &OutboxRow) {
        match row.message_key() {
            Some(_) if breach::is_broken(breach::KEY_WAITS) => self.rows.insert(row.message_id),
            Some(key) => self.keys.insert((row.topic().into(), key.into())),
            None => self.rows.insert(row.message_id),
        };
    }
    /// Parked keys and rows without a key.
    pub fn len(&self) -> usize {
        self.keys.len() + self.rows.len()
    }
    /// Nothing is parked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A row to park, and why.
#[derive(Debug, Clone, Copy)]
pub struct Parking<'a> {
    /// The row.
    pub row: &'a OutboxRow,
    /// What Kafka said, or "queues behind a parked row".
    pub reason: &'a str,
}

/// A request the owner has taken and numbered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Identity of the row; says nothing about order.
    pub id: i64,
    /// Number given by the owner, ascending.
    pub number: i64,
    /// Replay or discard.
    pub kind: RequestKind,
    /// Topic of the key.
    pub topic: String,
    /// The key; `None` for a row without one.
    pub message_key: Option<String>,
    /// Which row, if it has no key.
    pub message_id: Option<MessageId>,
}

/// Longest key that a progress record names, in bytes: JSON may write six for one, and the record must
/// stay below what the progress topic takes.
const MAX_NAMED_KEY_BYTES: usize = 16_384;

impl Request {
    /// That its copies up to `last_seq` are published, all of them if `done`: for the progress.
    pub fn replayed(&self, last_seq: i64, done: bool) -> ReplayProgress {
        ReplayProgress {
            number: self.number,
            topic: self.topic.clone(),
            message_key: self
                .message_key
                .clone()
                .filter(|key| key.len() <= MAX_NAMED_KEY_BYTES),
            last_seq,
            done,
        }
    }
}

const COPY_COLUMNS: &str = "seq, message_id, aggregate_type, aggregate_id, message_type, topic, \
     message_key, payload, headers, occurred_at";

impl<B: Dialect> SourceStore<B> {
    /// Step (b): parks the keys of `rows` and stores copies, all or nothing. May repeat. Later
    /// rows of a parked key go through here too, before the cursor passes them.
    pub async fn park(
        &mut self,
        epoch: RelayEpoch,
        rows: &[Parking<'_>],
    ) -> Result<(), SourceError> {
        let mut tx = self.begin_guarded(epoch, "park").await?;
        let now = clock::<B>(&mut tx).await?;
        for Parking { row, reason } in rows {
            if let Some(key) = row.message_key() {
                sqlx::query(
                    "insert into outbox_parked_key (topic, message_key, reason, parked_at) \
                     values ($1, $2, $3, $4) on conflict do nothing",
                )
                .bind(row.topic())
                .bind(key)
                .bind(*reason)
                .bind(now)
                .execute(&mut *tx)
                .await
                .map_err(SourceError::database("park"))?;
            }
            insert_copy(&mut tx, row, reason, now).await?;
        }
        // CRASH: before this commit = nothing parked, the batch is tried again; after it = parked
        // but not passed, publishing skips the rows and the next progress passes them.
        commit(tx, "park").await
    }

    /// Everything that publishing must skip.
    pub async fn parked_keys(&mut self) -> Result<ParkedKeys, SourceError> {
        load_parked::<B>(&mut self.conn).await
    }

    /// The request to carry out: the one already running, else the oldest new one, which gets the
    /// number after all given so far (and after `after`, the last one in progress).
    pub async fn next_request(
        &mut self,
        epoch: RelayEpoch,
        after: i64,
    ) -> Result<Option<Request>, SourceError> {
        // Without a lock first: there is nearly never one.
        let waiting: i64 = sqlx::query_scalar(
            "select count(*) from outbox_dead_letter_request where state in ('requested', 'running')",
        )
        .fetch_one(&mut self.conn)
        .await
        .map_err(SourceError::database("request lookup"))?;
        if waiting == 0 {
            return Ok(None);
        }
        let mut tx = self.begin_guarded(epoch, "request start").await?;
        let found = sqlx::query(
            "select id, number, kind, topic, message_key, message_id \
             from outbox_dead_letter_request where state in ('requested', 'running') \
             order by case state when 'running' then 0 else 1 end, id limit 1",
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(SourceError::database("request lookup"))?;
        let Some(row) = found else {
            rollback(tx).await?;
            return Ok(None);
        };
        let columns = || {
            Ok((
                row.try_get::<i64, _>(0)?,
                row.try_get::<Option<i64>, _>(1)?,
                row.try_get::<String, _>(2)?,
                row.try_get::<String, _>(3)?,
                row.try_get::<Option<String>, _>(4)?,
                row.try_get::<Option<Uuid>, _>(5)?,
            ))
        };
        let (id, number, kind, topic, message_key, message_id) =
            columns().map_err(SourceError::database("request lookup"))?;
        let number = match number {
            Some(number) => {
                rollback(tx).await?;
                number
            }
            None => {
                let highest: i64 = sqlx::query_scalar(
                    "select cast(coalesce(max(number), 0) as bigint) \
                     from outbox_dead_letter_request",
                )
                .fetch_one(&mut *tx)
                .await
                .map_err(SourceError::database("request number"))?;
                let number = highest.max(after).saturating_add(1);
                sqlx::query(
                    "update outbox_dead_letter_request set number = $2, state = 'running' \
                     where id = $1",
                )
                .bind(id)
                .bind(number)
                .execute(&mut *tx)
                .await
                .map_err(SourceError::database("request start"))?;
                // CRASH: after this commit = the next owner finds it running and carries on.
                commit(tx, "request start").await?;
                number
            }
        };
        Ok(Some(Request {
            id,
            number,
            kind: RequestKind::stored(&kind),
            topic,
            message_key,
            message_id: message_id.map(MessageId),
        }))
    }

    /// Whether the *committed* cursor has passed every stored copy of the request's key. If not,
    /// publish the next batch first: a copy replayed now would be met again by the cursor after
    /// its key was freed.
    pub async fn copies_passed(
        &mut self,
        committed: &Cursor,
        request: &Request,
    ) -> Result<bool, SourceError> {
        B::copies_passed(
            &mut self.conn,
            committed,
            &request.topic,
            request.message_key.as_deref(),
            request.message_id.map(|id| id.0),
        )
        .await
    }

    /// Parked copies of the request's key behind `after_seq`, in order: as many as the limits allow, one at least.
    pub async fn copies(
        &mut self,
        request: &Request,
        after_seq: i64,
        limits: FetchLimits,
    ) -> Result<Vec<OutboxRow>, SourceError> {
        // Sizes first: thousands of large copies are not read for the few that fit.
        let sql = format!(
            "with copy (id, seq, bytes) as (select message_id, seq, length(payload) \
             from outbox_dead_letter where state = 'parked' and topic = $1 \
             and ((message_key is null and message_id = $3) or message_key = $2) and seq > $4 \
             order by seq limit $5), \
             summed (id, bytes, place) as (select id, sum(bytes) over (order by seq), \
             row_number() over (order by seq) from copy) \
             select {COPY_COLUMNS} from outbox_dead_letter \
             where message_id in (select id from summed where bytes <= $6 or place = 1) order by seq"
        );
        let found = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(request.topic.as_str())
            .bind(request.message_key.as_deref())
            .bind(request.message_id.map(|id| id.0))
            .bind(after_seq)
            .bind(i64::from(limits.max_rows))
            .bind(i64::try_from(limits.max_bytes).unwrap_or(i64::MAX))
            .fetch_all(&mut self.conn)
            .await
            .map_err(SourceError::database("copies read"))?;
        let mut copies = RowCollector::default();
        for row in &found {
            read_row::<B>(row, &mut copies).map_err(SourceError::database("copies read"))?;
        }
        copies.finish().map_err(|e| corrupt("copy", &e))
    }

    /// After a known commit of `replay`: deletes the copies it published and, at `done`, frees the
    /// key and ends the request. May repeat; take-over does it before it loads the parked keys.
    pub async fn finish_replay(
        &mut self,
        epoch: RelayEpoch,
        replay: &ReplayProgress,
    ) -> Result<(), SourceError> {
        let mut tx = self.begin_guarded(epoch, "replay clean-up").await?;
        clean_up_replay(&mut tx, replay).await?;
        // CRASH: before this commit = copies already published are still stored; take-over reads
        // the replay in the progress and cleans up before it publishes anything.
        commit(tx, "replay clean-up").await
    }

    /// Carries out a discard: the copies stay as `discarded`, the key is free. Only once
    /// [`Self::copies_passed`] says so.
    pub async fn discard(
        &mut self,
        epoch: RelayEpoch,
        request: &Request,
    ) -> Result<u64, SourceError> {
        let mut tx = self.begin_guarded(epoch, "discard").await?;
        let discarded = sqlx::query(
            "update outbox_dead_letter set state = 'discarded' where state = 'parked' \
             and topic = $1 and ((message_key is null and message_id = $3) or message_key = $2)",
        )
        .bind(request.topic.as_str())
        .bind(request.message_key.as_deref())
        .bind(request.message_id.map(|id| id.0))
        .execute(&mut *tx)
        .await
        .map_err(SourceError::database("discard"))?
        .rows_affected();
        unpark(&mut tx, &request.topic, request.message_key.as_deref()).await?;
        end_request(&mut tx, request.number, "done", None).await?;
        // CRASH: before this commit = the request still runs; after it = it is done.
        commit(tx, "discard").await?;
        Ok(discarded)
    }

    /// Ends a request without doing it (there is nothing parked, or Kafka refuses it again).
    pub async fn refuse(
        &mut self,
        epoch: RelayEpoch,
        request: &Request,
        note: &str,
    ) -> Result<(), SourceError> {
        let mut tx = self.begin_guarded(epoch, "request refusal").await?;
        end_request(&mut tx, request.number, "refused", Some(note)).await?;
        commit(tx, "request refusal").await
    }
}

pub(super) async fn clean_up_replay<B: Dialect>(
    tx: &mut Tx<'_, B>,
    replay: &ReplayProgress,
) -> Result<(), SourceError> {
    // The request knows the key, which is left out of the progress where it is long.
    type Row = (String, String, Option<String>);
    let request: Option<Row> = sqlx::query_as(
        "select state, topic, message_key from outbox_dead_letter_request where number = $1",
    )
    .bind(replay.number)
    .fetch_optional(&mut **tx)
    .await
    .map_err(SourceError::database("replay clean-up"))?;
    // Progress keeps the replay until the next transaction, which may be a long time. Once its
    // clean-up is done it must not be done again: the key may have been parked anew since.
    let Some((topic, message_key)) = request
        .filter(|(state, ..)| state == "running")
        .map(|(_, topic, message_key)| (topic, message_key))
    else {
        return Ok(());
    };
    sqlx::query(
        "delete from outbox_dead_letter where state = 'parked' and topic = $1 \
         and ((message_key is null and $2 is null and seq = $3) \
              or (message_key = $2 and seq <= $3))",
    )
    .bind(topic.as_str())
    .bind(message_key.as_deref())
    .bind(replay.last_seq)
    .execute(&mut **tx)
    .await
    .map_err(SourceError::database("replay clean-up"))?;
    if replay.done {
        unpark(tx, &topic, message_key.as_deref()).await?;
        end_request(tx, replay.number, "done", None).await?;
    }
    Ok(())
}

pub(super) async fn load_parked<B: Dialect>(
    conn: &mut B::Connection,
) -> Result<ParkedKeys, SourceError> {
    let failed = || SourceError::database("parked keys read");
    let keys: Vec<(String, String)> =
        sqlx::query_as("select topic, message_key from outbox_parked_key")
            .fetch_all(&mut *conn)
            .await
            .map_err(failed())?;
    let rows: Vec<Uuid> = sqlx::query_scalar(
        "select message_id from outbox_dead_letter where message_key is null and state = 'parked'",
    )
    .fetch_all(conn)
    .await
    .map_err(failed())?;
    Ok(ParkedKeys {
        keys: keys.into_iter().collect(),
        rows: rows.into_iter().map(MessageId).collect(),
    })
}

async fn insert_copy<B: Dialect>(
    tx: &mut Tx<'_, B>,
    row: &OutboxRow,
    reason: &str,
    now: i64,
) -> Result<(), SourceError> {
    sqlx::query(
        "insert into outbox_dead_letter (seq, message_id, aggregate_type, aggregate_id, \
         message_type, topic, message_key, payload, headers, occurred_at, reason, parked_at) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
         on conflict (message_id) do nothing",
    )
    .bind(row.seq)
    .bind(row.message_id.0)
    .bind(row.aggregate_type())
    .bind(row.aggregate_id())
    .bind(row.message_type())
    .bind(row.topic())
    .bind(row.message_key())
    .bind(row.payload().to_vec())
    .bind(row.headers())
    .bind(row.occurred_at)
    .bind(reason)
    .bind(now)
    .execute(&mut **tx)
    .await
    .map_err(SourceError::database("park"))?;
    Ok(())
}

async fn unpark<B: Dialect>(
    tx: &mut Tx<'_, B>,
    topic: &str,
    message_key: Option<&str>,
) -> Result<(), SourceError> {
    sqlx::query("delete from outbox_parked_key where topic = $1 and message_key = $2")
        .bind(topic)
        .bind(message_key)
        .execute(&mut **tx)
        .await
        .map_err(SourceError::database("unpark"))?;
    Ok(())
}

async fn end_request<B: Dialect>(
    tx: &mut Tx<'_, B>,
    number: i64,
    state: &str,
    note: Option<&str>,
) -> Result<(), SourceError> {
    let now = clock::<B>(tx).await?;
    sqlx::query(
        "update outbox_dead_letter_request set state = $2, note = coalesce($3, note), \
         finished_at = $4 where number = $1",
    )
    .bind(number)
    .bind(state)
    .bind(note)
    .bind(now)
    .execute(&mut **tx)
    .await
    .map_err(SourceError::database("request end"))?;
    Ok(())
}

/// Reads the ten columns of a copy, in the order of [`COPY_COLUMNS`].
pub(super) fn read_row<B: Dialect>(
    row: &<B as Database>::Row,
    into: &mut RowCollector,
) -> Result<(), sqlx::Error> {
    let text = |index: usize| row.try_get::<String, _>(index).map(String::into_bytes);
    let key: Option<String> = row.try_get(6)?;
    let payload: Vec<u8> = row.try_get(7)?;
    into.push(&RawRow {
        seq: row.try_get(0)?,
        message_id: MessageId(row.try_get::<Uuid, _>(1)?),
        aggregate_type: &text(2)?,
        aggregate_id: &text(3)?,
        message_type: &text(4)?,
        topic: &text(5)?,
        message_key: key.as_deref().map(str::as_bytes),
        payload: &payload,
        headers: &text(8)?,
        occurred_at: row.try_get(9)?,
    });
    Ok(())
}
