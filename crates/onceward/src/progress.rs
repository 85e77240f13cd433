//! Where a source stands: the cursor, and the progress record that carries it into Kafka.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{MessageId, SourceId};

/// Highest version of [`ProgressRecord`]'s form. A reader stops at a higher one than it knows. 1 tells of
/// all partitions, 2 of those that changed since an earlier record of form 1.
pub const PROGRESS_FORMAT: u32 = 2;
const IN_FULL: u32 = 1;

/// Where a source resumes. Opaque to everything but the database's own reader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Cursor {
    /// SQLite: writers are serialised, so commit order is `seq` order.
    Sqlite(SqliteCursor),
    /// Postgres: a snapshot, because sequence order is not commit order.
    Postgres(PgCursor),
}

/// The last `seq` passed; 0 before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqliteCursor {
    /// Rows up to and including this one are passed.
    pub seq: i64,
}

/// Rows visible in `done` are passed; while a large batch is paged, so are those visible in
/// `page.current` up to `page.last_seq`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PgCursor {
    /// A `pg_snapshot` as text, `xmin:xmax:xip,…`; `1:1:` before the first.
    pub done: String,
    /// The batch being paged.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub page: Option<PgPage>,
}

/// A batch of Postgres rows too big for one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PgPage {
    /// The snapshot the batch was read in; becomes `done` with the last page.
    pub current: String,
    /// Last `seq` passed within the batch.
    pub last_seq: i64,
}

/// Wrapping 128-bit sum of the message ids passed: with the count, it tells a lost or replaced
/// row. Stored as 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct IdSum(pub u128);

impl IdSum {
    /// Adds one id.
    pub fn add(&mut self, id: MessageId) {
        self.0 = self.0.wrapping_add(id.0.as_u128());
    }
    /// What was added since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self(self.0.wrapping_sub(earlier.0))
    }
    /// As stored in the mirror: 16 bytes, big endian.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
    /// Reads [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|b| Self(u128::from_be_bytes(b)))
    }
}
impl From<IdSum> for String {
    fn from(sum: IdSum) -> Self {
        format!("{:032x}", sum.0)
    }
}
impl TryFrom<String> for IdSum {
    type Error = std::num::ParseIntError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(Self)
    }
}

/// What each Kafka transaction of a relay carries beside its rows: the value of the one record in
/// `outbox.progress.<source>`, JSON. Rows and progress become visible together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressRecord {
    /// 1, or 2 with [`Self::partitions_since`]; see [`PROGRESS_FORMAT`].
    pub format: u32,
    /// The outbox this belongs to; another one stops the relay.
    pub source_id: SourceId,
    /// `outbox_source.epoch`.
    pub epoch: i64,
    /// Where to resume.
    pub cursor: Cursor,
    /// Rows published so far. Grows by one per record.
    pub position: i64,
    /// Rows passed so far: published or parked.
    pub passed: i64,
    /// Sum of their message ids.
    pub id_sum: IdSum,
    /// The last row passed, by `seq` and id; `None` at genesis.
    pub last: Option<LastRow>,
    /// Position of the last record in each partition: topic → partition → position.
    pub partitions: PartitionPositions,
    /// Offset of the record in the same topic that tells of all partitions, if this one tells only of
    /// those that changed since: see [`Self::changes_since`]. `None` in what a reader is given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub partitions_since: Option<i64>,
    /// Partition count of each keyed topic when it was first published to: another count would
    /// send keys elsewhere and break their order, so the relay stops at a change.
    #[serde(default)]
    pub partition_counts: BTreeMap<String, i32>,
    /// A replay under way or just done.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub replay: Option<ReplayProgress>,
}

impl ProgressRecord {
    /// The first progress of a source, before any row: what the first start commits to Kafka.
    pub fn genesis(source_id: SourceId, epoch: i64, cursor: Cursor) -> Self {
        Self {
            format: IN_FULL,
            source_id,
            epoch,
            cursor,
            position: 0,
            passed: 0,
            id_sum: IdSum::default(),
            last: None,
            partitions: PartitionPositions::new(),
            partitions_since: None,
            partition_counts: BTreeMap::new(),
            replay: None,
        }
    }

    /// The same, written shorter: of the partitions only those that differ from `full`, which stands
    /// at `offset` in the progress topic. A source of many partitions would else write all of them with
    /// each row.
    ///
    /// Changes add up, so that a reader needs two records and no more, and compaction may have the
    /// others: see [`Self::key`].
    #[must_use]
    pub fn changes_since(&self, full: &PartitionPositions, offset: i64) -> Self {
        let mut partitions = PartitionPositions::new();
        for (topic, positions) in &self.partitions {
            let before = full.get(topic);
            let is_new = |(partition, position): &(&i32, &i64)| {
                before.and_then(|before| before.get(partition)) != Some(*position)
            };
            let changed: BTreeMap<i32, i64> = positions
                .iter()
                .filter(is_new)
                .map(|(partition, position)| (*partition, *position))
                .collect();
            if !changed.is_empty() {
                partitions.insert(topic.clone(), changed);
            }
        }
        Self {
            format: PROGRESS_FORMAT,
            partitions,
            partitions_since: Some(offset),
            // Not `..self.clone()`: that would copy all partitions for nothing.
            source_id: self.source_id,
            epoch: self.epoch,
            cursor: self.cursor.clone(),
            position: self.position,
            passed: self.passed,
            id_sum: self.id_sum,
            last: self.last,
            partition_counts: self.partition_counts.clone(),
            replay: self.replay.clone(),
        }
    }

