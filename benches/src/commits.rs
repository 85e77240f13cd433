//! When each row was committed, beside when a reader saw it.

use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

use crate::reader::{NEVER, Reader};

/// When the COMMIT of each numbered row had returned.
pub(crate) struct Commits {
    zero: Instant,
    /// Nanoseconds since `zero`.
    at: Vec<AtomicI64>,
}

impl Commits {
    /// Of rows with numbers below `rows`; `zero` is the moment from which the reader counts too.
    pub(crate) fn new(rows: usize, zero: Instant) -> Self {
        let at = (0..rows).map(|_| AtomicI64::new(NEVER)).collect();
        Self { zero, at }
    }

    /// Now.
    pub(crate) fn returned(&self, number: usize) -> Result<()> {
        let now = i64::try_from(self.zero.elapsed().as_nanos())?;
        let slot = self.at.get(number).context("a row too many")?;
        slot.store(now, Ordering::Relaxed);
        Ok(())
    }

    /// When a row was committed, nanoseconds since zero, or [`NEVER`].
    pub(crate) fn at(&self, number: usize) -> i64 {
        let slot = self.at.get(number);
        slot.map_or(NEVER, |at| at.load(Ordering::Relaxed))
    }

    /// Nanoseconds from COMMIT to visible, of these rows.
    pub(crate) fn to_visible(&self, reader: &Reader, rows: Range<usize>) -> Result<Histogram<u64>> {
        let mut histogram = Histogram::<u64>::new(3)?;
        for number in rows {
            let (seen, committed) = (reader.seen(number), self.at(number));
            ensure!(
                seen != NEVER && committed != NEVER,
                "row {number} has no times"
            );
            // A row can be visible before its writer is told of the commit.
            histogram.record(u64::try_from(seen - committed).unwrap_or(0))?;
        }
        Ok(histogram)
    }
}
