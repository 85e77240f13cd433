//! Two instances of a consumer that both may believe to own a partition, and their database.
//!
//! Each action is one database transaction: what dies before its commit leaves nothing, what dies
//! after it has left all. An instance keeps in memory where it stands and which keys it knows to be
//! waiting, and does not notice by itself that another one has claimed since.

use stateright::{Model, Property};

/// Records of the partition by offset: id and key. The last is the first one again.
const RECORDS: [(u8, u8); 4] = [(0, 0), (1, 1), (2, 0), (0, 0)];
const IDS: usize = 3;
const INSTANCES: usize = 2;

/// Which rules hold. The default is the protocol.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// The inbox row is inserted outside of the handler's savepoint.
    pub claim_outside_savepoint: bool,
    /// Every transaction is guarded by the owner epoch.
    pub guarded: bool,
    /// Later messages of a waiting message's key queue behind it.
    pub queue_behind: bool,
    /// `next_offset` commits together with the inbox row.
    pub offset_in_same_transaction: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            claim_outside_savepoint: true,
            guarded: true,
            queue_behind: true,
            offset_in_same_transaction: true,
        }
    }
}

/// Where a message stands in the inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Inbox {
    Handled,
    Waiting,
}

/// An instance's memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Memory {
    epoch: u8,
    position: u8,
    /// Offsets of waiting messages, in order.
    waiting: Vec<u8>,
    /// Only where offset and inbox are written apart: this is still to be stored.
    unstored: Option<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    instances: [Option<Memory>; INSTANCES],
    owner_epoch: u8,
    next_offset: u8,
    inbox: [Option<Inbox>; IDS],
    waiting: Vec<u8>,
    /// Ids in the order of their effects.
    effects: Vec<u8>,
    failures: u8,
    claims: u8,
    rewinds: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    Claim(usize),
    /// The next record; the handler succeeds or asks for another try.
    Handle {
        instance: usize,
        fails: bool,
    },
    /// The first waiting message of a key again.
    Retry {
        instance: usize,
        offset: u8,
    },
    StoreOffset(usize),
    Crash(usize),
    /// An operator sets the offset back.
    Rewind,
}

impl Rules {
    fn is_mine(self, state: &State, memory: &Memory) -> bool {
        !self.guarded || memory.epoch == state.owner_epoch
    }
}

fn key_of(offset: u8) -> Option<u8> {
    RECORDS.get(usize::from(offset)).map(|(_, key)| *key)
}

