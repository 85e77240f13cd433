//! What an audit says.

use std::collections::BTreeMap;

use serde::Serialize;

/// At most this many findings of one kind are kept in full; all are counted.
const KEPT_PER_KIND: u64 = 100;

/// The whole judgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything within the window is as promised.
    Clean,
    /// At least one finding.
    Broken,
    /// There was neither a row nor a record to look at.
    NothingToCheck,
    /// Nothing found, but a part could not be read (Kafka or a database is down).
    Incomplete,
}

/// What kind of promise is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A row was passed by its relay, but no record of it is in the topic and it is not parked.
    Lost,
    /// A row is in the topics more than once.
    Doubled,
    /// Two records of one source, topic and key stand in another order than their rows.
    Reordered,
    /// Records of one key are in more than one partition, so they have no order.
    KeyMoved,
    /// A position below the source's progress belongs to no record.
    PositionGap,
    /// Two records claim the same position.
    PositionDoubled,
    /// A record's "previous position" is not that of the record before it in its partition.
    ChainBroken,
    /// A record claims to come from a source that has no such row.
    Foreign,
    /// A record's topic, key or payload is not its row's.
    Changed,
    /// A record below a consumer's next offset has no inbox row.
    Unhandled,
    /// An inbox row's record is not in the topic.
    WithoutRecord,
    /// An inbox row says waiting or dead, but the message itself is gone.
    CopyMissing,
    /// A consumer's next offset is beyond the end of the partition.
    BeyondEnd,
    /// Progress belongs to another database, or epochs disagree.
    Identity,
}

impl FindingKind {
    /// As printed.
    pub fn label(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Doubled => "doubled",
            Self::Reordered => "reordered",
            Self::KeyMoved => "key moved",
            Self::PositionGap => "position gap",
            Self::PositionDoubled => "position doubled",
            Self::ChainBroken => "chain broken",
            Self::Foreign => "foreign",
            Self::Changed => "changed",
            Self::Unhandled => "unhandled",
            Self::WithoutRecord => "without record",
            Self::CopyMissing => "copy missing",
            Self::BeyondEnd => "beyond end",
            Self::Identity => "identity",
        }
    }
}

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which promise.
    pub kind: FindingKind,
    /// The source or consumer it concerns.
    pub who: String,
    /// The message id, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// `topic/partition@offset`, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// The whole sentence.
    pub text: String,
}

/// How much of a source could be judged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SourceWindow {
    /// Name.
    pub source: String,
    /// Position of the progress record read first: the upper bound.
    pub position: i64,
    /// Positions up to here can't be checked, because log retention took records.
    pub lower_position: i64,
    /// Rows up to this `seq` were purged by the janitor.
    pub floor_seq: i64,
    /// Rows in the outbox.
    pub rows: u64,
    /// Rows found exactly once in their topic.
    pub published: u64,
    /// Rows not passed yet.
    pub pending: u64,
    /// Rows withheld with their key.
    pub parked: u64,
    /// Rows given up by an operator.
    pub discarded: u64,
    /// Records of this source that were read.
    pub records: u64,
    /// Records newer than the window.
    pub newer: u64,
    /// Records whose row was purged: position checked, content not checkable.
    pub purged: u64,
    /// Passed rows whose record may have been taken by log retention: not checkable.
    pub trimmed: u64,
}

/// How much of a topic could be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicWindow {
    /// Name.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// First offset there is.
    pub low: i64,
    /// Read up to, exclusive.
    pub end: i64,
    /// High watermark; above `end` a transaction was still open.
    pub high: i64,
    /// Committed records read.
    pub records: u64,
}

/// How much of a consumer could be judged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ConsumerWindow {
    /// Name.
    pub consumer: String,
    /// Topics it has claimed partitions of.
    pub topics: u64,
    /// Records below its next offsets and above its floors.
    pub records: u64,
    /// Handled.
    pub handled: u64,
    /// To be tried again.
    pub waiting: u64,
    /// Dead letters.
    pub dead: u64,
    /// Given up by an operator.
    pub discarded: u64,
    /// Skipped, because the same id was handled at other coordinates.
    pub repeated: u64,
    /// Records not reached yet.
    pub ahead: u64,
    /// Records below the inbox floor: not checkable.
    pub below_floor: u64,
}

/// The whole report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The judgement.
    pub verdict: Verdict,
    /// Per source.
    pub sources: Vec<SourceWindow>,
    /// Per partition.
    pub topics: Vec<TopicWindow>,
    /// Per consumer.
    pub consumers: Vec<ConsumerWindow>,
    /// Broken promises by kind.
    pub counts: BTreeMap<FindingKind, u64>,
    /// The first of each kind.
    pub findings: Vec<Finding>,
    /// What is odd without breaking a promise, e.g. records of strangers.
    pub notes: Vec<String>,
    /// What could not be read.
    pub unreadable: Vec<String>,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            verdict: Verdict::NothingToCheck,
            sources: vec![],
            topics: vec![],
            consumers: vec![],
            counts: BTreeMap::new(),
            findings: vec![],
            notes: vec![],
            unreadable: vec![],
        }
    }
}

impl Report {
    /// Adds a finding.
    pub fn find(&mut self, finding: Finding) {
        let count = self.counts.entry(finding.kind).or_default();
        *count += 1;
        if *count <= KEPT_PER_KIND {
            self.findings.push(finding);
        }
    }

    /// How many findings of a kind there are.
    pub fn count(&self, kind: FindingKind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    /// Draws the verdict from what was found and read.
    #[must_use]
    pub fn judged(mut self) -> Self {
        let looked_at = self
            .sources
            .iter()
            .any(|s| s.rows + s.records + s.parked + s.discarded > 0)
            || self.consumers.iter().any(|c| c.records > 0);
        self.verdict = if !self.counts.is_empty() {
            Verdict::Broken
        } else if !self.unreadable.is_empty() {
            Verdict::Incomplete
        } else if looked_at {
            Verdict::Clean
        } else {
            Verdict::NothingToCheck
        };
        self
    }
}
