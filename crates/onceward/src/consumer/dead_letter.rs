//! Dead letters: messages that were refused or whose attempts are used up, and the operator's
//! requests about them.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use sqlx::Row;

use super::entry::{Entry, HeaderList, Identity, decode_headers};
use super::{ConsumerOptions, DeadLetterTopic, TopicPartition};
use crate::{
    Backend, ConsumerName, Error, MessageContext, MessageKind, Micros, RawMessage, RequestKind,
    Result, Tx,
};

/// Versioned type of the copies in the dead-letter topic.
pub const MESSAGE_TYPE: &str = "onceward.dead-letter.v1";

/// Makes a message a dead letter, and publishes a copy if that is asked for. Repeats for one that
/// dies again after a replay.
pub(super) async fn bury<B: Backend>(
    tx: &mut Tx<'_, B>,
    options: &ConsumerOptions,
    entry: &Entry,
    attempts: u32,
    reason: &str,
    now: Micros,
) -> Result<()> {
    sqlx::query(
        "insert into inbox_dead_letter (consumer, topic, partition, record_offset, ce_source, \
         ce_id, message_type, message_key, headers, payload, attempts, reason, state, died_at) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'dead', $13) \
         on conflict (consumer, topic, partition, record_offset) do update set \
         attempts = excluded.attempts, reason = excluded.reason, state = 'dead', \
         died_at = excluded.died_at",
    )
    .bind(options.name.as_str())
    .bind(&*entry.at.topic)
    .bind(entry.at.partition)
    .bind(entry.offset)
    .bind(entry.identity.ce_source.as_str())
    .bind(entry.identity.ce_id.as_str())
    .bind(entry.stored_type())
    .bind(entry.key())
    .bind(entry.stored_headers())
    .bind(&entry.envelope.payload[..])
    .bind(i32::try_from(attempts).unwrap_or(i32::MAX))
    .bind(reason)
    .bind(now)
    .execute(&mut **tx)
    .await
    .map_err(Error::database("dead letter insert"))?;
    if let Some(topic) = &options.dead_letter_topic {
        publish_copy(tx, topic, &options.name, entry, attempts, reason).await?;
    }
    Ok(())
}

async fn publish_copy<B: Backend>(
    tx: &mut Tx<'_, B>,
    to: &DeadLetterTopic,
    consumer: &ConsumerName,
    entry: &Entry,
    attempts: u32,
    reason: &str,
) -> Result<()> {
    let whole = copy(consumer, entry, attempts, reason, true);
    let context = MessageContext::caused_by(&entry.envelope);
    let message = |payload| RawMessage {
        message_type: MESSAGE_TYPE.to_owned(),
        kind: MessageKind::Event,
        aggregate_type: "dead-letter".to_owned(),
        aggregate_id: format!("{consumer}/{}@{}", entry.at, entry.offset),
        message_key: Some(format!("{consumer}/{}", entry.at)),
        topic: Some(to.topic.clone()),
        payload,
        headers: BTreeMap::new(),
    };
    match to.outbox.append_raw(tx, &context, message(whole)).await {
        // The table has all of it.
        Err(Error::PayloadTooLarge { .. }) => {
            let short = copy(consumer, entry, attempts, reason, false);
            to.outbox.append_raw(tx, &context, message(short)).await?;
        }
        other => drop(other?),
    }
    Ok(())
}

/// The JSON in the dead-letter topic; without key, headers and payload unless `whole`.
fn copy(
    consumer: &ConsumerName,
    entry: &Entry,
    attempts: u32,
    reason: &str,
    whole: bool,
) -> Vec<u8> {
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => serde_json::json!({ "text": text }),
        Err(_) => serde_json::json!({ "base64": STANDARD.encode(bytes) }),
    };
    let headers = entry.envelope.headers.iter();
    let headers = headers.map(|(name, value)| serde_json::json!([name, text(value)]));
    serde_json::json!({
        "consumer": consumer.as_str(),
        "topic": &*entry.at.topic,
        "partition": entry.at.partition,
        "offset": entry.offset,
        "ce_source": entry.identity.ce_source,
        "ce_id": entry.identity.ce_id,
        "message_type": entry.stored_type(),
        "attempts": attempts,
        "reason": reason,
        "key": entry.key().filter(|_| whole).map(text),
        "headers": whole.then(|| headers.collect::<Vec<_>>()),
        "payload": whole.then(|| text(&entry.envelope.payload)),
        "payload_bytes": entry.envelope.payload.len(),
    })
    .to_string()
    .into_bytes()
}

