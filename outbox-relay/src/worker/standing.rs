//! What this relay knows to be committed, and how it is written.

use std::borrow::Cow;

use onceward::source::{Mirror, ProgressPlace};
use onceward::{PartitionPositions, ProgressRecord};

/// With more partitions than this, progress is written with the changes only.
const SHORT: usize = 256;
/// How many transactions may build on one that tells of all partitions.
const BUILD_ON: u32 = 1_000;

/// What this relay knows to be committed.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    /// All partitions.
    pub(super) progress: ProgressRecord,
    pub(super) offset: i64,
    pub(super) topic_id: String,
    pub(super) cluster_id: String,
    /// The mirror holds it.
    pub(super) mirrored: bool,
    /// `None` until this term wrote one, and for few partitions.
    pub(super) full: Option<Full>,
}

/// The last progress that tells of all partitions.
#[derive(Debug, Clone)]
pub(super) struct Full {
    offset: i64,
    partitions: PartitionPositions,
    /// Transactions that build on it.
    built_on: u32,
}

impl Standing {
    /// What to write to say `progress`.
    pub(super) fn shortened<'p>(&self, progress: &'p ProgressRecord) -> Cow<'p, ProgressRecord> {
        match &self.full {
            Some(full) if full.built_on < BUILD_ON => {
                Cow::Owned(progress.changes_since(&full.partitions, full.offset))
            }
            _ => Cow::Borrowed(progress),
        }
    }

    /// `progress` is committed at `offset`, written in full or not.
    pub(super) fn advance(&mut self, progress: ProgressRecord, offset: i64, in_full: bool) {
        if in_full {
            let count: usize = progress.partitions.values().map(|of| of.len()).sum();
            self.full = (count > SHORT).then(|| Full {
                offset,
                partitions: progress.partitions.clone(),
                built_on: 0,
            });
        } else if let Some(full) = &mut self.full {
            full.built_on += 1;
        }
        self.progress = progress;
        self.offset = offset;
        self.mirrored = false;
    }

    /// What no relay does unless a test breaks the rule.
    pub(super) fn fall_back(&mut self, mirror: Option<Mirror>) {
        let Some(mirror) = mirror else { return };
        self.offset = mirror.progress_offset;
        self.progress.cursor = mirror.cursor;
        self.progress.position = mirror.position;
        self.progress.passed = mirror.passed;
        self.progress.id_sum = mirror.id_sum;
        self.progress.last = mirror.last;
    }

    pub(super) fn place(&self) -> ProgressPlace<'_> {
        ProgressPlace {
            offset: self.offset,
            topic_id: &self.topic_id,
            cluster_id: &self.cluster_id,
        }
    }
}

#[cfg(test)]
mod tests {
    use onceward::{Cursor, ProgressRecord, SourceId, SqliteCursor};

    use super::{BUILD_ON, SHORT, Standing};

    fn progress(partitions: usize) -> ProgressRecord {
        let cursor = Cursor::Sqlite(SqliteCursor { seq: 1 });
        let mut record = ProgressRecord::genesis(SourceId(uuid::Uuid::nil()), 0, cursor);
        let positions = (0..).zip(1..).take(partitions);
        record.partitions.insert("t".into(), positions.collect());
        record
    }

    fn standing(partitions: usize) -> Standing {
        Standing {
            progress: progress(partitions),
            offset: 0,
            topic_id: String::new(),
            cluster_id: String::new(),
            mirrored: true,
            full: None,
        }
    }

    /// Commits `progress` at the next offset, and says what it was written on.
    fn commit(standing: &mut Standing, progress: &ProgressRecord) -> Option<i64> {
        let since = standing.shortened(progress).partitions_since;
        standing.advance(progress.clone(), standing.offset + 2, since.is_none());
        since
    }

    #[test]
    fn few_partitions_are_always_told_of_in_full() {
        let mut standing = standing(SHORT);
        for _ in 0..3 {
            assert_eq!(commit(&mut standing, &progress(SHORT)), None);
        }
    }

    #[test]
    fn a_term_begins_in_full_and_so_does_every_thousandth_transaction() {
        let mut standing = standing(SHORT + 1);
        for _ in 0..2 {
            assert_eq!(commit(&mut standing, &progress(SHORT + 1)), None);
            let full_at = standing.offset;
            for _ in 0..BUILD_ON {
                assert_eq!(commit(&mut standing, &progress(SHORT + 1)), Some(full_at));
            }
        }
    }
}
