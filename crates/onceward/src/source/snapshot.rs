//! Arithmetic on `pg_snapshot`, pure, so that it can be tested against an oracle.

use std::fmt;
use std::str::FromStr;

/// A Postgres snapshot: ids below `xmin` have ended, those at or above `xmax` have not begun,
/// those in `xip` were running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Every id below has ended.
    pub xmin: u64,
    /// No id at or above had begun.
    pub xmax: u64,
    /// Running ids, ascending, in `xmin..xmax`.
    pub xip: Vec<u64>,
}

/// The text is not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a snapshot xmin:xmax:xip,…")]
pub struct InvalidSnapshot(String);

impl Snapshot {
    /// Nothing is visible; the cursor before the first row.
    pub fn genesis() -> Self {
        Self {
            xmin: 1,
            xmax: 1,
            xip: Vec::new(),
        }
    }

    /// Whether the effects of `xid`, if it committed, are in the snapshot (as
    /// `pg_visible_in_snapshot`).
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.xip.binary_search(&xid).is_err())
    }

    /// What may be stored of `self`, the snapshot a batch was read in, when `previous` was stored
    /// before and `highest` is the highest id of the batch's rows.
    ///
    /// After a crash or promotion Postgres hands out again ids whose WAL was not durable. Such an
    /// id never committed a row in this batch, and everything below a committed id is durable; so
    /// the upper bound goes down to just above what was really seen. No further: that would hide
    /// visible rows and break the order of keys.
    #[must_use]
    pub fn lowered(&self, previous: &Self, highest: Option<u64>) -> Self {
        let seen = highest.map_or(0, |xid| xid.saturating_add(1));
        let xmax = previous.xmax.max(seen).min(self.xmax);
        Self {
            xmin: self.xmin.min(xmax),
            xmax,
            xip: self.xip.iter().copied().filter(|x| *x < xmax).collect(),
        }
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (at, xid) in self.xip.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{xid}")?;
        }
        Ok(())
    }
}

impl FromStr for Snapshot {
    type Err = InvalidSnapshot;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.splitn(3, ':');
            let xmin = parts.next()?.parse().ok()?;
            let xmax = parts.next()?.parse().ok()?;
            let xip: Vec<u64> = parts
                .next()?
                .split(',')
                .filter(|x| !x.is_empty())
                .map(|x| x.parse().ok())
                .collect::<Option<_>>()?;
            let ascending = xip.windows(2).all(|w| matches!(w, [a, b] if a < b));
            let inside = xip.iter().all(|x| (xmin..xmax).contains(x));
            (xmin >= 1 && xmin <= xmax && ascending && inside).then_some(Self { xmin, xmax, xip })
        };
        parse().ok_or_else(|| InvalidSnapshot(text.to_owned()))
    }
}
