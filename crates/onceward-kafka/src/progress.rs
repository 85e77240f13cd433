//! Reads a source's progress topic. The answer decides what is published next, so it must be the
//! last committed record and nothing older.

use std::time::{Duration, Instant};

use onceward::publisher::BrokerError;
use onceward::{PROGRESS_FORMAT, ProgressRecord, SourceName};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, DefaultConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use crate::fault::{Fault, broker_error_needing, fault, kafka_error, kafka_error_needing};
use crate::ffi::{self, Polled};
use crate::publisher::TRANSACTION_TIMEOUT;

/// One query of a broker.
const QUERY_AT_MOST: Duration = Duration::from_secs(10);
/// Open transactions end by their time-out; after twice that one hangs (KIP-890).
const END_AT_MOST: Duration = TRANSACTION_TIMEOUT.saturating_mul(2);

/// How far to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upto {
    /// The high watermark of a `read_uncommitted` client: waits until no transaction is open below.
    HighWatermark,
    /// Where `read_committed` readers stop right now.
    LastStable,
}

/// The newest committed record of the topic's only partition.
///
/// `from_offset`: a record's offset that the caller knows of; below the log's start or beyond its end
/// (a topic made anew) the topic is read whole, and the caller compares what it finds.
pub(crate) fn read(
    config: &ClientConfig,
    source: &SourceName,
    from_offset: Option<i64>,
    upto: Upto,
) -> Result<Option<(i64, ProgressRecord)>, BrokerError> {
    let topic = source.progress_topic();
    let doing = format!("reading {topic}");
    let committed = consumer(config, source, "read_committed", &doing)?;
    // The watermark query answers with the last stable offset to a `read_committed` client, which
    // would hide what an open transaction is about to commit: hence another client for it.
    let end = match upto {
        Upto::HighWatermark => {
            let uncommitted = consumer(config, source, "read_uncommitted", &doing)?;
            watermarks(&uncommitted, &topic, &doing)?.1
        }
        Upto::LastStable => watermarks(&committed, &topic, &doing)?.1,
    };
    // Asked of this one in any case: it learns by it who leads the partition, for which it would else
    // wait a second once it is to read.
    let (low, _) = watermarks(&committed, &topic, &doing)?;
    if low >= end {
        return Ok(None);
    }
    let start = from_offset
        .filter(|from| (low..end).contains(from))
        .unwrap_or(low);
    let mut last = last_record(&committed, &topic, start, end, &doing)?;
    if last.is_none() && start > low {
        // What the caller knows of is gone: look at all there is.
        last = last_record(&committed, &topic, low, end, &doing)?;
    }
    let Some((offset, payload)) = last else {
        return Ok(None);
    };
    let record = decode(&topic, offset, payload.as_deref())?;
    let Some(full_at) = record.partitions_since else {
        return Ok(Some((offset, record)));
    };
    let full = match (low..offset).contains(&full_at) {
        true => full_record(&committed, &topic, full_at, &doing)?,
        false => None,
    };
    let full = full.filter(|full| (full.source_id, full.epoch) == (record.source_id, record.epoch));
    match (full, upto) {
        (Some(full), _) => Ok(Some((offset, record.completed(full.partitions)))),
        // Its owner may have written a newer one meanwhile, and compaction taken this.
        (None, Upto::LastStable) => Err(BrokerError::Unavailable(format!(
            "{doing}: the progress that offset {offset} builds on is gone from offset {full_at}"
        ))),
        (None, Upto::HighWatermark) => Err(BrokerError::Unreadable {
            topic,
            reason: format!(
                "record at offset {offset}: what it builds on is not at offset {full_at}"
            ),
        }),
    }
}

/// The record at this offset, if it is there and tells of all partitions.
fn full_record(
    consumer: &Reader,
    topic: &str,
    at: i64,
    doing: &str,
) -> Result<Option<ProgressRecord>, BrokerError> {
    match last_record(consumer, topic, at, at, doing)? {
        Some((offset, payload)) if offset == at => {
            let record = decode(topic, offset, payload.as_deref())?;
            Ok(Some(record).filter(|record| record.partitions_since.is_none()))
        }
        _ => Ok(None),
    }
}

/// Logs what rdkafka would, but for the group's rights: it is nothing but a name, see [`consumer`].
struct NoGroup;

impl ClientContext for NoGroup {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::GroupAuthorizationFailed) {
            DefaultConsumerContext.error(error, reason);
        }
    }
}

impl ConsumerContext for NoGroup {}

type Reader = BaseConsumer<NoGroup>;

fn consumer(
    config: &ClientConfig,
    source: &SourceName,
    isolation: &str,
    doing: &str,
) -> Result<Reader, BrokerError> {
    config
        .clone()
        // Named for librdkafka's sake, which assigns nothing without; never joined or committed to.
        .set("group.id", source.transactional_id())
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("isolation.level", isolation)
        // The end of the log is told when this has passed, and a broker that comes up fails a moment long.
        .set("fetch.wait.max.ms", "10")
        .set("fetch.error.backoff.ms", "20")
        .create_with_context(NoGroup)
        .map_err(|error| kafka_error(&error, doing))
}

