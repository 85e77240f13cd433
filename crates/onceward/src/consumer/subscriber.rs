//! The seam between the consumer loop and Kafka.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{ConsumerName, SourceId};

/// A partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Topic name.
    pub topic: Arc<str>,
    /// From 0.
    pub partition: i32,
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// A record as it came from Kafka. Nothing in it is trusted.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Where it was read.
    pub at: TopicPartition,
    /// Offset in the partition.
    pub offset: i64,
    /// Epoch of the leader that appended it (KIP-320), where the broker told.
    pub leader_epoch: Option<i32>,
    /// The record's key.
    pub key: Option<Bytes>,
    /// The record's value; empty for a tombstone.
    pub payload: Bytes,
    /// Headers in order; empty where they could not be read.
    pub headers: Vec<(String, Bytes)>,
    /// Why the record can't be given to a handler (header names that are not UTF-8 …): it becomes a
    /// dead letter.
    pub defect: Option<String>,
}

impl Record {
    /// Size in memory, roughly.
    pub(super) fn bytes(&self) -> usize {
        let headers = self.headers.iter();
        let headers: usize = headers.map(|(name, value)| name.len() + value.len()).sum();
        self.payload.len() + self.key.as_ref().map_or(0, Bytes::len) + headers
    }
}

/// How long Kafka keeps a topic's records, as far as inbox rows are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// By time: a record older than this can't be read again.
    Time(Duration),
    /// Compacted or kept for ever: its inbox rows are never purged.
    Unlimited,
    /// Could not be asked: nothing is purged.
    Unknown,
}

/// A partition the group gave to this instance, with what Kafka says of it at this moment.
#[derive(Debug, Clone, PartialEq)]
pub struct AssignedPartition {
    /// Which one.
    pub at: TopicPartition,
    /// Kafka's id of the topic; another one than stored means that it was made anew.
    pub topic_id: String,
    /// First offset that can still be read.
    pub log_start: i64,
    /// Offset behind the last record a `read_committed` reader can see.
    pub log_end: i64,
    /// Metadata of the group's committed offset, if there is one.
    pub committed_metadata: Option<String>,
    /// The topic's retention.
    pub retention: Retention,
}

/// Where to read on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartAt {
    /// Which partition.
    pub at: TopicPartition,
    /// The first offset to deliver; `None`: the partition is stopped, do not read it.
    pub offset: Option<i64>,
    /// Leader epoch of the record before it. With it the broker tells whether that record is still
    /// in the log (KIP-320): after an unclean election others may stand at its offset.
    pub leader_epoch: Option<i32>,
}

/// What the loop asks of the subscriber.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Commit offsets to the group, for lag tools only: best effort, asynchronous, with this
    /// metadata.
    Commit {
        /// The offset behind the last handled record of each partition.
        offsets: Vec<(TopicPartition, i64)>,
        /// Names our database, see [`Subscription::metadata`].
        metadata: String,
    },
    /// Deliver no further records of this partition for now.
    Pause(TopicPartition),
    /// Deliver again, from where it was paused.
    Resume(TopicPartition),
    /// Ask [`Link::assigned`] again for all partitions held now, and read on from its answer.
    Reassign,
}

/// What to subscribe to.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// Consumer group.
    pub group: ConsumerName,
    /// Static member id.
    pub instance_id: Option<String>,
    /// Topics.
    pub topics: Vec<String>,
    /// The database that handles the records.
    pub source_id: SourceId,
}

impl Subscription {
    /// What stands in the group's committed metadata: names the database, so that a second
    /// database in the same group is noticed.
    pub fn metadata(&self) -> String {
        format!("{METADATA_PREFIX}{}", self.source_id)
    }

    /// The database a committed metadata text names, if it is one of ours.
    pub fn source_of(metadata: &str) -> Option<SourceId> {
        metadata.strip_prefix(METADATA_PREFIX)?.parse().ok()
    }
}

const METADATA_PREFIX: &str = "onceward:";

/// Why a subscription ended other than by being stopped.
#[derive(Debug, thiserror::Error)]
#[error("{doing} failed: {reason}")]
pub struct SubscriberError {
    /// The operation.
    pub doing: &'static str,
    /// What Kafka or the client library said.
    pub reason: String,
}

/// Delivers records of a consumer group. Kafka's lives in `onceward-kafka`.
pub trait Subscriber: Send + 'static {
    /// Joins the group and feeds `link` until [`Link::is_stopping`], then leaves the group at once
    /// and returns. Called on an OS thread of its own: it may block, but must look at the link's
    /// commands every few milliseconds. After an error it is called again, with a new link.
    ///
    /// Per partition: records in offset order from the offset that [`Link::assigned`] answered, all
    /// of them that a `read_committed` reader sees; [`Link::reached_end`] in order behind them.
    fn subscribe(
        &mut self,
        subscription: &Subscription,
        link: &mut Link,
    ) -> Result<(), SubscriberError>;
}

pub(super) enum Control {
    Assigned {
        generation: u64,
        partitions: Vec<AssignedPartition>,
        answer: oneshot::Sender<Vec<StartAt>>,
    },
    Revoked,
    LogEnd {
        at: TopicPartition,
        offset: i64,
    },
    OutOfRange {
        at: TopicPartition,
        reason: String,
    },
    Trouble(String),
    Refused(String),
    Well,
    InstanceConflict,
}

pub(super) enum Item {
    Record {
        generation: u64,
        record: Record,
    },
    End {
        generation: u64,
        at: TopicPartition,
        offset: i64,
    },
}

