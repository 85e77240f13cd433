//! The replay of a parked key: copies in the database go out through Kafka, and only then are gone.
//!
//! A Kafka transaction holds some of the copies and a progress record that tells which is the last one;
//! what the database must do afterwards is another transaction, and relays die between the two.
//!
//! ```text
//! down ─ init ─▶ opened ─ read progress, clean up ─▶ ready ─ send ─▶ ending ─ answer ─▶ committed
//!                                                      ▲                                   │
//!                                                      └──────────── delete copies ────────┘
//! ```

use stateright::{Model, Property};

/// Copies of the parked key.
const COPIES: u8 = 3;
const RELAYS: usize = 2;

/// Which rules hold. The default is the protocol.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Whoever takes over deletes the copies that the progress tells to be published.
    pub clean_up_at_take_over: bool,
    /// Copies are deleted after a known commit, not before.
    pub delete_after_commit: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            clean_up_at_take_over: true,
            delete_after_commit: true,
        }
    }
}

/// A whole transaction that waits for its end to arrive: the copies up to `upto`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndTxn {
    epoch: u8,
    copies: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Relay {
    Down,
    Opened { epoch: u8 },
    Ready { epoch: u8 },
    Ending(EndTxn),
    Committed(EndTxn),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    relays: [Relay; RELAYS],
    /// Who claimed last; the database takes writes only from this one.
    owner: usize,
    epoch: u8,
    network: Vec<EndTxn>,
    /// What `read_committed` readers see: copies, and the last one that the progress tells of.
    published: Vec<u8>,
    progress: u8,
    /// The database.
    copies: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Claims, and fences older producers.
    Init(usize),
    TakeOver(usize),
    /// Sends so many copies and the end of their transaction.
    Send(usize, usize),
    Arrive {
        end: EndTxn,
        answered: bool,
    },
    Lose(EndTxn),
    /// Deletes what a known commit has published.
    Settle(usize),
    Crash(usize),
}

impl Model for Rules {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            relays: [Relay::Down, Relay::Down],
            owner: 0,
            epoch: 0,
            network: Vec::new(),
            published: Vec::new(),
            progress: 0,
            copies: (1..=COPIES).collect(),
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (id, relay) in state.relays.iter().enumerate() {
            match relay {
                Relay::Down => actions.push(Action::Init(id)),
                Relay::Opened { .. } => actions.push(Action::TakeOver(id)),
                Relay::Ready { .. } => {
                    let all = state.copies.len();
                    actions.extend((1..=all).map(|count| Action::Send(id, count)));
                }
                Relay::Ending(_) => {}
                Relay::Committed(_) => actions.push(Action::Settle(id)),
            }
            if *relay != Relay::Down {
                actions.push(Action::Crash(id));
            }
        }
        for end in &state.network {
            let arrive = [true, false].map(|answered| Action::Arrive {
                end: end.clone(),
                answered,
            });
            actions.extend(arrive);
            actions.push(Action::Lose(end.clone()));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Init(id) => {
                state.owner = id;
                state.epoch += 1;
                state.relays[id] = Relay::Opened { epoch: state.epoch };
            }
            Action::TakeOver(id) => {
                let Relay::Opened { epoch } = state.relays[id] else {
                    return None;
                };
                state.relays[id] = Relay::Down;
                if state.owner == id {
                    if self.clean_up_at_take_over {
                        let published = state.progress;
                        state.copies.retain(|copy| *copy > published);
                    }
                    state.relays[id] = Relay::Ready { epoch };
                }
            }
            Action::Send(id, count) => {
                let Relay::Ready { epoch } = state.relays[id] else {
                    return None;
                };
                let copies = state.copies.get(..count)?.to_vec();
                if !self.delete_after_commit {
                    state.copies.drain(..count);
                }
                let end = EndTxn { epoch, copies };
                state.network.push(end.clone());
                state.relays[id] = Relay::Ending(end);
            }
            Action::Arrive { end, answered } => {
                let place = state.network.iter().position(|found| *found == end)?;
                state.network.remove(place);
                if end.epoch == state.epoch {
                    state.published.extend(&end.copies);
                    state.progress = *end.copies.last()?;
                    let waiting = Relay::Ending(end.clone());
                    let sender = state.relays.iter_mut().find(|relay| **relay == waiting);
                    if let (true, Some(relay)) = (answered, sender) {
                        *relay = Relay::Committed(end);
                    }
                }
            }
            Action::Lose(end) => {
                let place = state.network.iter().position(|found| *found == end)?;
                state.network.remove(place);
            }
            Action::Settle(id) => {
                let Relay::Committed(end) = &state.relays[id] else {
                    return None;
                };
                let (epoch, published) = (end.epoch, *end.copies.last()?);
                state.relays[id] = Relay::Down;
                if state.owner == id {
                    state.copies.retain(|copy| *copy > published);
                    state.relays[id] = Relay::Ready { epoch };
                }
            }
            Action::Crash(id) => state.relays[id] = Relay::Down,
        }
        state.network.sort_unstable();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("each copy once and in order", |_, state: &State| {
                state.published.windows(2).all(|pair| pair[0] < pair[1])
            }),
            Property::always("no copy is lost", |_, state: &State| {
                let under_way =
                    |copy: &u8| state.network.iter().any(|end| end.copies.contains(copy));
                (1..=COPIES).all(|copy| {
                    let stored = state.copies.contains(&copy);
                    stored || state.published.contains(&copy) || under_way(&copy)
                })
            }),
            Property::sometimes("the key is free", |_, state: &State| {
                state.copies.is_empty() && state.published.len() == usize::from(COPIES)
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.epoch <= 4 && state.network.len() <= 2
    }
}
