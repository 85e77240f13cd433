//! Records sorted by partition, and the Produce requests made of them.
//!
//! Each partition has a lane: its records in order. A request takes the next batch of every lane of its
//! broker, so rows and progress travel together; lanes with more than a batch go on in the next one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use onceward::publisher::Records;

use super::batch::{BatchHead, Encoder, Extent};
use super::codec::Put;
use super::message::ProducerIdentity;
use super::settings::Compression;

/// Kafka's number of a Produce request.
pub(super) const KEY: i16 = 0;
/// The version that adds partitions to the transaction by itself (KIP-890).
pub(super) const VERSION: i16 = 12;
/// Bytes of one batch, uncompressed: below Kafka's default of `max.message.bytes`.
const BATCH_AT_MOST: usize = 1_000_000;
/// Bytes of one request: far below Kafka's default of `socket.request.max.bytes`.
const REQUEST_AT_MOST: usize = 8 << 20;
/// A record that no broker with default settings would even read.
const RECORD_AT_MOST: usize = 90 << 20;
/// How long a leader may wait for its replicas.
const REPLICAS_AT_MOST_MS: i32 = 5_000;

/// What one transaction publishes: rows, and behind them the progress record.
#[derive(Clone, Copy)]
pub(super) struct Load<'a> {
    pub(super) rows: &'a Records,
    /// One record.
    pub(super) progress: &'a Records,
}

impl<'a> Load<'a> {
    /// Index of the progress record.
    pub(super) fn progress_index(self) -> usize {
        self.rows.len()
    }

    /// The topic of a record.
    pub(super) fn topic(self, index: usize) -> &'a str {
        let record = self.rows.get(index).or_else(|| self.progress.get(0));
        record.map_or("", |record| &*record.destination.topic)
    }
}

/// The records of one partition.
#[derive(Debug)]
struct Lane {
    topic: Arc<str>,
    partition: i32,
    timestamp_ms: i64,
    leader: i32,
    /// How many records were sent in this transaction: the next batch's sequence number, which begins
    /// anew with each epoch, and each transaction has one of its own.
    sent: usize,
    /// Index of each record.
    records: Vec<u32>,
}

/// The lanes of one transaction, and what is remembered from one to the next.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// One a destination in the order of the rows' destinations, then that of the progress record.
    lanes: Vec<Lane>,
    /// Those with records, by leader, topic and partition once [`Self::sort`]ed.
    used: Vec<usize>,
    /// What a batch of a topic may take where Kafka has refused more.
    limits: HashMap<Arc<str>, usize>,
    /// Memory of lanes that are no longer needed.
    spare: Vec<Vec<u32>>,
}

/// A batch that was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct SentBatch {
    /// Number of its partition's lane.
    pub(super) lane: usize,
    /// Index of its first record in the lane.
    first: usize,
    extent: Extent,
}

/// A request that was sent.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) broker: i32,
    pub(super) batches: Vec<SentBatch>,
}

impl Lanes {
    /// Sorts the records of a new transaction into lanes. `Err` is the index of one that is too large
    /// for any broker.
    pub(super) fn fill(&mut self, load: Load<'_>) -> Result<(), usize> {
        self.clear();
        for records in [load.rows, load.progress] {
            for to in records.destinations() {
                let mut indexes = self.spare.pop().unwrap_or_default();
                indexes.reserve(to.record_count);
                if to.record_count > 0 {
                    self.used.push(self.lanes.len());
                }
                self.lanes.push(Lane {
                    topic: to.topic.clone(),
                    partition: to.partition,
                    timestamp_ms: records.timestamp_ms(),
                    leader: -1,
                    sent: 0,
                    records: indexes,
                });
            }
        }
        for (index, row) in load.rows.iter().enumerate() {
            if row.body.len() > RECORD_AT_MOST {
                return Err(index);
            }
            if let Some(lane) = self.lanes.get_mut(row.destination_index) {
                lane.records.push(u32::try_from(index).unwrap_or(u32::MAX));
            }
        }
        if let Some(lane) = self.lanes.last_mut() {
            let index = load.progress_index();
            lane.records.push(u32::try_from(index).unwrap_or(u32::MAX));
        }
        Ok(())
    }

    /// Forgets the transaction.
    pub(super) fn clear(&mut self) {
        self.used.clear();
        for lane in self.lanes.drain(..) {
            let mut indexes = lane.records;
            indexes.clear();
            indexes.shrink_to(1024);
            self.spare.push(indexes);
        }
    }

    /// Begins the same records anew.
    pub(super) fn rewind(&mut self) {
        for lane in &mut self.lanes {
            lane.sent = 0;
        }
    }

    fn in_use(&self) -> impl Iterator<Item = &Lane> {
        self.used.iter().filter_map(|place| self.lanes.get(*place))
    }

    /// Topics of the transaction.
    pub(super) fn topics(&self) -> BTreeSet<Arc<str>> {
        self.in_use().map(|lane| lane.topic.clone()).collect()
    }

