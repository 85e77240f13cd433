//! Reads partitions with a plain consumer: assigned, in no group, committing nothing.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use uuid::Uuid;

use crate::record::{Identity, Record, hash_bytes};
use crate::{Interner, ProgressView};

/// How long one question to the brokers may take.
const ASK: Duration = Duration::from_secs(5);
/// How long an open transaction may hold the reading up: twice the relay's transaction time-out.
const OPEN_TRANSACTION: Duration = Duration::from_secs(20);
/// No record, no end of partition, nothing for this long: the broker is gone.
const SILENCE: Duration = Duration::from_secs(20);

/// Bounds of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionEnd {
    /// First offset there is.
    pub low: i64,
    /// High watermark: one above the last record, committed or not.
    pub high: i64,
}

/// A reader of topics. Blocking: call it on a thread of its own.
pub struct KafkaReader {
    patience: Duration,
    committed: BaseConsumer,
    uncommitted: BaseConsumer,
}

impl std::fmt::Debug for KafkaReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaReader").finish_non_exhaustive()
    }
}

impl KafkaReader {
    /// Connects with these client settings (`bootstrap.servers`, TLS, SASL), and fails if no
    /// broker answers within 5 s.
    pub fn connect(settings: &[(String, String)]) -> Result<Self> {
        let consumer = |isolation: &str| -> Result<BaseConsumer> {
            let mut config = ClientConfig::new();
            for (name, value) in settings {
                config.set(name, value);
            }
            config
                .set("group.id", "onceward-auditor")
                .set("enable.auto.commit", "false")
                .set("enable.auto.offset.store", "false")
                .set("enable.partition.eof", "true")
                .set("auto.offset.reset", "error")
                .set("allow.auto.create.topics", "false")
                .set("fetch.wait.max.ms", "20")
                .set("isolation.level", isolation);
            config.create().context("Kafka settings are refused")
        };
        let reader = Self {
            patience: OPEN_TRANSACTION,
            committed: consumer("read_committed")?,
            uncommitted: consumer("read_uncommitted")?,
        };
        reader
            .uncommitted
            .fetch_metadata(Some("outbox.progress.none"), ASK)
            .context("Kafka does not answer")?;
        Ok(reader)
    }

    /// Waits no longer than this for an open transaction to end (20 s unless told otherwise).
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// First offset of a record written at `time_ms` (milliseconds since the Unix epoch) or later;
    /// `None` if there is none.
    pub fn offset_at(&self, topic: &str, partition: i32, time_ms: i64) -> Result<Option<i64>> {
        let mut question = TopicPartitionList::new();
        question.add_partition_offset(topic, partition, Offset::Offset(time_ms))?;
        let answer = self.uncommitted.offsets_for_times(question, ASK)?;
        let found = answer.find_partition(topic, partition);
        Ok(found.and_then(|p| p.offset().to_raw()).filter(|o| *o >= 0))
    }

    /// Number of partitions; 0 if the topic does not exist.
    pub fn partition_count(&self, topic: &str) -> Result<i32> {
        let metadata = self.uncommitted.fetch_metadata(Some(topic), ASK)?;
        let found = metadata.topics().iter().find(|t| t.name() == topic);
        Ok(found.map_or(0, |t| {
            if t.error().is_some() {
                0
            } else {
                i32::try_from(t.partitions().len()).unwrap_or(0)
            }
        }))
    }

    /// The partition's bounds, whatever transactions are open.
    pub fn bounds(&self, topic: &str, partition: i32) -> Result<PartitionEnd> {
        let (low, high) = self
            .uncommitted
            .fetch_watermarks(topic, partition, ASK)
            .with_context(|| format!("bounds of {topic}/{partition}"))?;
        Ok(PartitionEnd { low, high })
    }

