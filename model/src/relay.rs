//! Relays of one source, the transaction coordinator, and a network that keeps, doubles and delays.
//!
//! The rows are committed already and have their order (see [`crate::cursor`] for how they get it), so a
//! cursor is a number: so many rows are passed. Records of a transaction arrive one by one, the
//! progress record last. A relay that dies leaves its requests in the network.
//!
//! ```text
//! down ─ init ─▶ opened ─ read progress ─▶ tail ─ send … send ─▶ sent ─ EndTxn ─▶ ending
//!   ▲              │ none                   ▲                                       │
//!   │              └▶ genesis ─▶ mirror ────┤                                       │
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
    /// The database takes writes only from the relay that claimed last.
    pub guarded: bool,
    /// Progress is read up to the high watermark, or not at all; not as far as readers see.
    pub read_to_high_watermark: bool,
    /// The mirror is written before the first row is published.
    pub mirror_before_rows: bool,
    /// What may happen.
    pub world: World,
}

/// What may happen beside crashes and a network that loses, doubles and delays.
#[derive(Debug, Clone, Copy, Default)]
pub struct World {
    /// This row is refused by Kafka for what it is; 0 = none.
    pub poison: u8,
    /// Once, a person lets it be taken from now on.
    pub is_mended: bool,
    /// A partition's leader that does not know of a newer producer yet takes in the progress record of
    /// an older one. Nobody ends that transaction, and readers see nothing behind it (brokers before
    /// KIP-890).
    pub hangs: bool,
    /// Nothing was published before; and once, the progress topic is deleted and made anew.
    pub first_start: bool,
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
            guarded: true,
            read_to_high_watermark: true,
            mirror_before_rows: true,
            world: World::default(),
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
    /// There is no progress yet; then there is, and the database does not know.
    Genesis {
        epoch: u8,
    },
    Unmirrored {
        epoch: u8,
    },
    /// Kafka refused the poison, and the transaction is aborted.
    Refused {
        epoch: u8,
        cursor: u8,
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
    /// What `read_committed` readers see; of the progress topic, if nothing hangs there.
    rows: Vec<u8>,
    progress: Option<u8>,
    /// Something hangs, and this is what readers see.
    stable: Option<Option<u8>>,
    network: Vec<Request>,
    /// The database: who claimed last, the mirror of the position, the parked rows.
    owner: Option<usize>,
    mirror: Option<u8>,
    parked: Vec<u8>,
    is_mended: bool,
    is_lost: bool,
    crashes: u8,
    inits: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// `init_transactions`: fences, aborts what was open.
    Init(usize),
    ReadTooEarly(usize),
    ReadProgress(usize),
    WriteGenesis(usize),
    Begin(usize, u8),
    /// The next record arrives and is acknowledged.
    Send(usize),
    /// It is sent, and no answer comes: the relay drops its producer.
    SendLate(usize),
    Refuse(usize),
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
    /// The poison is taken from now on.
    Mend,
    LoseProgress,
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
        state.parked.contains(&row) || (self.refuses(state, row) && !self.park_before_passing)
    }

    fn refuses(self, state: &State, row: u8) -> bool {
        row == self.world.poison && !state.is_mended
    }

    /// Whether the database takes a write from this relay.
    fn may_write(self, state: &State, id: usize) -> bool {
        !self.guarded || state.owner == Some(id)
    }
}

