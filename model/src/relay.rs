//! Relays of one source, the transaction coordinator, and a network that keeps, doubles and delays.
//!
//! The rows are committed already and have their order (see [`crate::cursor`] for how they get it), so a
//! cursor is a number: so many rows are passed. Records of a transaction arrive one by one, the
//! progress record last. A relay that dies leaves its requests in the network.
//!
//! ```text
//! down ─ init ─▶ opened ─ read progress ─▶ tail ─ send … send ─▶ sent ─ EndTxn ─▶ ending
//!   ▲                                       ▲                                       │
//!   └── crash, time-out, dirty: anywhere ───┴──────────────── answer ───────────────┘
//! ```

use stateright::{Model, Property};

/// Rows of the source.
const ROWS: u8 = 3;
/// Most rows in one transaction.
const BATCH: u8 = 2;
/// Relays that may run.
const RELAYS: usize = 2;

/// Which rules hold. The default is the protocol.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Kafka's transactions V2 (KIP-890): each end has an epoch of its own.
    pub transactions_v2: bool,
    /// Progress is read after `init_transactions`, not before.
    pub init_before_read: bool,
    /// The position comes from the progress topic, not from the database.
    pub position_from_kafka: bool,
    /// An EndTxn without an answer means: take over anew. Else it is taken for "not committed".
    pub unknown_means_take_over: bool,
    /// A producer that had to send a request again begins no further transaction.
    pub dirty_is_dropped: bool,
    /// A refused row is stored as parked before the cursor passes it.
    pub park_before_passing: bool,
    /// This row is refused by Kafka for what it is; 0 = none.
    pub poison: u8,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            transactions_v2: false,
            init_before_read: true,
            position_from_kafka: true,
            unknown_means_take_over: true,
            dirty_is_dropped: true,
            park_before_passing: true,
            poison: 0,
        }
    }
}

/// A record of a transaction: a row's number, or the progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Record {
    Row(u8),
    Progress(u8),
}

/// A request that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Request {
    Produce { epoch: u8, record: Record },
    EndTxn { epoch: u8, commit: bool },
}

/// What a relay is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Relay {
    Down,
    /// Only where progress is read too early.
    ReadTooEarly {
        cursor: u8,
    },
    Opened {
        epoch: u8,
    },
    /// `upto` > `cursor`: rows up to it are being sent, `sent` of the records have arrived.
    Tail {
        epoch: u8,
        cursor: u8,
        upto: u8,
        sent: u8,
    },
    Ending {
        epoch: u8,
        cursor: u8,
        upto: u8,
        dirty: bool,
    },
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    relays: [Relay; RELAYS],
    /// The coordinator's epoch, and the records of the open transaction.
    epoch: u8,
    open: Option<Vec<Record>>,
    /// What `read_committed` readers see.
    rows: Vec<u8>,
    progress: u8,
    network: Vec<Request>,
    /// The database: the mirror of the position, and the parked rows.
    mirror: u8,
    parked: Vec<u8>,
    crashes: u8,
    inits: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// `init_transactions`: fences, aborts what was open.
    Init(usize),
    ReadTooEarly(usize),
    ReadProgress(usize),
    Begin(usize, u8),
    /// The next record arrives and is acknowledged.
    Send(usize),
    /// It is sent, and no answer comes: the relay drops its producer.
    SendLate(usize),
    Park(usize),
    Commit(usize),
    /// The client library sends EndTxn once more by itself.
    Resend(usize),
    /// A request arrives. `answered`: its sender hears of it.
    Deliver {
        request: Request,
        answered: bool,
    },
    Lose(Request),
    /// The mutant's belief: no answer, so nothing happened.
    TakeForAborted(usize),
    Mirror(usize),
    Crash(usize),
    /// Kafka ends an open transaction by its time-out.
    TimeOut,
}

impl Rules {
    /// Records of a transaction from behind `cursor` up to `upto`: what is parked is left out.
    fn records(self, state: &State, cursor: u8, upto: u8) -> Vec<Record> {
        let rows = (cursor + 1..=upto).filter(|row| !self.passes(state, *row));
        rows.map(Record::Row)
            .chain([Record::Progress(upto)])
            .collect()
    }