    /// Asks for each partition's leader; the first answer that is none is returned.
    pub(super) fn lead<E>(
        &mut self,
        mut leader: impl FnMut(&Arc<str>, i32) -> Result<i32, E>,
    ) -> Result<(), E> {
        for place in &self.used {
            if let Some(lane) = self.lanes.get_mut(*place) {
                lane.leader = leader(&lane.topic, lane.partition)?;
            }
        }
        Ok(())
    }

    /// Brings lanes into the order in which requests name them, and tells the brokers that lead them.
    pub(super) fn sort(&mut self) -> Vec<i32> {
        let lanes = &self.lanes;
        self.used.sort_unstable_by_key(|place| {
            lanes
                .get(*place)
                .map(|lane| (lane.leader, &lane.topic, lane.partition))
        });
        let mut leaders: Vec<i32> = self.in_use().map(|lane| lane.leader).collect();
        leaders.dedup();
        leaders
    }

    /// Writes the next request to `broker` behind the header in `out`; `None` if all its records went.
    pub(super) fn put_request(
        &mut self,
        out: &mut Vec<u8>,
        encoder: &mut Encoder,
        broker: i32,
        load: Load<'_>,
        envelope: &Envelope<'_>,
    ) -> Option<Sent> {
        let (batches, total) = self.next_batches(broker, load);
        if batches.is_empty() {
            return None;
        }
        out.reserve(total + 128 * batches.len());
        out.put_text(envelope.transactional_id);
        out.put_i16(-1); // acknowledged by all replicas in sync
        out.put_i32(REPLICAS_AT_MOST_MS);
        let topic_of = |batch: &SentBatch| self.lanes.get(batch.lane).map(|lane| &lane.topic);
        let by_topic = || batches.chunk_by(|a, b| topic_of(a) == topic_of(b));
        out.put_count(by_topic().count());
        for group in by_topic() {
            out.put_text(group.first().and_then(topic_of)?);
            out.put_count(group.len());
            for batch in group {
                let lane = self.lanes.get(batch.lane)?;
                out.put_i32(lane.partition);
                let head = BatchHead {
                    producer: envelope.producer,
                    sequence: batch.first,
                    timestamp_ms: lane.timestamp_ms,
                    compression: envelope.compression,
                };
                encoder.put_batch(out, lane.rest(load), batch.extent, head);
                out.put_no_tags();
            }
            out.put_no_tags();
        }
        out.put_no_tags();
        for batch in &batches {
            if let Some(lane) = self.lanes.get_mut(batch.lane) {
                lane.sent += batch.extent.count;
            }
        }
        Some(Sent { broker, batches })
    }

    /// The next batch of each of the broker's lanes, as many as a request holds, and their length.
    fn next_batches(&self, broker: i32, load: Load<'_>) -> (Vec<SentBatch>, usize) {
        let mut batches = Vec::new();
        let mut total = 0;
        for place in &self.used {
            let Some(lane) = self.lanes.get(*place) else {
                continue;
            };
            if lane.leader != broker || lane.sent >= lane.records.len() {
                continue;
            }
            let limit = self.limits.get(&lane.topic).copied();
            let extent = Extent::of(lane.rest(load), limit.unwrap_or(BATCH_AT_MOST));
            if total > 0 && total + extent.len() > REQUEST_AT_MOST {
                break;
            }
            total += extent.len();
            batches.push(SentBatch {
                lane: *place,
                first: lane.sent,
                extent,
            });
        }
        (batches, total)
    }

    /// Topic and partition of a batch.
    pub(super) fn place(&self, batch: &SentBatch) -> Option<(&str, i32)> {
        let lane = self.lanes.get(batch.lane)?;
        Some((&lane.topic, lane.partition))
    }

    /// Index, in the transaction, of a batch's record.
    pub(super) fn record(&self, batch: &SentBatch, index: usize) -> usize {
        let within = batch.first + index.min(batch.extent.count.saturating_sub(1));
        self.lanes
            .get(batch.lane)
            .and_then(|lane| lane.records.get(within))
            .map_or(0, |index| usize::try_from(*index).unwrap_or(0))
    }

    /// Kafka refused this batch for its size. Whether smaller ones can be tried: not if it was one
    /// record.
    pub(super) fn halve(&mut self, batch: &SentBatch) -> bool {
        match self.lanes.get(batch.lane) {
            Some(lane) if batch.extent.count > 1 => {
                self.limits
                    .insert(lane.topic.clone(), batch.extent.len() / 2);
                true
            }
            _ => false,
        }
    }
}

impl Lane {
    /// The bodies of what was not sent yet.
    fn rest<'a>(&'a self, load: Load<'a>) -> impl Iterator<Item = &'a [u8]> {
        let rest = self.records.get(self.sent..).unwrap_or_default();
        rest.iter().filter_map(move |index| {
            let index = usize::try_from(*index).ok()?;
            let record = load.rows.get(index).or_else(|| load.progress.get(0));
            Some(record?.body)
        })
    }
}

/// What every batch of a transaction carries.
pub(super) struct Envelope<'a> {
    pub(super) transactional_id: &'a str,
    pub(super) producer: ProducerIdentity,
    pub(super) compression: Compression,
}
