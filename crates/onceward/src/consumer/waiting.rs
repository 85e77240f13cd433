//! `inbox_waiting`: messages to be tried again, and those queued behind them.

use sqlx::Row;

use super::TopicPartition;
use super::entry::{Entry, Identity};
use super::queue::Waiting;
use crate::{Backend, ConsumerName, Error, Micros, Result, Tx};

/// Stores a message whole, so that Kafka is not needed to try it again.
pub(super) async fn insert<B: Backend>(
    tx: &mut Tx<'_, B>,
    consumer: &ConsumerName,
    entry: &Entry,
    attempts: u32,
    due_at: Micros,
    last_error: Option<&str>,
    now: Micros,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into inbox_waiting (consumer, topic, partition, record_offset, ce_source, ce_id, \
         message_type, message_key, headers, payload, attempts, due_at, last_error, received_at) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(consumer.as_str())
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
    .bind(due_at)
    .bind(last_error)
    .bind(now)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A failed attempt of a message that waits on.
pub(super) async fn postpone<B: Backend>(
    tx: &mut Tx<'_, B>,
    consumer: &ConsumerName,
    entry: &Entry,
    attempts: u32,
    due_at: Micros,
    last_error: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update inbox_waiting set attempts = $5, due_at = $6, last_error = $7 \
         where consumer = $1 and topic = $2 and partition = $3 and record_offset = $4",
    )
    .bind(consumer.as_str())
    .bind(&*entry.at.topic)
    .bind(entry.at.partition)
    .bind(entry.offset)
    .bind(i32::try_from(attempts).unwrap_or(i32::MAX))
    .bind(due_at)
    .bind(last_error)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// `last_error` of a message while it is tried for the first time since a claim, and afterwards if the
/// process ended meanwhile.
const NO_OUTCOME: &str = "the process ended while it was handled";

/// Writes down that a message is tried, before it is; or says that it was tried `max_attempts` times and
/// ended the process at last.
pub(super) async fn try_first<B: Backend>(
    tx: &mut Tx<'_, B>,
    consumer: &ConsumerName,
    at: &TopicPartition,
    message: Waiting,
    max_attempts: u32,
) -> Result<bool> {
    let last_error: Option<Option<String>> = sqlx::query_scalar(
        "select last_error from inbox_waiting \
         where consumer = $1 and topic = $2 and partition = $3 and record_offset = $4",
    )
    .bind(consumer.as_str())
    .bind(&*at.topic)
    .bind(at.partition)
    .bind(message.offset)
    .fetch_optional(&mut **tx)
    .await
    .map_err(Error::database("waiting message read"))?;
    let had_none = last_error
        .flatten()
        .is_some_and(|error| error == NO_OUTCOME);
    if had_none && message.attempts >= max_attempts {
        return Ok(false);
    }
    // Without an outcome it counts as a third of them: a process that ends is more than a failure.
    let attempts = message.attempts.saturating_add((max_attempts / 3).max(1));
    sqlx::query(
        "update inbox_waiting set attempts = $5, last_error = $6 \
         where consumer = $1 and topic = $2 and partition = $3 and record_offset = $4",
    )
    .bind(consumer.as_str())
    .bind(&*at.topic)
    .bind(at.partition)
    .bind(message.offset)
    .bind(i32::try_from(attempts).unwrap_or(i32::MAX))
    .bind(NO_OUTCOME)
    .execute(&mut **tx)
    .await
    .map_err(Error::database("attempt note"))?;
    Ok(true)
}

/// Takes a message off the queue.
pub(super) async fn delete<B: Backend>(
    tx: &mut Tx<'_, B>,
    consumer: &ConsumerName,
    at: &TopicPartition,
    offset: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "delete from inbox_waiting \
         where consumer = $1 and topic = $2 and partition = $3 and record_offset = $4",
    )
    .bind(consumer.as_str())
    .bind(&*at.topic)
    .bind(at.partition)
    .bind(offset)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Reads a stored message back; `None` if it is gone.
pub(super) async fn load<B: Backend>(
    tx: &mut Tx<'_, B>,
    consumer: &ConsumerName,
    at: &TopicPartition,
    offset: i64,
) -> Result<Option<Entry>> {
    type Row = (String, String, Option<Vec<u8>>, String, Vec<u8>);
    let row: Option<Row> = sqlx::query_as(
        "select ce_source, ce_id, message_key, headers, payload from inbox_waiting \
         where consumer = $1 and topic = $2 and partition = $3 and record_offset = $4",
    )
    .bind(consumer.as_str())
    .bind(&*at.topic)
    .bind(at.partition)
    .bind(offset)
    .fetch_optional(&mut **tx)
    .await
    .map_err(Error::database("waiting message read"))?;
    row.map(|(ce_source, ce_id, key, headers, payload)| {
        let identity = Identity { ce_source, ce_id };
        Entry::restored(at, offset, identity, key, &headers, payload)
    })
    .transpose()
}

/// A message that waits, without its payload.
#[derive(Debug, Clone, PartialEq)]
pub struct WaitingMessage {
    /// Consumer name.
    pub consumer: String,
    /// Where the record stands.
    pub at: TopicPartition,
    /// Its offset.
    pub offset: i64,
    /// `ce_id`, or topic id/partition/offset.
    pub ce_id: String,
    /// Versioned type.
    pub message_type: Option<String>,
    /// Its key; `None` waits alone.
    pub message_key: Option<Vec<u8>>,
    /// Tries made; 0 for one that only queues behind another of its key.
    pub attempts: i32,
    /// When it is tried next, if it is the first of its key.
    pub due_at: Micros,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// When it was received.
    pub received_at: Micros,
}

/// Lists waiting messages in the order of their queues, at most `limit`; of all consumers if none
/// is given.
///
/// # Errors
/// [`Error::Database`].
pub async fn list_waiting<B: Backend>(
    pool: &sqlx::Pool<B>,
    consumer: Option<&str>,
    limit: i64,
) -> Result<Vec<WaitingMessage>> {
    let rows = sqlx::query(
        "select consumer, topic, partition, record_offset, ce_id, message_type, message_key, \
         attempts, due_at, last_error, received_at from inbox_waiting \
         where (cast($1 as text) is null or consumer = $1) \
         order by consumer, topic, partition, record_offset limit $2",
    )
    .bind(consumer)
    .bind(limit)
    .fetch_all(pool)
    .await
    .map_err(Error::database("waiting list"))?;
    rows.iter()
        .map(|row| {
            let topic: String = row.try_get("topic")?;
            Ok(WaitingMessage {
                consumer: row.try_get("consumer")?,
                at: TopicPartition {
                    topic: topic.into(),
                    partition: row.try_get("partition")?,
                },
                offset: row.try_get("record_offset")?,
                ce_id: row.try_get("ce_id")?,
                message_type: row.try_get("message_type")?,
                message_key: row.try_get("message_key")?,
                attempts: row.try_get("attempts")?,
                due_at: row.try_get("due_at")?,
                last_error: row.try_get("last_error")?,
                received_at: row.try_get("received_at")?,
            })
        })
        .collect::<Result<_, sqlx::Error>>()
        .map_err(Error::database("waiting list"))
}