impl Model for Rules {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            instances: [None, None],
            owner_epoch: 0,
            next_offset: 0,
            inbox: [None; IDS],
            waiting: Vec::new(),
            effects: Vec::new(),
            failures: 0,
            claims: 0,
            rewinds: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (instance, memory) in state.instances.iter().enumerate() {
            if state.claims < 4 {
                actions.push(Action::Claim(instance));
            }
            let Some(memory) = memory else { continue };
            actions.push(Action::Crash(instance));
            if memory.unstored.is_some() {
                actions.push(Action::StoreOffset(instance));
            } else if usize::from(memory.position) < RECORDS.len() {
                actions.push(Action::Handle {
                    instance,
                    fails: false,
                });
                if state.failures < 2 {
                    actions.push(Action::Handle {
                        instance,
                        fails: true,
                    });
                }
            }
            for offset in &memory.waiting {
                let first = memory
                    .waiting
                    .iter()
                    .find(|o| key_of(**o) == key_of(*offset));
                if first == Some(offset) {
                    actions.push(Action::Retry {
                        instance,
                        offset: *offset,
                    });
                }
            }
        }
        if state.rewinds == 0 && state.next_offset > 0 {
            actions.push(Action::Rewind);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Claim(instance) => {
                state.claims += 1;
                state.owner_epoch += 1;
                state.instances[instance] = Some(Memory {
                    epoch: state.owner_epoch,
                    position: state.next_offset,
                    waiting: state.waiting.clone(),
                    unstored: None,
                });
            }
            Action::Handle { instance, fails } => self.handle(&mut state, instance, fails)?,
            Action::Retry { instance, offset } => self.retry(&mut state, instance, offset)?,
            Action::StoreOffset(instance) => {
                let mut memory = state.instances[instance].take()?;
                if self.is_mine(&state, &memory) {
                    state.next_offset = memory.unstored.take()?;
                    state.instances[instance] = Some(memory);
                }
            }
            Action::Crash(instance) => state.instances[instance] = None,
            Action::Rewind => {
                state.rewinds += 1;
                state.next_offset = 0;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("each effect at most once", |_, state: &State| {
                let mut effects = state.effects.clone();
                effects.sort_unstable();
                effects.windows(2).all(|pair| pair[0] != pair[1])
            }),
            // Ids 0 and 2 have one key.
            Property::always("each key in order", |_, state: &State| {
                let place = |id: u8| state.effects.iter().position(|found| *found == id);
                match (place(0), place(2)) {
                    (Some(first), Some(later)) => first < later,
                    (None, Some(_)) => false,
                    _ => true,
                }
            }),
            Property::always("nothing below the offset is lost", |_, state: &State| {
                let passed = RECORDS.iter().take(usize::from(state.next_offset));
                passed.into_iter().all(|(id, _)| {
                    let waits = |offset: &u8| RECORDS[usize::from(*offset)].0 == *id;
                    match state.inbox[usize::from(*id)] {
                        Some(Inbox::Handled) => state.effects.contains(id),
                        Some(Inbox::Waiting) => state.waiting.iter().any(waits),
                        None => false,
                    }
                })
            }),
            Property::sometimes("all take effect", |_, state: &State| {
                state.effects.len() == IDS && usize::from(state.next_offset) == RECORDS.len()
            }),
            Property::sometimes("a retried one takes effect", |_, state: &State| {
                state.failures == 2 && state.effects.len() == IDS
            }),
        ]
    }
}

impl Rules {
    /// One record in one transaction. `Some(())` also where it was fenced: all work is dropped.
    fn handle(self, state: &mut State, instance: usize, fails: bool) -> Option<()> {
        let mut memory = state.instances[instance].take()?;
        if !self.is_mine(state, &memory) {
            return Some(());
        }
        let offset = memory.position;
        let (id, key) = *RECORDS.get(usize::from(offset))?;
        let claim = &mut state.inbox[usize::from(id)];
        let waits = memory
            .waiting
            .iter()
            .any(|waiting| key_of(*waiting) == Some(key));
        if claim.is_some() {
            // A redelivery, in whatever state.
        } else if waits && self.queue_behind {
            *claim = Some(Inbox::Waiting);
            state.waiting.push(offset);
            memory.waiting.push(offset);
        } else if fails {
            state.failures += 1;
            if self.claim_outside_savepoint {
                *claim = Some(Inbox::Waiting);
            }
            state.waiting.push(offset);
            memory.waiting.push(offset);
        } else {
            *claim = Some(Inbox::Handled);
            state.effects.push(id);
        }
        memory.position = offset + 1;
        if self.offset_in_same_transaction {
            state.next_offset = memory.position;
        } else {
            memory.unstored = Some(memory.position);
        }
        state.instances[instance] = Some(memory);
        Some(())
    }

    fn retry(self, state: &mut State, instance: usize, offset: u8) -> Option<()> {
        let mut memory = state.instances[instance].take()?;
        if !self.is_mine(state, &memory) {
            return Some(());
        }
        let (id, _) = *RECORDS.get(usize::from(offset))?;
        let claim = &mut state.inbox[usize::from(id)];
        // Moves the row, never inserts it; 0 rows = somebody was faster.
        if *claim == Some(Inbox::Waiting) || !self.claim_outside_savepoint {
            *claim = Some(Inbox::Handled);
            state.effects.push(id);
        }
        state.waiting.retain(|waiting| *waiting != offset);
        memory.waiting.retain(|waiting| *waiting != offset);
        state.instances[instance] = Some(memory);
        Some(())
    }
}
