//! Writers on Postgres, and a reader whose cursor is a snapshot.
//!
//! A writer takes a transaction id, locks its key's aggregate, inserts a row, and commits or rolls back:
//! in any order with the others, so that ids, sequence numbers and commits come in three different
//! orders. The server may stop at once and start again, and then hands out anew the ids above the
//! highest that is durable. A row may be copied in from another cluster, with that one's id.

use stateright::{Model, Property};

/// Transactions that may begin.
const TRANSACTIONS: u8 = 4;
/// The id of a row that another cluster gave out; further than this one ever comes.
const FOREIGN: u8 = 99;

/// Which rules hold. The default is the protocol.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// A batch is ordered by `seq`, not by transaction id.
    pub order_by_seq: bool,
    /// The stored snapshot's `xmax` is lowered to one above the highest id of the batch.
    pub lower_xmax: bool,
    /// The cursor is a snapshot, not the highest `seq` seen.
    pub snapshot: bool,
    /// A standby is not read: its snapshots leave out what runs on the primary.
    pub only_from_primary: bool,
    /// A row whose id was not given out yet stops the source.
    pub stop_at_foreign: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            order_by_seq: true,
            lower_xmax: true,
            snapshot: true,
            only_from_primary: true,
            stop_at_foreign: true,
        }
    }
}

/// `pg_snapshot`: everything below `xmax` is seen, but what ran then.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Snapshot {
    xmax: u8,
    xip: Vec<u8>,
}

impl Snapshot {
    fn sees(&self, xid: u8) -> bool {
        xid < self.xmax && !self.xip.contains(&xid)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row {
    pub seq: u8,
    pub xid: u8,
    pub key: u8,
}

/// A transaction that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Writer {
    xid: u8,
    key: u8,
    /// The row it has inserted; it holds its key's lock from then on.
    seq: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    next_xid: u8,
    next_seq: u8,
    /// Highest id that has ended.
    completed: u8,
    running: Vec<Writer>,
    committed: Vec<Row>,
    done: Snapshot,
    published: Vec<Row>,
    begun: u8,
    stops: u8,
    copied: bool,
    /// A person must help: nothing is fetched any more.
    stopped: bool,
    /// Nobody was writing, and yet the last fetch did not find all rows.
    left_behind: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    Begin {
        key: u8,
    },
    /// Locks the key and inserts.
    Append(u8),
    Commit(u8),
    RollBack(u8),
    /// `durable`: even the ids of those who left no trace are known afterwards.
    StopAtOnce {
        durable: bool,
    },
    /// A row of another cluster, as a dump brings it.
    Copy,
    Fetch,
    FetchFromStandby,
}

impl Model for Rules {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            next_xid: 1,
            next_seq: 1,
            completed: 0,
            running: Vec::new(),
            committed: Vec::new(),
            done: Snapshot {
                xmax: 1,
                xip: Vec::new(),
            },
            published: Vec::new(),
            begun: 0,
            stops: 0,
            copied: false,
            stopped: false,
            left_behind: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.begun < TRANSACTIONS {
            actions.extend([0, 1].map(|key| Action::Begin { key }));
        }
        for writer in &state.running {
            let locked = state
                .running
                .iter()
                .any(|w| w.key == writer.key && w.seq.is_some());
            match writer.seq {
                None if !locked => actions.push(Action::Append(writer.xid)),
                None => {}
                Some(_) => actions.push(Action::Commit(writer.xid)),
            }
            actions.push(Action::RollBack(writer.xid));
        }
        if state.stops == 0 {
            actions.extend([true, false].map(|durable| Action::StopAtOnce { durable }));
        }
        if !state.copied {
            actions.push(Action::Copy);
        }
        if !state.stopped {
            actions.push(Action::Fetch);
            if !self.only_from_primary {
                actions.push(Action::FetchFromStandby);
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Begin { key } => {
                state.running.push(Writer {
                    xid: state.next_xid,
                    key,
                    seq: None,
                });
                state.next_xid += 1;
                state.begun += 1;
            }
            Action::Append(xid) => {
                let writer = state.running.iter_mut().find(|w| w.xid == xid)?;
                writer.seq = Some(state.next_seq);
                state.next_seq += 1;
            }
            Action::Commit(xid) | Action::RollBack(xid) => {
                let place = state.running.iter().position(|w| w.xid == xid)?;
                let writer = state.running.remove(place);
                state.completed = state.completed.max(xid);
                if let (Action::Commit(_), Some(seq)) = (action, writer.seq) {
                    state.committed.push(Row {
                        seq,
                        xid,
                        key: writer.key,
                    });
                }
            }
            Action::StopAtOnce { durable } => {
                state.stops += 1;
                state.running.clear();
                if !durable {
                    let ours = state.committed.iter().filter(|row| row.xid != FOREIGN);
                    let known = ours.map(|row| row.xid).max();
                    state.next_xid = known.unwrap_or(0) + 1;
                }
                state.completed = state.next_xid - 1;
            }
            Action::Copy => {
                state.copied = true;
                state.committed.push(Row {
                    seq: state.next_seq,
                    xid: FOREIGN,
                    key: 0,
                });
                state.next_seq += 1;
            }
            Action::Fetch => {
                let running = state.running.iter().map(|writer| writer.xid).collect();
                self.fetch(&mut state, running)?;
            }
            Action::FetchFromStandby => self.fetch(&mut state, Vec::new())?,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no row twice", |_, state: &State| {
                let mut seqs: Vec<u8> = state.published.iter().map(|row| row.seq).collect();
                seqs.sort_unstable();
                seqs.windows(2).all(|pair| pair[0] != pair[1])
            }),
            Property::always("each key in order", |_, state: &State| {
                [0, 1].into_iter().all(|key| {
                    let of_key = state.published.iter().filter(|row| row.key == key);
                    of_key.map(|row| row.seq).is_sorted()
                })
            }),
            Property::always("no row skipped", |rules: &Rules, state: &State| {
                state
                    .committed
                    .iter()
                    .all(|row| state.published.contains(row) || !rules.is_passed(state, row))
            }),
            Property::always("no row left behind", |_, state: &State| !state.left_behind),
            Property::sometimes("a row with a reused id is published", |_, state: &State| {
                state.stops == 1
                    && state
                        .published
                        .iter()
                        .any(|row| row.xid >= state.done.xmax - 1)
            }),
        ]
    }
}