/// Reads a dead letter back, with its attempts; `None` if it is not dead any more.
pub(super) async fn load<B: Backend>(
    tx: &mut Tx<'_, B>,
    consumer: &ConsumerName,
    at: &TopicPartition,
    offset: i64,
) -> Result<Option<(Entry, u32)>> {
    type Row = (String, String, Option<Vec<u8>>, String, Vec<u8>, i32);
    let row: Option<Row> = sqlx::query_as(
        "select ce_source, ce_id, message_key, headers, payload, attempts from inbox_dead_letter \
         where consumer = $1 and topic = $2 and partition = $3 and record_offset = $4 \
         and state = 'dead'",
    )
    .bind(consumer.as_str())
    .bind(&*at.topic)
    .bind(at.partition)
    .bind(offset)
    .fetch_optional(&mut **tx)
    .await
    .map_err(Error::database("dead letter read"))?;
    row.map(|(ce_source, ce_id, key, headers, payload, attempts)| {
        let identity = Identity { ce_source, ce_id };
        let entry = Entry::restored(at, offset, identity, key, &headers, payload)?;
        Ok((entry, u32::try_from(attempts).unwrap_or(0)))
    })
    .transpose()
}

/// Ends a dead letter as `replayed` or `discarded`.
pub(super) async fn finish<B: Backend>(
    tx: &mut Tx<'_, B>,
    consumer: &ConsumerName,
    at: &TopicPartition,
    offset: i64,
    state: &'static str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update inbox_dead_letter set state = $5 \
         where consumer = $1 and topic = $2 and partition = $3 and record_offset = $4",
    )
    .bind(consumer.as_str())
    .bind(&*at.topic)
    .bind(at.partition)
    .bind(offset)
    .bind(state)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A replay that failed: it stays dead, with another cause.
pub(super) async fn still_dead<B: Backend>(
    tx: &mut Tx<'_, B>,
    consumer: &ConsumerName,
    entry: &Entry,
    attempts: u32,
    reason: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update inbox_dead_letter set attempts = $5, reason = $6 \
         where consumer = $1 and topic = $2 and partition = $3 and record_offset = $4",
    )
    .bind(consumer.as_str())
    .bind(&*entry.at.topic)
    .bind(entry.at.partition)
    .bind(entry.offset)
    .bind(i32::try_from(attempts).unwrap_or(i32::MAX))
    .bind(reason)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A request that was not carried out yet.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub id: i64,
    pub kind: RequestKind,
    pub at: TopicPartition,
    pub offset: i64,
}

/// Partitions of a consumer about which there are open requests.
pub(super) async fn asked_about<B: Backend>(
    pool: &sqlx::Pool<B>,
    consumer: &ConsumerName,
) -> Result<Vec<TopicPartition>> {
    let partitions: Vec<(String, i32)> = sqlx::query_as(
        "select distinct topic, partition from inbox_dead_letter_request \
         where consumer = $1 and state = 'requested'",
    )
    .bind(consumer.as_str())
    .fetch_all(pool)
    .await
    .map_err(Error::database("dead letter requests"))?;
    let partitions = partitions.into_iter();
    Ok(partitions
        .map(|(topic, partition)| TopicPartition {
            topic: topic.into(),
            partition,
        })
        .collect())
}