    /// Undoes [`Self::changes_since`]; `full` is what was read at [`Self::partitions_since`].
    #[must_use]
    pub fn completed(self, mut full: PartitionPositions) -> Self {
        for (topic, changed) in self.partitions {
            full.entry(topic).or_default().extend(changed);
        }
        Self {
            format: IN_FULL,
            partitions: full,
            partitions_since: None,
            ..self
        }
    }

    /// The record's key in the progress topic: changes must not make compaction take what they build on.
    pub fn key<'a>(&self, source: &'a str) -> Cow<'a, str> {
        match self.partitions_since {
            None => Cow::Borrowed(source),
            Some(_) => Cow::Owned(format!("{source}/changes")),
        }
    }
}

/// Topic → partition → position of the last record there.
pub type PartitionPositions = BTreeMap<String, BTreeMap<i32, i64>>;

/// The last row passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRow {
    /// Its sequence number.
    pub seq: i64,
    /// Its message id.
    pub message_id: MessageId,
}

/// How far the replay of a parked key has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayProgress {
    /// Number the owner gave the request.
    pub number: i64,
    /// Topic of the key.
    pub topic: String,
    /// The key; `None` for a row without one, replayed alone, and for a very long key. The request
    /// of this number has it.
    pub message_key: Option<String>,
    /// Copies up to this `seq` are published.
    pub last_seq: i64,
    /// The key is unparked.
    pub done: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Cursor, IdSum, PartitionPositions, PgCursor, ProgressRecord};
    use crate::{LastRow, MessageId, SourceId};

    fn record() -> ProgressRecord {
        let cursor = Cursor::Postgres(PgCursor {
            done: "740:745:741,743".into(),
            page: None,
        });
        let mut record = ProgressRecord::genesis(SourceId(uuid::Uuid::from_u128(7)), 2, cursor);
        (record.position, record.passed) = (12, 13);
        record.id_sum = IdSum(u128::MAX - 5);
        record.last = Some(LastRow {
            seq: 99,
            message_id: MessageId(uuid::Uuid::from_u128(8)),
        });
        record
            .partitions
            .entry("t".into())
            .or_default()
            .insert(3, 11);
        record
    }

    /// Positions that two transactions may have reached: partitions of the second at or beyond the first.
    fn grown() -> impl Strategy<Value = (PartitionPositions, PartitionPositions)> {
        let rows = prop::collection::vec((0..3_u8, 0..5_i32, 0..3_i64, any::<bool>()), 0..20);
        rows.prop_map(|rows| {
            let (mut full, mut now) = (PartitionPositions::new(), PartitionPositions::new());
            for (topic, partition, further, was_there) in rows {
                let topic = format!("t{topic}");
                let position = i64::from(partition) + 1;
                if was_there {
                    full.entry(topic.clone())
                        .or_default()
                        .insert(partition, position);
                }
                now.entry(topic)
                    .or_default()
                    .insert(partition, position + further);
            }
            // A partition that the first has, the second has too.
            for (topic, positions) in &full {
                let there = now.entry(topic.clone()).or_default();
                for (partition, position) in positions {
                    let known = there.entry(*partition).or_insert(*position);
                    *known = (*known).max(*position);
                }
            }
            (full, now)
        })
    }

    proptest! {
        #[test]
        fn changes_on_top_of_what_they_build_on_are_the_whole((full, now) in grown()) {
            let whole = ProgressRecord { partitions: now, ..record() };
            let changes = whole.changes_since(&full, 40);
            let written = serde_json::to_vec(&changes).unwrap();
            let read: ProgressRecord = serde_json::from_slice(&written).unwrap();
            prop_assert_eq!((read.format, read.partitions_since), (2, Some(40)));
            prop_assert_ne!(read.key("order"), whole.key("order"));
            for (topic, positions) in &read.partitions {
                for (partition, position) in positions {
                    let before = full.get(topic).and_then(|of| of.get(partition));
                    prop_assert_ne!(before, Some(position), "no change");
                }
            }
            prop_assert_eq!(read.completed(full), whole);
        }

        /// Whoever may write to a progress topic chooses these bytes: some of a sound record changed, or
        /// any at all. They are refused, or say the same when they are written again.
        #[test]
        fn no_bytes_are_half_a_progress_record(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            any in any::<Option<Vec<u8>>>(),
        ) {
            let mut bytes = serde_json::to_vec(&record()).unwrap();
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            let bytes = any.unwrap_or(bytes);
            if let Ok(read) = serde_json::from_slice::<ProgressRecord>(&bytes) {
                let again = serde_json::to_vec(&read).unwrap();
                prop_assert_eq!(serde_json::from_slice::<ProgressRecord>(&again).unwrap(), read);
            }
        }
    }
}
