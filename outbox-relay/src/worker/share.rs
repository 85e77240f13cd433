//! What several backlogs in one relay may take of its memory: together no more than one alone.
//!
//! A source that reads a backlog holds two batches, one in flight and one ahead. Ten of them at once would hold
//! twenty, so each takes its share of the limits. One that has found no backlog yet begins with a
//! small batch: when a relay starts, or Kafka comes back, all find theirs at the same moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use onceward::source::FetchLimits;

use crate::options::RelayOptions;

/// A first batch at most; a transaction of this size costs little more a row than a full one.
const FIRST: FetchLimits = FetchLimits {
    max_rows: 2_000,
    max_bytes: 1024 * 1024,
};
/// No share is smaller: below that the broker works for transactions, not for rows.
const LEAST: FetchLimits = FetchLimits {
    max_rows: 500,
    max_bytes: 512 * 1024,
};

/// How many sources of a relay have a backlog.
#[derive(Debug, Clone, Default)]
pub(crate) struct Backlogs(Arc<AtomicU32>);

/// One source's part in it.
#[derive(Debug)]
pub(super) struct Share {
    backlogs: Backlogs,
    counted: bool,
}

impl Share {
    pub(super) fn of(backlogs: Backlogs) -> Self {
        Self {
            backlogs,
            counted: false,
        }
    }

    /// Whether more rows wait than the last batch took.
    pub(super) fn set_backlog(&mut self, backlog: bool) {
        if backlog == self.counted {
            return;
        }
        self.counted = backlog;
        // A count and nothing else: no other memory hangs on it.
        match backlog {
            true => self.backlogs.0.fetch_add(1, Ordering::Relaxed),
            false => self.backlogs.0.fetch_sub(1, Ordering::Relaxed),
        };
    }

    /// Of the next batch.
    pub(super) fn limits(&self, options: &RelayOptions) -> FetchLimits {
        let (rows, bytes) = (options.batch_rows, options.batch_bytes);
        if !self.counted {
            return FetchLimits {
                max_rows: rows.min(FIRST.max_rows),
                max_bytes: bytes.min(FIRST.max_bytes),
            };
        }
        let sources = self.backlogs.0.load(Ordering::Relaxed).max(1);
        FetchLimits {
            max_rows: rows.min((rows / sources).max(LEAST.max_rows)),
            max_bytes: bytes.min((bytes / u64::from(sources)).max(LEAST.max_bytes)),
        }
    }
}

/// However a term ends: one whose lease is lost is dropped in the midst of a backlog.
impl Drop for Share {
    fn drop(&mut self) {
        self.set_backlog(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(share: &Share) -> u32 {
        share.limits(&RelayOptions::default()).max_rows
    }

    #[test]
    fn backlogs_share_what_one_alone_may_take() {
        let backlogs = Backlogs::default();
        let mut shares: Vec<Share> = (0..10).map(|_| Share::of(backlogs.clone())).collect();
        assert!(shares.iter().all(|share| rows(share) == 2_000));
        shares[0].set_backlog(true);
        shares[0].set_backlog(true);
        assert_eq!(rows(&shares[0]), 10_000);
        for share in &mut shares {
            share.set_backlog(true);
        }
        assert_eq!(shares.iter().map(rows).sum::<u32>(), 10_000);
        shares.truncate(2);
        assert_eq!(rows(&shares[0]), 5_000);
        shares[1].set_backlog(false);
        assert_eq!(rows(&shares[0]), 10_000);
    }

    #[test]
    fn a_share_is_neither_tiny_nor_above_the_limits() {
        let backlogs = Backlogs::default();
        let mut shares: Vec<Share> = (0..100).map(|_| Share::of(backlogs.clone())).collect();
        let small = RelayOptions {
            batch_rows: 7,
            batch_bytes: 70,
            ..RelayOptions::default()
        };
        let limits = shares[0].limits(&small);
        assert_eq!((limits.max_rows, limits.max_bytes), (7, 70));
        for share in &mut shares {
            share.set_backlog(true);
        }
        assert_eq!(rows(&shares[0]), 500);
        let limits = shares[0].limits(&small);
        assert_eq!((limits.max_rows, limits.max_bytes), (7, 70));
    }
}
