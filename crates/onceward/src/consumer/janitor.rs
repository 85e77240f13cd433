//! Purges inbox rows that can't be needed again.

use std::time::Duration;

use super::claim::{Guard, Owned, hold};
use super::{Retention, TopicPartition};
use crate::{Backend, ConsumerName, Db, Error, Micros, QueryResult, Result, WriteError};

/// Rows in one transaction: a small bite, so that nobody waits for it.
const CHUNK: i64 = 1_000;

/// How old a row must be before it is purged; `None` never purges.
pub(super) fn least_age(configured: Duration, topic: Retention) -> Option<Duration> {
    match topic {
        Retention::Time(kept) => Some(configured.max(kept)),
        Retention::Unlimited | Retention::Unknown => None,
    }
}

/// Deletes `handled` and `discarded` rows of a partition that lie below `next_offset` and were
/// received before `older_than`, lowest offsets first and one bite of them, and raises the floor,
/// below which offsets can't be reset any more. Waiting and dead rows stay. Returns how many rows it
/// deleted: 0 if there are no more.
///
/// The caller must own the partition; a newer owner makes it stop.
pub(super) async fn purge<B: Backend>(
    db: &Db<B>,
    consumer: &ConsumerName,
    guard: &Guard,
    older_than: Micros,
) -> Result<u64> {
    let (name, guard) = (consumer.clone(), guard.clone());
    db.write(async move |tx| {
        if hold(tx, &name, &guard).await? == Owned::Fenced {
            return Ok(0);
        }
        bite(tx, &name, &guard.at, older_than).await
    })
    .await
    .map_err(|error: WriteError<sqlx::Error>| match error {
        WriteError::Refused(source) => Error::database("inbox purge")(source),
        WriteError::NotCommitted(error) | WriteError::CommitUnknown(error) => error,
        other => Error::database("inbox purge")(sqlx::Error::Protocol(other.to_string())),
    })
}

/// CRASH: died before the commit = nothing purged; after it = rows and floor agree.
async fn bite<B: Backend>(
    tx: &mut crate::Tx<'_, B>,
    consumer: &ConsumerName,
    at: &TopicPartition,
    older_than: Micros,
) -> Result<u64, sqlx::Error> {
    // Index: inbox_coordinates. The age is looked at outside: inside, the search for enough old rows
    // would walk through all that are too young.
    let upto: Option<i64> = sqlx::query_scalar(
        "select max(record_offset) from (select i.record_offset, i.received_at from inbox i \
         join consumer_offset o on o.consumer = i.consumer and o.topic = i.topic \
         and o.partition = i.partition \
         where i.consumer = $1 and i.topic = $2 and i.partition = $3 \
         and i.record_offset < o.next_offset and i.state in ('handled', 'discarded') \
         order by i.record_offset limit $5) as lowest where received_at < $4",
    )
    .bind(consumer.as_str())
    .bind(&*at.topic)
    .bind(at.partition)
    .bind(older_than)
    .bind(CHUNK)
    .fetch_one(&mut **tx)
    .await?;
    let Some(upto) = upto else { return Ok(0) };
    let deleted = sqlx::query(
        "delete from inbox where consumer = $1 and topic = $2 and partition = $3 \
         and record_offset <= $4 and received_at < $5 and state in ('handled', 'discarded')",
    )
    .bind(consumer.as_str())
    .bind(&*at.topic)
    .bind(at.partition)
    .bind(upto)
    .bind(older_than)
    .execute(&mut **tx)
    .await?;
    sqlx::query(
        "update consumer_offset set floor_offset = $4 \
         where consumer = $1 and topic = $2 and partition = $3 and floor_offset < $4",
    )
    .bind(consumer.as_str())
    .bind(&*at.topic)
    .bind(at.partition)
    .bind(upto + 1)
    .execute(&mut **tx)
    .await?;
    Ok(deleted.rows_affected())
}