/// Open requests about one partition, the oldest first; the rest after these are closed.
pub(super) async fn open_requests<B: Backend>(
    pool: &sqlx::Pool<B>,
    consumer: &ConsumerName,
    at: &TopicPartition,
) -> Result<Vec<Request>> {
    let rows: Vec<(i64, String, i64)> = sqlx::query_as(
        "select id, kind, record_offset from inbox_dead_letter_request \
         where consumer = $1 and topic = $2 and partition = $3 and state = 'requested' \
         order by id limit 100",
    )
    .bind(consumer.as_str())
    .bind(&*at.topic)
    .bind(at.partition)
    .fetch_all(pool)
    .await
    .map_err(Error::database("dead letter requests"))?;
    let requests = rows.into_iter().map(|(id, kind, offset)| Request {
        id,
        kind: RequestKind::stored(&kind),
        at: at.clone(),
        offset,
    });
    Ok(requests.collect())
}

/// Answers a request: `done`, or `refused` with a note.
pub(super) async fn close_request<B: Backend>(
    tx: &mut Tx<'_, B>,
    id: i64,
    refusal: Option<&str>,
    now: Micros,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update inbox_dead_letter_request set state = $2, note = coalesce($3, note), \
         finished_at = $4 where id = $1 and state = 'requested'",
    )
    .bind(id)
    .bind(if refusal.is_some() { "refused" } else { "done" })
    .bind(refusal)
    .bind(now)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Which record a dead letter is, within one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterId {
    /// Consumer name.
    pub consumer: String,
    /// Where the record stands.
    pub at: TopicPartition,
    /// Its offset.
    pub offset: i64,
}

/// That the one who discards knows: later messages of the key will take effect without this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderBreakAcknowledged;

/// Asks the partition's owner to handle a dead letter again. Returns the request's id, to look up
/// with [`request`].
///
/// # Errors
/// [`Error::Corrupt`] if there is no such dead letter, [`Error::Database`].
pub async fn request_replay<B: Backend>(
    pool: &sqlx::Pool<B>,
    id: &DeadLetterId,
    requested_by: &str,
    now: Micros,
) -> Result<i64> {
    insert_request(pool, RequestKind::Replay, id, requested_by, now).await
}

/// Asks the partition's owner to give a dead letter up.
///
/// # Errors
/// [`Error::Corrupt`] if there is no such dead letter, [`Error::Database`].
pub async fn request_discard<B: Backend>(
    pool: &sqlx::Pool<B>,
    id: &DeadLetterId,
    _acknowledged: OrderBreakAcknowledged,
    requested_by: &str,
    now: Micros,
) -> Result<i64> {
    insert_request(pool, RequestKind::Discard, id, requested_by, now).await
}

async fn insert_request<B: Backend>(
    pool: &sqlx::Pool<B>,
    kind: RequestKind,
    id: &DeadLetterId,
    requested_by: &str,
    now: Micros,
) -> Result<i64> {
    let inserted: Option<i64> = sqlx::query_scalar(
        "insert into inbox_dead_letter_request \
         (kind, consumer, topic, partition, record_offset, requested_by, requested_at) \
         select $1, consumer, topic, partition, record_offset, $6, $7 from inbox_dead_letter \
         where consumer = $2 and topic = $3 and partition = $4 and record_offset = $5 \
         and state = 'dead' returning id",
    )
    .bind(kind.as_str())
    .bind(id.consumer.as_str())
    .bind(&*id.at.topic)
    .bind(id.at.partition)
    .bind(id.offset)
    .bind(requested_by)
    .bind(now)
    .fetch_optional(pool)
    .await
    .map_err(Error::database("dead letter request"))?;
    inserted.ok_or_else(|| Error::Corrupt {
        what: "dead letter",
        reason: format!("{}@{} of {} is not dead", id.at, id.offset, id.consumer),
    })
}

/// How a request stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestStatus {
    /// `requested`, `done`, `refused`.
    pub state: String,
    /// Why it was refused.
    pub note: Option<String>,
}