/// The loop takes no more at the moment: keep it, go on polling, offer it again.
#[derive(Debug)]
pub struct Full(pub Record);

/// The subscriber's end of the line to the loop.
#[derive(Debug)]
pub struct Link {
    control: mpsc::UnboundedSender<Control>,
    items: mpsc::Sender<Item>,
    /// Of the records in the line.
    bytes: Arc<AtomicUsize>,
    max_bytes: usize,
    commands: mpsc::UnboundedReceiver<Command>,
    stop: CancellationToken,
    generation: u64,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}
impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Item")
    }
}

/// The loop's end.
pub(super) struct LoopEnd {
    pub control: mpsc::UnboundedReceiver<Control>,
    pub items: mpsc::Receiver<Item>,
    bytes: Arc<AtomicUsize>,
    pub commands: mpsc::UnboundedSender<Command>,
}

impl LoopEnd {
    /// These were taken out of the line.
    pub(super) fn taken(&self, items: &[Item]) {
        let sizes = items.iter().map(|item| match item {
            Item::Record { record, .. } => record.bytes(),
            Item::End { .. } => 0,
        });
        self.bytes.fetch_sub(sizes.sum(), Ordering::SeqCst);
    }
}

/// A line between a subscriber and the loop that holds `capacity` records, and takes no further one
/// while it holds `max_bytes` or more.
pub(super) fn line(capacity: usize, max_bytes: usize, stop: CancellationToken) -> (Link, LoopEnd) {
    let bytes = Arc::new(AtomicUsize::new(0));
    let (control, control_out) = mpsc::unbounded_channel();
    let (items, items_out) = mpsc::channel(capacity.max(1));
    let (commands_in, commands) = mpsc::unbounded_channel();
    let link = Link {
        control,
        items,
        bytes: Arc::clone(&bytes),
        max_bytes,
        commands,
        stop,
        generation: 0,
    };
    let end = LoopEnd {
        control: control_out,
        items: items_out,
        bytes,
        commands: commands_in,
    };
    (link, end)
}

impl Link {
    /// Whether to leave the group and return.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled() || self.control.is_closed()
    }

    /// The group assigned exactly these partitions (an eager assignment replaces the one before).
    /// Blocks until they are claimed in the database, however long that takes; `None` when
    /// stopping. Records offered afterwards belong to this assignment.
    pub fn assigned(&mut self, partitions: Vec<AssignedPartition>) -> Option<Vec<StartAt>> {
        let (answer, wait) = oneshot::channel();
        self.generation += 1;
        let told = self.control.send(Control::Assigned {
            generation: self.generation,
            partitions,
            answer,
        });
        told.ok()?;
        wait.blocking_recv().ok()
    }

    /// All partitions were taken away.
    pub fn revoked(&mut self) {
        self.generation += 1;
        // A closed line means that the loop is gone: there is nobody to tell.
        let _ = self.control.send(Control::Revoked);
    }

    /// Hands over the next record of its partition.
    pub fn offer(&self, record: Record) -> Result<(), Box<Full>> {
        if self.bytes.load(Ordering::SeqCst) >= self.max_bytes {
            return Err(Box::new(Full(record)));
        }
        let bytes = record.bytes();
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
        let item = Item::Record {
            generation: self.generation,
            record,
        };
        match self.items.try_send(item) {
            Err(mpsc::error::TrySendError::Full(Item::Record { record, .. })) => {
                self.bytes.fetch_sub(bytes, Ordering::SeqCst);
                Err(Box::new(Full(record)))
            }
            // Closed: stopping; nobody will handle it, and the stored offset stays before it.
            _ => Ok(()),
        }
    }

    /// Everything below `offset` was offered; there is nothing at or above it yet. `false`: the loop
    /// takes no more at the moment, tell it again, in order.
    #[must_use]
    pub fn reached_end(&self, at: TopicPartition, offset: i64) -> bool {
        let generation = self.generation;
        let told = self.items.try_send(Item::End {
            generation,
            at,
            offset,
        });
        !matches!(told, Err(mpsc::error::TrySendError::Full(_)))
    }

    /// The partition's end as `read_committed` readers see it, for lag figures.
    pub fn log_end(&self, at: TopicPartition, offset: i64) {
        let _ = self.control.send(Control::LogEnd { at, offset });
    }

    /// Kafka says that the position is not in the log: the partition stops loudly.
    pub fn out_of_range(&self, at: TopicPartition, reason: impl Into<String>) {
        let reason = reason.into();
        let _ = self.control.send(Control::OutOfRange { at, reason });
    }

    /// Something is wrong that the subscriber waits out (no broker …): shown in the status.
    pub fn trouble(&self, what: impl Into<String>) {
        let _ = self.control.send(Control::Trouble(what.into()));
    }

    /// Kafka refuses us, or we it (password, certificate, a missing right): shown in the status as
    /// what only a person can mend. It is tried again meanwhile, and over with [`Self::well`].
    pub fn refused(&self, what: impl Into<String>) {
        let _ = self.control.send(Control::Refused(what.into()));
    }

    /// Another process runs with our instance id and has taken the membership. Loud, because it
    /// never ends by itself: the two take turns.
    pub fn instance_conflict(&self) {
        let _ = self.control.send(Control::InstanceConflict);
    }

    /// The trouble is over.
    pub fn well(&self) {
        let _ = self.control.send(Control::Well);
    }

    /// The next command, if there is one.
    pub fn command(&mut self) -> Option<Command> {
        self.commands.try_recv().ok()
    }
}
