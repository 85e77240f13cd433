//! The seam between the relay and Kafka. `onceward-kafka` implements it twice: over rdkafka for every
//! broker, and natively for transactions V2 (KIP-890).
//!
//! What is published crosses the seam as [`Records`]: one arena for all records of a transaction,
//! written once by the relay in the wire form of Kafka's records, so that a publisher that speaks the
//! protocol itself only copies.

mod records;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

pub use records::{
    Destination, EncodedHeaders, HeaderMark, HeaderWriter, Headers, Record, Records,
};

use crate::{ProgressRecord, SourceName};

/// How a Kafka transaction ended.
#[derive(Debug)]
pub enum PublishOutcome {
    /// Rows and progress are visible to `read_committed` readers.
    Committed {
        /// Offset of the progress record.
        progress_offset: i64,
        /// The producer saw a time-out, disconnect or transport error since `begin`: an EndTxn may
        /// still be under way and could end the *next* transaction (KAFKA-17754). This outcome
        /// stands, but the producer must not be used again.
        dirty: bool,
    },
    /// Nothing of it is or will become visible, and the producer may be used again.
    NotCommitted(Refusal),
    /// It may or may not have committed: drop the producer, take over anew, and read progress.
    Unknown(String),
    /// A newer relay of this source took over: drop all work.
    Fenced,
}

/// Why Kafka refused a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A record was refused for what it is (too large, invalid). `index` is the suspect; in a
    /// batch of several this blames nobody, because the batch's size may be at fault.
    #[error("record {index} refused: {reason}")]
    Record {
        /// Index into the batch: the lowest one that Kafka named.
        index: usize,
        /// What Kafka said.
        reason: String,
    },
    /// A topic does not exist or may not be written: the source holds and alarms.
    #[error("topic {topic}: {reason}")]
    Topic {
        /// The topic.
        topic: String,
        /// What Kafka said.
        reason: String,
    },
    /// The progress record itself was refused: a configuration error.
    #[error("progress record refused: {0}")]
    Progress(String),
    /// Brokers unreachable or not enough replicas: nobody's fault, uses no attempt.
    #[error("Kafka is not available: {0}")]
    Outage(String),
}

/// A transactional producer of one source. Owned by one relay worker at a time.
pub trait Publisher: Send + 'static {
    /// Publishes `records` in this order and then `progress`, in one Kafka transaction.
    /// Returns when the outcome is known, or known to be unknown. After an end whose outcome is not
    /// known an implementation sends nothing again; after a known, clean abort it may begin anew by
    /// itself.
    ///
    /// The records are shared, not given away: the caller may publish them again after a refusal, and
    /// takes their memory back once the publisher has dropped its clones.
    fn publish(
        &mut self,
        records: &Arc<Records>,
        progress: &ProgressRecord,
    ) -> impl Future<Output = PublishOutcome> + Send;

    /// Does now, between two transactions, what the next [`Self::publish`] would have to do first. Comes
    /// back soon, and tells no trouble: the next publish meets it again.
    fn get_ready(&mut self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// What stands in a source's progress topic.
#[derive(Debug, Clone, PartialEq)]
pub struct CommittedProgress {
    /// The last committed record with its offset; `None` for an empty topic.
    pub record: Option<(i64, ProgressRecord)>,
    /// Kafka's id of the progress topic; another one means it was made anew.
    pub topic_id: String,
    /// Kafka's cluster id.
    pub cluster_id: String,
}

/// A topic as the relay needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Number of partitions.
    pub partition_count: i32,
}

/// A broker cluster as the relay uses it.
pub trait Broker: Clone + Send + Sync + 'static {
    /// Its producer.
    type Publisher: Publisher;

    /// Creates the progress topic with the admin client if it is missing (compacted, one
    /// partition), and checks its configuration. Never relies on auto-creation.
    fn ensure_progress_topic(
        &self,
        source: &SourceName,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send;

    /// Reads the source's progress up to its high watermark as a `read_uncommitted` client sees it.
    /// Starts at `from_offset` if given (the mirror knows it). After [`Self::open`] nothing newer
    /// can appear, so the answer is final; before it, it is only good for looking.
    fn read_progress(
        &self,
        source: &SourceName,
        from_offset: Option<i64>,
    ) -> impl Future<Output = Result<CommittedProgress, BrokerError>> + Send;

    /// What is committed right now, without waiting for an open transaction to end: the latest
    /// progress a `read_committed` reader sees, which may lag. Fences nobody; only good for telling
    /// *whose* progress the topic holds before a claim.
    fn look(
        &self,
        source: &SourceName,
        from_offset: Option<i64>,
    ) -> impl Future<Output = Result<CommittedProgress, BrokerError>> + Send {
        self.read_progress(source, from_offset)
    }

    /// Makes a producer and initialises its transactions: fences every older producer of the
    /// source and aborts what it left open.
    fn open(
        &self,
        source: &SourceName,
    ) -> impl Future<Output = Result<Self::Publisher, BrokerError>> + Send;

    /// Partition counts of the named topics; a topic that does not exist is left out.
    fn topics(
        &self,
        names: Vec<String>,
    ) -> impl Future<Output = Result<BTreeMap<String, TopicInfo>, BrokerError>> + Send;
}

/// What can go wrong between transactions.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BrokerError {
    /// Not reachable now; try again.
    #[error("Kafka is not available: {0}")]
    Unavailable(String),
    /// Something only a person can mend: rights, topic settings, another cluster.
    #[error("{0}")]
    Configuration(String),
    /// A transaction of this source does not end within twice its time-out, so what is committed
    /// can't be told (KIP-890 "hanging transaction").
    #[error("hanging transaction on {topic}: last stable offset {stable} stays below {end}")]
    HangingTransaction {
        /// The progress topic.
        topic: String,
        /// Where `read_committed` readers stop.
        stable: i64,
        /// The high watermark.
        end: i64,
    },
    /// The progress topic holds a record that can't be read, or of a newer format.
    #[error("progress of {topic} can't be read: {reason}")]
    Unreadable {
        /// The progress topic.
        topic: String,
        /// Why.
        reason: String,
    },
    /// A newer relay of this source took over.
    #[error("fenced by a newer relay")]
    Fenced,
}