impl State {
    /// A request reaches the coordinator or a partition's leader; `true` if it did what it asks.
    fn arrive(&mut self, rules: Rules, request: Request) -> bool {
        match request {
            Request::Produce { epoch, record } => {
                if epoch != self.epoch {
                    if let (Record::Progress(_), true) = (record, rules.world.hangs) {
                        self.stable.get_or_insert(self.progress);
                    }
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
                            Record::Progress(upto) => self.progress = Some(upto),
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
        let begun = (!self.world.first_start).then_some(0);
        vec![State {
            relays: [Relay::Down; RELAYS],
            epoch: 0,
            open: None,
            rows: Vec::new(),
            progress: begun,
            stable: None,
            network: Vec::new(),
            owner: None,
            mirror: begun,
            parked: Vec::new(),
            is_mended: false,
            is_lost: false,
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
                Relay::Genesis { .. } => actions.push(Action::WriteGenesis(id)),
                Relay::Unmirrored { .. } => actions.push(Action::Mirror(id)),
                Relay::Refused { .. } => actions.push(Action::Park(id)),
                Relay::Tail {
                    cursor, upto, sent, ..
                } if upto > cursor => {
                    let records = self.records(state, cursor, upto);
                    match records.get(usize::from(sent)) {
                        Some(Record::Row(row)) if self.refuses(state, *row) => {
                            actions.push(Action::Refuse(id));
                        }
                        Some(_) => actions.extend([Action::Send(id), Action::SendLate(id)]),
                        None => actions.push(Action::Commit(id)),
                    }
                }
                Relay::Tail { cursor, .. } => {
                    for upto in cursor + 1..=(cursor + BATCH).min(ROWS) {
                        actions.push(Action::Begin(id, upto));
                    }
                    if state.mirror < Some(cursor) {
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
        if self.world.is_mended && !state.is_mended {
            actions.push(Action::Mend);
        }
        if self.world.first_start && !state.is_lost && state.progress.is_some() {
            actions.push(Action::LoseProgress);
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
                state.owner = Some(id);
                state.epoch += 1;
                state.open = None;
                state.relays[id] = match early {
                    None => Relay::Opened { epoch: state.epoch },
                    Some(cursor) => tail(state.epoch, cursor),
                };
            }
            Action::ReadTooEarly(id) => {
                state.relays[id] = Relay::ReadTooEarly {
                    cursor: state.progress.unwrap_or(0),
                };
            }
            // Nothing of an older producer can still appear. What a newer one commits meanwhile may be
            // seen or not: this relay is fenced then.
            Action::ReadProgress(id) => {
                let Relay::Opened { epoch } = state.relays[id] else {
                    return None;
                };
                let found = match state.stable {
                    Some(_) if self.read_to_high_watermark => return None,
                    Some(stable) => stable,
                    None => state.progress,
                };
                state.relays[id] = match (found, state.mirror) {
                    (Some(_), Some(mirror)) if !self.position_from_kafka => tail(epoch, mirror),
                    (Some(0), None) if self.mirror_before_rows => Relay::Unmirrored { epoch },
                    // Progress without a mirror, or a mirror without progress, is a stop.
                    (Some(_), None) if self.mirror_before_rows => return None,
                    (None, Some(_)) => return None,
                    (Some(cursor), _) => tail(epoch, cursor),
                    (None, None) => Relay::Genesis { epoch },
                };
            }
            Action::WriteGenesis(id) => {
                let Relay::Genesis { epoch } = state.relays[id] else {
                    return None;
                };
                state.relays[id] = Relay::Down;
                if epoch == state.epoch {
                    state.progress = Some(0);
                    state.relays[id] = match self.mirror_before_rows {
                        true => Relay::Unmirrored { epoch },
                        false => tail(epoch, 0),
                    };
                }
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
            Action::Refuse(id) => {
                let Relay::Tail { epoch, cursor, .. } = state.relays[id] else {
                    return None;
                };
                state.relays[id] = Relay::Down;
                if epoch == state.epoch {
                    state.open = None;
                    if self.transactions_v2 {
                        state.epoch += 1;
                    }
                    let epoch = state.epoch;
                    state.relays[id] = Relay::Refused { epoch, cursor };
                }
            }
            Action::Park(id) => {
                let Relay::Refused { epoch, cursor } = state.relays[id] else {
                    return None;
                };
                state.relays[id] = Relay::Down;
                if self.may_write(&state, id) {
                    state.parked.push(self.world.poison);
                    state.relays[id] = tail(epoch, cursor);
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
                let (epoch, cursor) = match state.relays[id] {
                    Relay::Unmirrored { epoch } => (epoch, 0),
                    Relay::Tail { epoch, cursor, .. } => (epoch, cursor),
                    _ => return None,
                };
                state.relays[id] = Relay::Down;
                if self.may_write(&state, id) {
                    // Only where it grows.
                    state.mirror = state.mirror.max(Some(cursor));
                    state.relays[id] = tail(epoch, cursor);
                }
            }
            Action::Crash(id) => {
                state.relays[id] = Relay::Down;
                state.crashes += 1;
            }
            Action::TimeOut => {
                state.open = None;
                state.epoch += 1;
            }
            Action::Mend => state.is_mended = true,
            Action::LoseProgress => {
                state.is_lost = true;
                state.progress = None;
                if let Some(open) = &mut state.open {
                    open.retain(|record| matches!(record, Record::Row(_)));
                }
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
                    // The poison may be parked, or taken at last; none of the others is left out.
                    let others = |row: &u8| *row != rules.world.poison;
                    let seen: Vec<u8> = state.rows.iter().copied().filter(others).collect();
                    let wanted: Vec<u8> = (1..=ROWS).filter(others).collect();
                    let in_order = state.rows.windows(2).all(|pair| pair[0] < pair[1]);
                    in_order && wanted.starts_with(&seen)
                },
            ),
            Property::always("progress tells the rows", |_, state: &State| {
                let passed =
                    (1..=state.progress.unwrap_or(0)).filter(|row| !state.parked.contains(row));
                // Deleted progress tells nothing.
                state.is_lost || state.rows.iter().copied().eq(passed)
            }),
            Property::sometimes("all rows are passed", |_, state: &State| {
                state.progress == Some(ROWS)
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
