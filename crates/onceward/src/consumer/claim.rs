//! `consumer_offset`: claiming partitions, and the guard on everything their owner writes.

use super::{AssignedPartition, Subscription, TopicPartition};
use crate::{Backend, ConsumerName, Error, Micros, QueryResult, Result, SourceId, Tx};

/// A partition as it was claimed.
#[derive(Debug, Clone)]
pub(super) struct Claimed {
    pub at: TopicPartition,
    pub topic_id: String,
    pub owner_epoch: i64,
    pub next_offset: i64,
    /// Of the record before `next_offset`, where it is known.
    pub leader_epoch: Option<i32>,
    /// Why it must not be read.
    pub stopped: Option<String>,
}

/// Which claim a write belongs to.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    pub at: TopicPartition,
    pub owner_epoch: i64,
}

/// Raises the partition's `owner_epoch`, so that every older owner's writes touch 0 rows from now
/// on; at the very first claim the explicit start is the earliest offset. Says whether it may be
/// read at all.
pub(super) async fn claim<B: Backend>(
    tx: &mut Tx<'_, B>,
    consumer: &ConsumerName,
    owner: Option<&str>,
    source_id: SourceId,
    partition: &AssignedPartition,
    now: Micros,
) -> Result<Claimed> {
    let (topic_id, next_offset, leader_epoch, owner_epoch, floor): (String, i64, i32, i64, i64) =
        sqlx::query_as(
            "insert into consumer_offset (consumer, topic, topic_id, partition, next_offset, \
         owner_epoch, owner, floor_offset, updated_at) values ($1, $2, $3, $4, $5, 1, $6, $5, $7) \
         on conflict (consumer, topic, partition) do update set \
         owner_epoch = consumer_offset.owner_epoch + 1, owner = excluded.owner, \
         updated_at = excluded.updated_at \
         returning topic_id, next_offset, leader_epoch, owner_epoch, floor_offset",
        )
        .bind(consumer.as_str())
        .bind(&*partition.at.topic)
        .bind(partition.topic_id.as_str())
        .bind(partition.at.partition)
        .bind(partition.log_start)
        .bind(owner)
        .bind(now)
        .fetch_one(&mut **tx)
        .await
        .map_err(Error::database("partition claim"))?;
    let stopped = reason_to_stop(&topic_id, next_offset, floor, source_id, partition);
    set_stopped(tx, consumer, &partition.at, stopped.as_deref()).await?;
    Ok(Claimed {
        at: partition.at.clone(),
        topic_id,
        owner_epoch,
        next_offset,
        leader_epoch: Some(leader_epoch).filter(|epoch| *epoch >= 0),
        stopped,
    })
}

/// The loud stops: going on would lose records or handle others than were promised.
fn reason_to_stop(
    topic_id: &str,
    next_offset: i64,
    floor: i64,
    source_id: SourceId,
    partition: &AssignedPartition,
) -> Option<String> {
    let AssignedPartition {
        at,
        topic_id: found,
        log_start,
        log_end,
        ..
    } = partition;
    let other_database = partition
        .committed_metadata
        .as_deref()
        .and_then(Subscription::source_of)
        .filter(|other| *other != source_id);
    if let Some(other) = other_database {
        Some(format!(
            "{at}: the group's committed offset belongs to database {other}, this is {source_id}"
        ))
    } else if topic_id != found {
        Some(format!(
            "{at}: the topic was made anew, its id was {topic_id} and is {found}"
        ))
    } else if next_offset < *log_start {
        Some(format!(
            "{at}: offsets {next_offset} to {log_start} are gone from the log unread"
        ))
    } else if next_offset > *log_end {
        Some(format!(
            "{at}: next offset {next_offset} is beyond the end of the log, {log_end}"
        ))
    } else if next_offset < floor {
        Some(format!(
            "{at}: next offset {next_offset} is below {floor}, where the inbox was purged"
        ))
    } else {
        None
    }
}

/// Stores why a partition stopped, or that it goes on.
pub(super) async fn set_stopped<B: Backend>(
    tx: &mut Tx<'_, B>,
    consumer: &ConsumerName,
    at: &TopicPartition,
    reason: Option<&str>,
) -> Result<()> {
    sqlx::query(
        "update consumer_offset set stopped = $4 where consumer = $1 and topic = $2 and \
         partition = $3 and coalesce(stopped, '') <> coalesce($4, '')",
    )
    .bind(consumer.as_str())
    .bind(&*at.topic)
    .bind(at.partition)
    .bind(reason)
    .execute(&mut **tx)
    .await
    .map_err(Error::database("partition stop"))?;
    Ok(())
}