/// Looks a request up; `None` if there is none of this id.
///
/// # Errors
/// [`Error::Database`].
pub async fn request<B: Backend>(pool: &sqlx::Pool<B>, id: i64) -> Result<Option<RequestStatus>> {
    let row: Option<(String, Option<String>)> =
        sqlx::query_as("select state, note from inbox_dead_letter_request where id = $1")
            .bind(id)
            .fetch_optional(pool)
            .await
            .map_err(Error::database("dead letter request lookup"))?;
    Ok(row.map(|(state, note)| RequestStatus { state, note }))
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    /// Which one.
    pub id: DeadLetterId,
    /// `ce_source`; empty for a record without an id.
    pub ce_source: String,
    /// `ce_id`, or topic id/partition/offset.
    pub ce_id: String,
    /// Versioned type.
    pub message_type: Option<String>,
    /// Its key, which is parked while it is dead.
    pub message_key: Option<Vec<u8>>,
    /// The record's headers as they came.
    pub headers: HeaderList,
    /// The record's value.
    pub payload: Vec<u8>,
    /// Tries made.
    pub attempts: i32,
    /// Why it died.
    pub reason: String,
    /// `dead`, `replayed`, `discarded`.
    pub state: String,
    /// When it died last.
    pub died_at: Micros,
}

/// Lists dead letters, the oldest first, at most `limit`: those still dead, or `all` of them. Whole: what
/// strangers sent, as large as they sent it; [`list_outlines`] is without.
///
/// # Errors
/// [`Error::Database`]; [`Error::Corrupt`] if stored headers can't be read.
pub async fn list<B: Backend>(
    pool: &sqlx::Pool<B>,
    consumer: Option<&str>,
    all: bool,
    limit: i64,
) -> Result<Vec<DeadLetter>> {
    read_list(pool, consumer, all, limit, Depth::Whole).await
}

/// [`list`] for a listing: `headers` and `payload` are not read, and empty.
///
/// # Errors
/// [`Error::Database`].
pub async fn list_outlines<B: Backend>(
    pool: &sqlx::Pool<B>,
    consumer: Option<&str>,
    all: bool,
    limit: i64,
) -> Result<Vec<DeadLetter>> {
    read_list(pool, consumer, all, limit, Depth::Outline).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Whole,
    Outline,
}

async fn read_list<B: Backend>(
    pool: &sqlx::Pool<B>,
    consumer: Option<&str>,
    all: bool,
    limit: i64,
    depth: Depth,
) -> Result<Vec<DeadLetter>> {
    let whole = depth == Depth::Whole;
    let content = if whole { "headers, payload, " } else { "" };
    let sql = format!(
        "select consumer, topic, partition, record_offset, ce_source, ce_id, message_type, \
         message_key, {content}attempts, reason, state, died_at from inbox_dead_letter \
         where (cast($1 as text) is null or consumer = $1) and ($2 or state = 'dead') \
         order by died_at, consumer, topic, partition, record_offset limit $3"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(consumer)
        .bind(all)
        .bind(limit)
        .fetch_all(pool)
        .await
        .map_err(Error::database("dead letter list"))?;
    let damaged = Error::database("dead letter list");
    let read = |row: &B::Row| -> Result<(DeadLetter, Option<String>), sqlx::Error> {
        let topic: String = row.try_get("topic")?;
        let letter = DeadLetter {
            id: DeadLetterId {
                consumer: row.try_get("consumer")?,
                at: TopicPartition {
                    topic: topic.into(),
                    partition: row.try_get("partition")?,
                },
                offset: row.try_get("record_offset")?,
            },
            ce_source: row.try_get("ce_source")?,
            ce_id: row.try_get("ce_id")?,
            message_type: row.try_get("message_type")?,
            message_key: row.try_get("message_key")?,
            headers: Vec::new(),
            payload: if whole {
                row.try_get("payload")?
            } else {
                Vec::new()
            },
            attempts: row.try_get("attempts")?,
            reason: row.try_get("reason")?,
            state: row.try_get("state")?,
            died_at: row.try_get("died_at")?,
        };
        let headers = whole.then(|| row.try_get("headers")).transpose()?;
        Ok((letter, headers))
    };
    let letters: Vec<_> = rows
        .iter()
        .map(read)
        .collect::<Result<_, _>>()
        .map_err(damaged)?;
    letters
        .into_iter()
        .map(|(letter, stored)| {
            let headers = match stored {
                Some(stored) => decode_headers(&stored)?.0,
                None => Vec::new(),
            };
            Ok(DeadLetter { headers, ..letter })
        })
        .collect()
}
