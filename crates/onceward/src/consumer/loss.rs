//! The way on for a partition that stopped because its log has lost records.

use super::TopicPartition;
use crate::{Backend, ConsumerName, Error, Micros, Tx};

/// What the log of a partition is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogNow {
    /// Kafka's id of the topic.
    pub topic_id: String,
    /// The first offset there is.
    pub start: i64,
    /// Behind the last one.
    pub end: i64,
}

/// A loss that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedLoss {
    /// Where the partition is read on.
    pub next_offset: i64,
    /// What that means, in words.
    pub what: String,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LossRefused {
    /// The consumer has never held this partition.
    #[error("the consumer has never held {0}")]
    Unknown(TopicPartition),
    /// It goes on already.
    #[error("{0} is not stopped")]
    NotStopped(TopicPartition),
    /// It stopped for something else, so it would stop again.
    #[error("the log has all that is read next; it stopped because of something else: {0}")]
    NotALoss(String),
    /// Messages of the part that was cut off wait or are dead letters, and new ones will stand in their
    /// places.
    #[error(
        "{0} messages of what was cut off wait or are dead letters: replay or discard them first"
    )]
    StillThere(i64),
    /// The database.
    #[error(transparent)]
    Database(#[from] Error),
}

/// Where to read on, and whose offsets are now others'.
struct Onward {
    next_offset: i64,
    floor: i64,
    /// From this offset on other records stand than before.
    others_from: Option<i64>,
    what: String,
}

fn onward(
    at: &TopicPartition,
    (topic_id, next_offset, floor): (&str, i64, i64),
    reason: &str,
    log: &LogNow,
) -> Option<Onward> {
    if topic_id != log.topic_id {
        return Some(Onward {
            next_offset: log.start,
            floor: log.start,
            others_from: Some(i64::MIN),
            what: format!(
                "{at} was made anew and is read from its beginning, {}",
                log.start
            ),
        });
    }
    if next_offset < log.start {
        return Some(Onward {
            next_offset: log.start,
            floor,
            others_from: None,
            what: format!(
                "{at}: offsets {next_offset} to {} are lost unread",
                log.start
            ),
        });
    }
    // Told by the offset, or by the leader epoch where the log has grown again since.
    if next_offset > log.end || reason.contains("not in the log") {
        // What is in the inbox is skipped; below the floor nothing would be.
        let from = floor.min(log.end).max(log.start);
        return Some(Onward {
            next_offset: from,
            floor: floor.min(from),
            others_from: Some(log.end.min(next_offset)),
            what: format!(
                "{at} was cut and is read again from {from}; what was handled is skipped, but what \
                 was cut off and not published again is lost"
            ),
        });
    }
    None
}

const DOING: &str = "loss acceptance";

/// Moves what stands at `from` and above below zero, behind what was moved there before. Says how much
/// of it waits or is dead.
async fn make_room<B: Backend>(
    tx: &mut Tx<'_, B>,
    consumer: &ConsumerName,
    at: &TopicPartition,
    from: i64,
) -> Result<i64, Error> {
    const TABLES: [&str; 3] = [
        "update inbox_waiting set record_offset = record_offset - $4 where consumer = $1 and \
         topic = $2 and partition = $3 and record_offset >= $5 and record_offset < $6",
        "update inbox_dead_letter set record_offset = record_offset - $4 where consumer = $1 and \
         topic = $2 and partition = $3 and record_offset >= $5 and record_offset < $6",
        "update inbox_dead_letter_request set record_offset = record_offset - $4 where consumer = $1 \
         and topic = $2 and partition = $3 and record_offset >= $5 and record_offset < $6",
    ];
    let (open, last, first): (i64, i64, i64) = sqlx::query_as(
        "select cast(coalesce(sum(case when record_offset >= $4 then is_open else 0 end), 0) \
         as bigint), cast(coalesce(max(record_offset), 0) as bigint), \
         cast(coalesce(min(record_offset), 0) as bigint) from ( \
         select 1 as is_open, record_offset from inbox_waiting where consumer = $1 and topic = $2 \
         and partition = $3 union all \
         select case when state = 'dead' then 1 else 0 end, record_offset from inbox_dead_letter \
         where consumer = $1 and topic = $2 and partition = $3) known",
    )
    .bind(consumer.as_str())
    .bind(&*at.topic)
    .bind(at.partition)
    .bind(from)
    .fetch_one(&mut **tx)
    .await
    .map_err(Error::database(DOING))?;
    // So far that no row meets another one on the way.
    let down = last.max(0) + 1;
    let moves = [
        (down - first.min(0), i64::MIN, 0),
        (down, from.max(0), i64::MAX),
    ];
    for (by, from, to) in moves {
        for sql in TABLES {
            sqlx::query(sql)
                .bind(consumer.as_str())
                .bind(&*at.topic)
                .bind(at.partition)
                .bind(by)
                .bind(from)
                .bind(to)
                .execute(&mut **tx)
                .await
                .map_err(Error::database(DOING))?;
        }
    }
    Ok(open)
}

/// Lets a stopped partition go on although records of it are lost, from where the log allows it. Its
/// owner claims it anew by itself; call it in a transaction of its own.
///
/// A topic that was made anew counts its offsets from the beginning again: messages of the old one that
/// wait, and dead letters, get offsets below zero, in the same order.
///
/// # Errors
/// [`LossRefused`]; the transaction must be rolled back.
pub async fn accept_loss<B: Backend>(
    tx: &mut Tx<'_, B>,
    consumer: &ConsumerName,
    at: &TopicPartition,
    log: &LogNow,
    now: Micros,
) -> Result<AcceptedLoss, LossRefused> {
    // Raised: an owner that writes at this moment is fenced.
    let found: Option<(String, i64, i64, Option<String>)> = sqlx::query_as(
        "update consumer_offset set owner_epoch = owner_epoch + 1 where consumer = $1 and \
         topic = $2 and partition = $3 returning topic_id, next_offset, floor_offset, stopped",
    )
    .bind(consumer.as_str())
    .bind(&*at.topic)
    .bind(at.partition)
    .fetch_optional(&mut **tx)
    .await
    .map_err(Error::database(DOING))?;
    let (topic_id, next_offset, floor, stopped) =
        found.ok_or_else(|| LossRefused::Unknown(at.clone()))?;
    let reason = stopped.ok_or_else(|| LossRefused::NotStopped(at.clone()))?;
    let onward = onward(at, (&topic_id, next_offset, floor), &reason, log);
    let onward = onward.ok_or(LossRefused::NotALoss(reason))?;
    if let Some(from) = onward.others_from {
        let open = make_room(tx, consumer, at, from).await?;
        if open > 0 && topic_id == log.topic_id {
            return Err(LossRefused::StillThere(open));
        }
    }
    sqlx::query(
        "update consumer_offset set topic_id = $4, next_offset = $5, floor_offset = $6, \
         leader_epoch = -1, stopped = null, updated_at = $7 where consumer = $1 and topic = $2 and partition = $3",
    )
    .bind(consumer.as_str())
    .bind(&*at.topic)
    .bind(at.partition)
    .bind(&log.topic_id)
    .bind(onward.next_offset)
    .bind(onward.floor)
    .bind(now)
    .execute(&mut **tx)
    .await
    .map_err(Error::database(DOING))?;
    // CRASH: died before the commit that follows = nothing happened; after it = the next claim reads on
    // from there.
    Ok(AcceptedLoss {
        next_offset: onward.next_offset,
        what: onward.what,
    })
}