    /// Calls `each` for every committed record in `[from, high)` and returns how far it came:
    /// below `high` if a transaction stayed open for longer than the patience.
    pub fn read(
        &self,
        topic: &str,
        partition: i32,
        from: i64,
        high: i64,
        mut each: impl FnMut(&rdkafka::message::BorrowedMessage<'_>) -> Result<()>,
    ) -> Result<i64> {
        let end = self.stable_end(topic, partition, high)?;
        if from >= end {
            return Ok(end);
        }
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(topic, partition, Offset::Offset(from))?;
        self.committed.assign(&assignment)?;
        let mut heard = Instant::now();
        let outcome = loop {
            match self.committed.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    if message.topic() != topic || message.partition() != partition {
                        continue;
                    }
                    if message.offset() >= end {
                        break Ok(end);
                    }
                    each(&message)?;
                    if message.offset() + 1 >= end {
                        break Ok(end);
                    }
                }
                // One partition is assigned at a time, so this end is its end; it comes after
                // `stable_end`, so all of `[from, end)` was delivered.
                Some(Err(KafkaError::PartitionEOF(p))) if p == partition => break Ok(end),
                Some(Err(KafkaError::PartitionEOF(_))) => {}
                Some(Err(error)) if heard.elapsed() > SILENCE => {
                    break Err(anyhow!(error).context(format!("reading {topic}/{partition}")));
                }
                None if heard.elapsed() > SILENCE => {
                    break Err(anyhow!("{topic}/{partition}: nothing for {SILENCE:?}"));
                }
                Some(Err(_)) | None => {}
            }
        };
        self.committed.unassign()?;
        outcome
    }

    /// Waits until `read_committed` readers can see up to `high`.
    fn stable_end(&self, topic: &str, partition: i32, high: i64) -> Result<i64> {
        let until = Instant::now() + self.patience;
        loop {
            // With this isolation level the "high watermark" is the last stable offset.
            let (_, stable) = self.committed.fetch_watermarks(topic, partition, ASK)?;
            if stable >= high || Instant::now() >= until {
                return Ok(stable.min(high));
            }
            // The broker has no call that waits for a transaction's end.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The last committed progress record of a source; `None` if there is none.
    pub fn progress(&self, source: &str) -> Result<Option<ProgressView>> {
        let topic = format!("outbox.progress.{source}");
        if self.partition_count(&topic)? == 0 {
            return Ok(None);
        }
        let bounds = self.bounds(&topic, 0)?;
        // The last offsets hold the last record and its transaction's marker, or aborted ones;
        // look back further only if nothing is there.
        let mut back = 64;
        loop {
            let from = bounds.low.max(bounds.high - back);
            match self.last_value(&topic, from, bounds.high)? {
                Some((value, offset)) => {
                    let view = self.whole(&topic, &value, offset);
                    return view.with_context(|| format!("{topic}@{offset}")).map(Some);
                }
                None if from <= bounds.low => return Ok(None),
                None => back *= 16,
            }
        }
    }

    /// The value of the last record from one offset to below another, and its offset.
    fn last_value(&self, topic: &str, from: i64, to: i64) -> Result<Option<(Vec<u8>, i64)>> {
        let mut last = None;
        self.read(topic, 0, from, to, |message| {
            last = message.payload().map(|p| (p.to_vec(), message.offset()));
            Ok(())
        })?;
        Ok(last)
    }

    /// A progress record with all its partitions.
    fn whole(&self, topic: &str, value: &[u8], offset: i64) -> Result<ProgressView> {
        let mut view = ProgressView::decode(value, offset)?;
        let Some(at) = view.builds_on else {
            return Ok(view);
        };
        let (value, at) = self
            .last_value(topic, at, at + 1)?
            .with_context(|| format!("offset {at}, which it builds on, is gone"))?;
        view.build_on(ProgressView::decode(&value, at)?)?;
        Ok(view)
    }

    /// Reads the committed records of a partition.
    pub fn records(
        &self,
        topic: &str,
        partition: i32,
        bounds: PartitionEnd,
        names: &mut Interner,
        into: &mut Vec<Record>,
    ) -> Result<i64> {
        self.read(topic, partition, bounds.low, bounds.high, |message| {
            into.push(decode(message, names));
            Ok(())
        })
    }
}

/// Turns a message into a [`Record`]. Whatever can't be read counts as absent.
fn decode(message: &rdkafka::message::BorrowedMessage<'_>, names: &mut Interner) -> Record {
    let header = |name: &str| {
        let headers = message.headers()?;
        let found = headers.iter().find(|h| h.key == name)?.value?;
        std::str::from_utf8(found).ok()
    };
    let (source, id) = (header("ce_source"), header("ce_id"));
    Record {
        topic: names.intern(message.topic()),
        partition: message.partition(),
        offset: message.offset(),
        source: source.map(|s| names.intern(s)),
        identity: id.map(|id| Identity::new(source.unwrap_or(""), id)),
        uuid: id.and_then(|id| Uuid::parse_str(id).ok()),
        position: header("onceward-position").and_then(|p| p.parse().ok()),
        previous: header("onceward-previous-position").and_then(|p| p.parse().ok()),
        key: hash_bytes(message.key()),
        payload: hash_bytes(Some(message.payload().unwrap_or_default())),
    }
}