impl Rules {
    /// Whether no later fetch can find the row.
    fn is_passed(self, state: &State, row: &Row) -> bool {
        if self.snapshot {
            state.done.sees(row.xid)
        } else {
            state.published.iter().any(|known| known.seq >= row.seq)
        }
    }

    /// `running`: the transactions that the database says are under way.
    fn fetch(self, state: &mut State, running: Vec<u8>) -> Option<()> {
        let xmax = state.completed + 1;
        let mut current = Snapshot { xmax, xip: running };
        current.xip.retain(|xid| *xid < xmax);
        let foreign = |row: &Row| row.xid >= xmax;
        if self.stop_at_foreign && state.committed.iter().any(foreign) {
            state.stopped = true;
            return Some(());
        }
        let committed = state.committed.iter();
        let mut batch: Vec<Row> = committed
            .filter(|row| current.sees(row.xid) && !self.is_passed(state, row))
            .copied()
            .collect();
        let passed = state.published.len() + batch.len();
        state.left_behind = state.running.is_empty() && passed < state.committed.len();
        let Some(highest) = batch.iter().map(|row| row.xid).max() else {
            // An empty batch stores nothing.
            return state.left_behind.then_some(());
        };
        if self.order_by_seq {
            batch.sort_unstable_by_key(|row| row.seq);
        } else {
            batch.sort_unstable_by_key(|row| row.xid);
        }
        if self.lower_xmax {
            current.xmax = current.xmax.min(state.done.xmax.max(highest + 1));
            current.xip.retain(|xid| *xid < current.xmax);
        }
        state.published.extend(batch);
        state.done = current;
        Some(())
    }
}