/// The partitions that are not stopped, or no more: somebody has accepted what was lost.
pub(super) async fn not_stopped<B: Backend>(
    pool: &sqlx::Pool<B>,
    consumer: &ConsumerName,
) -> Result<Vec<TopicPartition>> {
    let rows: Vec<(String, i32)> = sqlx::query_as(
        "select topic, partition from consumer_offset where consumer = $1 and stopped is null",
    )
    .bind(consumer.as_str())
    .fetch_all(pool)
    .await
    .map_err(Error::database("partition look-up"))?;
    let named = rows.into_iter().map(|(topic, partition)| TopicPartition {
        topic: topic.into(),
        partition,
    });
    Ok(named.collect())
}

/// Whether a guarded write was still ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owned {
    /// Yes; the row stays locked until commit, so no newer claim can come in between.
    Mine,
    /// Somebody claimed since: drop all work.
    Fenced,
}

/// How far a partition is handled.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reached {
    pub next_offset: i64,
    /// Of the record at `next_offset - 1`. `None` where no record of ours stands there (a marker, an
    /// aborted record): whose epoch that was is not told, and a wrong one would look like a loss.
    pub leader_epoch: Option<i32>,
}

/// Moves `next_offset`, if the claim still holds. The last statement of a batch: in a transaction
/// that a swallowed error has broken it fails, where COMMIT would quietly roll back.
pub(super) async fn advance<B: Backend>(
    tx: &mut Tx<'_, B>,
    consumer: &ConsumerName,
    guard: &Guard,
    reached: Reached,
    now: Micros,
) -> Result<Owned, sqlx::Error> {
    let done = sqlx::query(
        "update consumer_offset set next_offset = $5, leader_epoch = $6, updated_at = $7 \
         where consumer = $1 and topic = $2 and partition = $3 and owner_epoch = $4",
    )
    .bind(consumer.as_str())
    .bind(&*guard.at.topic)
    .bind(guard.at.partition)
    .bind(guard.owner_epoch)
    .bind(reached.next_offset)
    .bind(reached.leader_epoch.unwrap_or(-1))
    .bind(now)
    .execute(&mut **tx)
    .await?;
    Ok(owned(&done))
}

/// [`advance`] without moving: for work on the queues.
pub(super) async fn hold<B: Backend>(
    tx: &mut Tx<'_, B>,
    consumer: &ConsumerName,
    guard: &Guard,
) -> Result<Owned, sqlx::Error> {
    let done = sqlx::query(
        "update consumer_offset set owner_epoch = owner_epoch \
         where consumer = $1 and topic = $2 and partition = $3 and owner_epoch = $4",
    )
    .bind(consumer.as_str())
    .bind(&*guard.at.topic)
    .bind(guard.at.partition)
    .bind(guard.owner_epoch)
    .execute(&mut **tx)
    .await?;
    Ok(owned(&done))
}

fn owned(done: &impl QueryResult) -> Owned {
    if done.rows_affected() == 1 {
        Owned::Mine
    } else {
        Owned::Fenced
    }
}

#[cfg(test)]
mod tests {
    use super::super::Retention;
    use super::*;

    #[test]
    fn a_partition_stops_where_records_would_be_lost_or_confused() {
        let mine = SourceId(uuid::Uuid::from_u128(1));
        let other = SourceId(uuid::Uuid::from_u128(2));
        let partition = |metadata: Option<&str>| AssignedPartition {
            at: TopicPartition {
                topic: "t".into(),
                partition: 0,
            },
            topic_id: "id".into(),
            log_start: 10,
            log_end: 20,
            committed_metadata: metadata.map(str::to_owned),
            retention: Retention::Unknown,
        };
        let fine = |id: &str, next, floor, metadata: Option<&str>| {
            reason_to_stop(id, next, floor, mine, &partition(metadata)).is_none()
        };
        assert!(fine("id", 10, 0, None) && fine("id", 20, 20, Some("")));
        let (ours, theirs) = (format!("onceward:{mine}"), format!("onceward:{other}"));
        assert!(fine("id", 15, 0, Some(&ours)));
        assert!(!fine("new", 15, 0, None));
        assert!(!fine("id", 9, 0, None));
        assert!(!fine("id", 21, 0, None));
        assert!(!fine("id", 15, 16, None));
        assert!(!fine("id", 15, 0, Some(&theirs)));
    }
}