    /// A row that publishing skips.
    fn passes(self, state: &State, row: u8) -> bool {
        state.parked.contains(&row) || (row == self.poison && !self.park_before_passing)
    }
}

impl State {
    /// A request reaches the coordinator or a partition's leader; `true` if it did what it asks.
    fn arrive(&mut self, rules: Rules, request: Request) -> bool {
        match request {
            Request::Produce { epoch, record } => {
                if epoch != self.epoch {
                    return false;
                }
                self.open.get_or_insert_default().push(record);
                true
            }
            Request::EndTxn { epoch, commit } => {
                if epoch != self.epoch {
                    return false;
                }
                let Some(open) = self.open.take() else {
                    return false;
                };
                if commit {
                    for record in open {
                        match record {
                            Record::Row(row) => self.rows.push(row),
                            Record::Progress(upto) => self.progress = upto,
                        }
                    }
                }
                if rules.transactions_v2 {
                    self.epoch += 1;
                }
                true
            }
        }
    }
}

impl Model for Rules {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            relays: [Relay::Down; RELAYS],
            epoch: 0,
            open: None,
            rows: Vec::new(),
            progress: 0,
            network: Vec::new(),
            mirror: 0,
            parked: Vec::new(),
            crashes: 0,
            inits: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (id, relay) in state.relays.iter().enumerate() {
            match *relay {
                Relay::Down if self.init_before_read => actions.push(Action::Init(id)),
                Relay::Down => actions.push(Action::ReadTooEarly(id)),
                Relay::ReadTooEarly { .. } => actions.push(Action::Init(id)),
                Relay::Opened { .. } => actions.push(Action::ReadProgress(id)),
                Relay::Tail {
                    cursor, upto, sent, ..
                } if upto > cursor => {
                    let records = self.records(state, cursor, upto);
                    match records.get(usize::from(sent)) {
                        Some(Record::Row(row)) if *row == self.poison => {
                            actions.push(Action::Park(id));
                        }
                        Some(_) => actions.extend([Action::Send(id), Action::SendLate(id)]),
                        None => actions.push(Action::Commit(id)),
                    }
                }
                Relay::Tail { cursor, .. } => {
                    for upto in cursor + 1..=(cursor + BATCH).min(ROWS) {
                        actions.push(Action::Begin(id, upto));
                    }
                    if state.mirror < cursor {
                        actions.push(Action::Mirror(id));
                    }
                }
                Relay::Ending { dirty, .. } => {
                    if !dirty {
                        actions.push(Action::Resend(id));
                    }
                    if !self.unknown_means_take_over {
                        actions.push(Action::TakeForAborted(id));
                    }
                }
            }
            if *relay != Relay::Down {
                actions.push(Action::Crash(id));
            }
        }
        for request in &state.network {
            for answered in [true, false] {
                actions.push(Action::Deliver {
                    request: *request,
                    answered,
                });
            }
            actions.push(Action::Lose(*request));
        }
        if state.open.is_some() {
            actions.push(Action::TimeOut);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Init(id) => {
                let early = match state.relays[id] {
                    Relay::ReadTooEarly { cursor } => Some(cursor),
                    _ => None,
                };
                state.inits += 1;
                state.epoch += 1;
                state.open = None;
                state.relays[id] = match early {
                    None => Relay::Opened { epoch: state.epoch },
                    Some(cursor) => tail(state.epoch, cursor),
                };
            }
            Action::ReadTooEarly(id) => {
                state.relays[id] = Relay::ReadTooEarly {
                    cursor: state.progress,
                };
            }
            // Nothing of an older producer can still appear. What a newer one commits meanwhile may be
            // seen or not: this relay is fenced then.
            Action::ReadProgress(id) => {
                let Relay::Opened { epoch } = state.relays[id] else {
                    return None;
                };
                let cursor = match self.position_from_kafka {
                    true => state.progress,
                    false => state.mirror,
                };
                state.relays[id] = tail(epoch, cursor);
            }
            Action::Begin(id, to) => {
                let Relay::Tail { upto, .. } = &mut state.relays[id] else {
                    return None;
                };
                *upto = to;
            }
            Action::Send(id) | Action::SendLate(id) => {
                let Relay::Tail {
                    epoch,
                    cursor,
                    upto,
                    sent,
                } = state.relays[id]
                else {
                    return None;
                };
                let record = *self.records(&state, cursor, upto).get(usize::from(sent))?;
                let request = Request::Produce { epoch, record };
                if let Action::SendLate(_) = action {
                    state.network.push(request);
                    state.relays[id] = Relay::Down;
                } else if state.arrive(*self, request) {
                    state.relays[id] = Relay::Tail {
                        epoch,
                        cursor,
                        upto,
                        sent: sent + 1,
                    };
                } else {
                    state.relays[id] = Relay::Down; // Fenced
                }
            }
            // The transaction is aborted, the row is stored as parked, and the batch begins anew. All of
            // it under the guard of the claim: a fenced relay stores nothing.
            Action::Park(id) => {
                let Relay::Tail { epoch, cursor, .. } = state.relays[id] else {
                    return None;
                };
                if epoch != state.epoch {
                    state.relays[id] = Relay::Down;
                } else {
                    state.open = None;
                    if self.transactions_v2 {
                        state.epoch += 1;
                    }
                    state.parked.push(self.poison);
                    state.relays[id] = tail(state.epoch, cursor);
                }
            }
            Action::Commit(id) => {
                let Relay::Tail {
                    epoch,
                    cursor,
                    upto,
                    ..
                } = state.relays[id]
                else {
                    return None;
                };
                state.network.push(Request::EndTxn {
                    epoch,
                    commit: true,
                });
                state.relays[id] = Relay::Ending {
                    epoch,
                    cursor,
                    upto,
                    dirty: false,
                };
            }
            Action::Resend(id) => {
                let Relay::Ending { epoch, dirty, .. } = &mut state.relays[id] else {
                    return None;
                };
                *dirty = true;
                let request = Request::EndTxn {
                    epoch: *epoch,
                    commit: true,
                };
                state.network.push(request);
            }
            Action::Deliver { request, answered } => {
                let place = state.network.iter().position(|found| *found == request)?;
                state.network.remove(place);
                let done = state.arrive(*self, request);
                if let Request::EndTxn { epoch: of, .. } = request
                    && answered
                {
                    let next = state.epoch;
                    for relay in &mut state.relays {
                        let Relay::Ending {
                            epoch, upto, dirty, ..
                        } = *relay
                        else {
                            continue;
                        };
                        if epoch != of {
                            continue;
                        }
                        *relay = match done {
                            true if dirty && self.dirty_is_dropped => Relay::Down,
                            true => tail(next, upto),
                            false => Relay::Down,
                        };
                    }
                }
            }
            Action::Lose(request) => {
                let place = state.network.iter().position(|found| *found == request)?;
                state.network.remove(place);
            }
            Action::TakeForAborted(id) => {
                let Relay::Ending { epoch, cursor, .. } = state.relays[id] else {
                    return None;
                };
                state.relays[id] = tail(epoch, cursor);
            }
            Action::Mirror(id) => {
                let Relay::Tail { cursor, .. } = state.relays[id] else {
                    return None;
                };
                state.mirror = state.mirror.max(cursor);
            }
            Action::Crash(id) => {
                state.relays[id] = Relay::Down;
                state.crashes += 1;
            }
            Action::TimeOut => {
                state.open = None;
                state.epoch += 1;
            }
        }
        state.network.sort_unstable();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "each row once and in order",
                |rules: &Rules, state: &State| {
                    let parked = |row: &u8| state.parked.contains(row) || (*row == rules.poison);
                    let wanted: Vec<u8> = (1..=ROWS).filter(|row| !parked(row)).collect();
                    wanted.starts_with(&state.rows)
                },
            ),
            Property::always("progress tells the rows", |_, state: &State| {
                let passed = (1..=state.progress).filter(|row| !state.parked.contains(row));
                state.rows.iter().copied().eq(passed)
            }),
            Property::sometimes("all rows are passed", |_, state: &State| {
                state.progress == ROWS
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.crashes <= 2 && state.inits <= 3 && state.network.len() <= 2 && state.epoch <= 7
    }
}

fn tail(epoch: u8, cursor: u8) -> Relay {
    Relay::Tail {
        epoch,
        cursor,
        upto: cursor,
        sent: 0,
    }
}
