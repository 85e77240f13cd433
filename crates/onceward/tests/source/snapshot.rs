//! The arithmetic of snapshots, against an oracle.

use std::collections::BTreeSet;

use onceward::source::snapshot::Snapshot;
use proptest::prelude::*;

fn snapshots() -> impl Strategy<Value = Snapshot> {
    (
        1_u64..50,
        0_u64..40,
        proptest::collection::btree_set(0_u64..40, 0..8),
    )
        .prop_map(|(xmin, width, running)| {
            let xmax = xmin + width;
            let xip = running
                .into_iter()
                .map(|x| xmin + x)
                .filter(|x| *x < xmax)
                .collect();
            Snapshot { xmin, xmax, xip }
        })
}

/// What happens at a database, one step at a time.
#[derive(Debug, Clone, Copy)]
enum Step {
    Begin,
    /// Commits the running transaction at this place, with or without a row.
    Commit(usize, bool),
    RollBack(usize),
    Fetch,
    /// Immediate stop: running transactions end, ids that left no trace are given out again.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Begin),
        4 => (0_usize..6, prop::bool::weighted(0.8)).prop_map(|(at, row)| Step::Commit(at, row)),
        2 => (0_usize..6).prop_map(Step::RollBack),
        3 => Just(Step::Fetch),
        1 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 1..120)
}

/// A server in a few lines: which ids run, which committed rows, which id comes next.
#[derive(Default)]
struct Oracle {
    next: u64,
    running: Vec<u64>,
    /// Ids of committed rows, not yet fetched.
    unfetched: BTreeSet<u64>,
    /// All ids of committed rows.
    committed: BTreeSet<u64>,
    /// Ids below are durable: a commit's WAL was flushed.
    durable: u64,
}

impl Oracle {
    fn snapshot(&self) -> Snapshot {
        let xmin = self.running.iter().copied().min().unwrap_or(self.next);
        let mut xip = self.running.clone();
        xip.sort_unstable();
        Snapshot {
            xmin,
            xmax: self.next,
            xip,
        }
    }
    fn take(&mut self, at: usize) -> Option<u64> {
        (!self.running.is_empty()).then(|| self.running.remove(at % self.running.len()))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn a_snapshot_survives_its_text(snapshot in snapshots()) {
        prop_assert_eq!(snapshot.to_string().parse::<Snapshot>().unwrap(), snapshot);
    }

    #[test]
    fn a_snapshot_sees_what_had_ended(snapshot in snapshots(), xid in 1_u64..120) {
        let ended = xid < snapshot.xmax && !snapshot.xip.contains(&xid);
        prop_assert_eq!(snapshot.sees(xid), ended);
    }

    #[test]
    fn lowering_keeps_every_row_of_the_batch_and_nothing_above_it(
        previous in snapshots(), current in snapshots(), rows in proptest::collection::btree_set(1_u64..120, 0..6)
    ) {
        let xmax = current.xmax.max(previous.xmax);
        let current = Snapshot { xmax, ..current };
        let rows: Vec<u64> = rows.into_iter().filter(|x| current.sees(*x)).collect();
        let lowered = current.lowered(&previous, rows.last().copied());
        for row in &rows {
            prop_assert!(lowered.sees(*row));
        }
        let top = rows.last().map_or(0, |x| x + 1).max(previous.xmax);
        for xid in top..130 {
            prop_assert!(!lowered.sees(xid));
        }
        // Still a snapshot that Postgres would accept.
        prop_assert_eq!(lowered.to_string().parse::<Snapshot>().unwrap(), lowered);
    }

    #[test]
    fn each_committed_row_is_fetched_exactly_once_whatever_happens(steps in steps()) {
        let mut server = Oracle { next: 3, durable: 3, ..Oracle::default() };
        let mut stored = Snapshot::genesis();
        let mut fetched = BTreeSet::new();
        for step in steps.into_iter().chain([Step::Fetch]) {
            match step {
                Step::Begin => {
                    server.running.push(server.next);
                    server.next += 1;
                }
                Step::Commit(at, row) => {
                    let Some(xid) = server.take(at) else { continue };
                    if row {
                        server.unfetched.insert(xid);
                        server.committed.insert(xid);
                        server.durable = server.durable.max(xid + 1);
                    }
                }
                Step::RollBack(at) => { server.take(at); }
                Step::Crash => {
                    server.running.clear();
                    server.next = server.durable;
                }
                Step::Fetch => {
                    let current = server.snapshot();
                    let batch: BTreeSet<u64> = server.committed.iter().copied()
                        .filter(|x| current.sees(*x) && !stored.sees(*x))
                        .collect();
                    prop_assert_eq!(&batch, &server.unfetched, "stored {}, now {}", stored, current);
                    if batch.is_empty() {
                        continue; // an empty batch stores nothing
                    }
                    stored = current.lowered(&stored, batch.last().copied());
                    fetched.extend(batch);
                    server.unfetched.clear();
                }
            }
        }
        prop_assert_eq!(fetched, server.committed);
    }
}

#[test]
fn text_that_is_no_snapshot_is_refused() {
    for text in [
        "", "1", "1:1", "2:1:", "0:1:", "1:4:9", "1:4:3,2", "1:4:2,2", "a:b:c", "1:4:2,",
    ] {
        let parsed = text.parse::<Snapshot>();
        assert_eq!(parsed.is_err(), text != "1:4:2,", "{text:?}");
    }
}