fn watermarks(consumer: &Reader, topic: &str, doing: &str) -> Result<(i64, i64), BrokerError> {
    use RDKafkaErrorCode as C;
    consumer
        .fetch_watermarks(topic, 0, QUERY_AT_MOST)
        .map_err(|error| match error.rdkafka_error_code() {
            // Existed a moment ago: not every broker knows a new topic yet.
            Some(C::UnknownTopic | C::UnknownTopicOrPartition | C::UnknownPartition) => {
                BrokerError::Unavailable(format!("{doing}: {error}"))
            }
            _ => kafka_error_needing(&error, doing, &format!("DESCRIBE on topic {topic}")),
        })
}

/// A record's offset and value.
type Found = (i64, Option<Vec<u8>>);

/// The last record from `start` on, read until the partition's end is at or past `end`. Mostly only that
/// end proves it: the last offset is a transaction marker, which is never delivered, and while a
/// transaction is open the partition "ends" before it. A record past `end` proves it as well; the end of
/// a busy source's topic may not come for minutes.
fn last_record(
    consumer: &Reader,
    topic: &str,
    start: i64,
    end: i64,
    doing: &str,
) -> Result<Option<Found>, BrokerError> {
    let mut assignment = TopicPartitionList::new();
    assignment
        .add_partition_offset(topic, 0, Offset::Offset(start))
        .and_then(|()| consumer.assign(&assignment))
        .map_err(|error| kafka_error(&error, doing))?;
    let mut last = None;
    let mut trouble = None;
    let mut deadline = Instant::now() + END_AT_MOST;
    loop {
        match ffi::poll(consumer, Duration::from_millis(100)) {
            Polled::Record { offset, payload } => {
                last = Some((offset, payload));
                if offset >= end {
                    return Ok(last);
                }
                // Reading on takes the time it takes; only standing still is bounded.
                deadline = Instant::now() + END_AT_MOST;
                continue;
            }
            Polled::End { offset } if offset >= end => return Ok(last),
            Polled::End { .. } => trouble = None,
            Polled::Nothing => {}
            Polled::Failed(code, text) => match (fault(code), code) {
                (Fault::Transient, RDKafkaErrorCode::AutoOffsetReset)
                | (_, RDKafkaErrorCode::OffsetOutOfRange) => {
                    // Compaction or retention moved the log's start while we looked.
                    return Err(BrokerError::Unavailable(format!("{doing}: {text}")));
                }
                // The topic was there a moment ago: a broker that is coming up, or a topic just made.
                (Fault::Transient, _) | (_, RDKafkaErrorCode::UnknownTopicOrPartition) => {
                    trouble = Some(text);
                }
                // The group is nothing but a name, see `consumer`: no right on it is needed.
                (_, RDKafkaErrorCode::GroupAuthorizationFailed) => {}
                _ => {
                    let need = format!("READ on topic {topic}");
                    return Err(broker_error_needing(code, doing, &need));
                }
            },
        }
        if Instant::now() > deadline {
            if let Some(text) = trouble {
                return Err(BrokerError::Unavailable(format!("{doing}: {text}")));
            }
            // A broker that froze says nothing either, and that passes: ask it before a stop for good.
            let stable = watermarks(consumer, topic, doing)?.1;
            if stable >= end {
                let text = format!("{doing}: the broker stopped sending");
                return Err(BrokerError::Unavailable(text));
            }
            return Err(BrokerError::HangingTransaction {
                topic: topic.to_owned(),
                stable,
                end,
            });
        }
    }
}

/// Reads a progress record; one of a newer format must not be half understood.
fn decode(topic: &str, offset: i64, payload: Option<&[u8]>) -> Result<ProgressRecord, BrokerError> {
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    let unreadable = |reason: String| BrokerError::Unreadable {
        topic: topic.to_owned(),
        reason: format!("record at offset {offset}: {reason}"),
    };
    let payload = payload.ok_or_else(|| unreadable("it has no value".into()))?;
    let Format { format } = serde_json::from_slice(payload)
        .map_err(|error| unreadable(format!("no progress record: {error}")))?;
    if format > PROGRESS_FORMAT {
        return Err(unreadable(format!(
            "format {format} is newer than {PROGRESS_FORMAT}, which this relay knows; upgrade it"
        )));
    }
    let record: ProgressRecord = serde_json::from_slice(payload)
        .map_err(|error| unreadable(format!("no progress record: {error}")))?;
    if record.partitions_since.is_some() != (format == PROGRESS_FORMAT) {
        return Err(unreadable(
            "its form does not fit what it says of partitions".into(),
        ));
    }
    Ok(record)
}
