//! Breaks a saga at every step: refused, silent, doubled, reordered, restarted after every line. Pure, in virtual
//! time, for any definition.
//!
//! ```text
//! let cast = Cast::new()
//!     .plays::<Reserve, Reserved, Failed, Release, Released>(|reserve| Reserved { … })
//!     .plays::<Charge, Charged, Declined, Refund, Refunded>(|charge| Charged { … })
//!     .plays_on::<Print, Printed, Jammed>(|print| Printed { … });
//! compensates_from_every_step(&definition, "order-1", &an_order(), &cast);
//! completes_past_the_pivot(&definition, "order-1", &an_order(), &cast);
//! ```
//!
//! The participants are played as [`take_part`](crate::take_part) has them: a command that comes again is answered
//! again, one that comes after its cancel is refused, a cancel is always confirmed. What they have done and not
//! undone is looked at in the end.
#![expect(clippy::panic, reason = "a test helper: it fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use onceward::RawMessage;
use serde::Serialize;
use serde_json::Value;

use crate::decide::{Decision, Input, TimerChange, begin, decide};
use crate::participant::CANCELLED;
use crate::{
    Confirms, Refuses, SagaDefinition, SagaEvent, SagaMessage, SagaState, SagaStatus, StepRef,
    TimerName,
};

/// Most messages and timers of one run: more is a saga that never ends.
const MOST_MOVES: usize = 1_000;

/// An answer of a participant.
#[derive(Debug, Clone)]
struct Answer {
    message_type: &'static str,
    at: StepRef,
    payload: Value,
}

/// What a participant could say to a message.
enum Asked {
    /// To a command: done, or not.
    Command {
        done: Answer,
        /// There is a cancel for it.
        can_be_undone: bool,
        refused: Refuse,
    },
    /// To a cancel: confirmed.
    Cancel { confirmed: Answer },
}

/// Refuses the command, saying why.
type Refuse = Box<dyn Fn(&str) -> Answer>;
type Role = Box<dyn Fn(&RawMessage) -> Asked>;

/// Who plays the participants of a saga, by the messages they take.
#[derive(Default)]
pub struct Cast {
    roles: BTreeMap<&'static str, Role>,
}

impl std::fmt::Debug for Cast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.roles.keys()).finish()
    }
}

impl Cast {
    /// Nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A participant that takes the command `C` and its cancel `X`: what it says when it has done it.
    #[must_use]
    pub fn plays<C, D, R, X, K>(self, done: impl Fn(&C) -> D + 'static) -> Self
    where
        C: SagaMessage,
        D: SagaMessage,
        R: Refuses<C>,
        X: SagaMessage,
        K: Confirms<X>,
    {
        let mut cast = self.takes::<C, D, R>(true, done);
        cast.roles.insert(
            X::TYPE,
            Box::new(|raw| Asked::Cancel {
                confirmed: answer(&K::confirm(&read(raw))),
            }),
        );
        cast
    }

    /// A participant that takes the command `C`, and whose step is never undone: it is behind the pivot, or there is
    /// nothing to undo.
    #[must_use]
    pub fn plays_on<C, D, R>(self, done: impl Fn(&C) -> D + 'static) -> Self
    where
        C: SagaMessage,
        D: SagaMessage,
        R: Refuses<C>,
    {
        self.takes::<C, D, R>(false, done)
    }

    fn takes<C, D, R>(mut self, can_be_undone: bool, done: impl Fn(&C) -> D + 'static) -> Self
    where
        C: SagaMessage,
        D: SagaMessage,
        R: Refuses<C>,
    {
        self.roles.insert(
            C::TYPE,
            Box::new(move |raw| {
                let command: C = read(raw);
                Asked::Command {
                    done: answer(&done(&command)),
                    can_be_undone,
                    refused: Box::new(move |why| answer(&R::refuse(&command, why.into()))),
                }
            }),
        );
        self
    }
}

fn read<M: SagaMessage>(raw: &RawMessage) -> M {
    serde_json::from_slice(&raw.payload)
        .unwrap_or_else(|error| panic!("{} can't be read back: {error}", M::TYPE))
}

fn answer<M: SagaMessage>(message: &M) -> Answer {
    Answer {
        message_type: M::TYPE,
        at: message.step_ref().clone(),
        payload: serde_json::to_value(message)
            .unwrap_or_else(|error| panic!("{} is not JSON: {error}", M::TYPE)),
    }
}

/// What goes wrong at one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// The participant says no.
    Refused,
    /// The command comes long after the deadline.
    CommandLate,
    /// It is done, and the answer comes long after the deadline.
    AnswerLate,
}

/// In which order messages are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// As they were sent.
    FirstFirst,
    /// The last one first, so that a cancel overtakes its command, and what is late comes before what undoes it.
    LastFirst,
}

/// Breaks each step before the pivot (each, if there is none) in every way. The saga must give up at that very
/// step, end compensated with one last word, and leave nothing done. Returns how many ways were tried.
///
/// A step that `data` does not lead to ([`when`](crate::StepBuilder::when)) is not broken: call it once for each
/// choice, and look at the number.
///
/// # Panics
/// If one does not, saying which.
#[track_caller]
pub fn compensates_from_every_step(
    definition: &SagaDefinition,
    subject: &str,
    data: &impl Serialize,
    cast: &Cast,
) -> usize {
    let last = definition.pivot_index().min(definition.steps().len() - 1);
    let steps: Vec<&str> = definition.step_names().take(last + 1).collect();
    each_way(definition, subject, data, cast, &steps, i32::MAX, |stage| {
        let case = &stage.case;
        assert_eq!(stage.state.status, SagaStatus::Compensated, "{case}");
        assert_eq!(stage.gave_up_at(), Some(stage.broken), "{case}");
        let mut left = stage.standing();
        left.retain(|step| stage.undoable.contains(*step));
        assert!(left.is_empty(), "left done: {left:?}, {case}");
        let said = usize::from(stage.definition.on_compensated().is_some());
        assert_eq!(stage.last_words, said, "last words, {case}");
    })
}

/// Breaks each step behind the pivot in every way, its first two tries. The saga must complete, with every step
/// done, one last word and nothing undone. Returns how many ways were tried.
///
/// # Panics
/// If one does not, saying which; and if there is no step behind a pivot.
#[track_caller]
pub fn completes_past_the_pivot(
    definition: &SagaDefinition,
    subject: &str,
    data: &impl Serialize,
    cast: &Cast,
) -> usize {
    let first = definition.pivot_index() + 1;
    let steps: Vec<&str> = definition.step_names().skip(first).collect();
    assert!(
        !steps.is_empty(),
        "{definition:?} has no step behind a pivot"
    );
    each_way(definition, subject, data, cast, &steps, 2, |stage| {
        let case = &stage.case;
        assert_eq!(stage.state.status, SagaStatus::Completed, "{case}");
        assert_eq!(stage.standing(), stage.begun(), "{case}");
        let said = usize::from(stage.definition.on_completed().is_some());
        assert_eq!(stage.last_words, said, "last words, {case}");
    })
}

#[track_caller]
fn each_way(
    definition: &SagaDefinition,
    subject: &str,
    data: &impl Serialize,
    cast: &Cast,
    steps: &[&str],
    broken_tries: i32,
    check: impl Fn(&Stage<'_>),
) -> usize {
    let data = serde_json::to_value(data)
        .unwrap_or_else(|error| panic!("the saga's data is not JSON: {error}"));
    let run = |broken, fault, copies, order| {
        let (state, begun) = begin(definition, subject, data.clone())
            .unwrap_or_else(|error| panic!("the saga can't begin: {error}"));
        let mut stage = Stage {
            definition,
            cast,
            state,
            log: Vec::new(),
            now: Duration::ZERO,
            timers: Vec::new(),
            on_their_way: VecDeque::new(),
            late: Vec::new(),
            participants: BTreeMap::new(),
            undoable: BTreeSet::new(),
            last_words: 0,
            broken,
            broken_tries,
            fault,
            copies,
            order,
            case: format!("{broken}, {fault:?}, x{copies}, {order:?}"),
        };
        stage.write(begun);
        stage.play();
        stage
    };
    let unbroken = run("", Fault::Refused, 1, Order::FirstFirst);
    let end = unbroken.state.status;
    assert_eq!(end, SagaStatus::Completed, "with nothing broken");
    let reached = unbroken.begun();
    let mut ways = 0;
    for step in steps.iter().filter(|step| reached.contains(*step)) {
        for fault in [Fault::Refused, Fault::CommandLate, Fault::AnswerLate] {
            for copies in [1, 2] {
                for order in [Order::FirstFirst, Order::LastFirst] {
                    check(&run(step, fault, copies, order));
                    ways += 1;
                }
            }
        }
    }
    ways
}

/// A message on its way.
enum Message {
    Out(RawMessage),
    Back(Answer),
}

/// How a participant's step stands, and what it has answered.
#[derive(Debug, Clone)]
enum Standing {
    Done(Answer),
    Refused(Answer),
    Cancelled,
}

/// One run.
struct Stage<'a> {
    definition: &'a SagaDefinition,
    cast: &'a Cast,
    state: SagaState,
    log: Vec<SagaEvent>,
    now: Duration,
    timers: Vec<(Duration, TimerName)>,
    on_their_way: VecDeque<Message>,
    late: Vec<Message>,
    participants: BTreeMap<(String, i32), Standing>,
    undoable: BTreeSet<String>,
    last_words: usize,
    broken: &'a str,
    broken_tries: i32,
    fault: Fault,
    copies: usize,
    order: Order,
    case: String,
}

impl Stage<'_> {
    /// Until nothing is left that could happen.
    fn play(&mut self) {
        for _ in 0..MOST_MOVES {
            let next = match self.order {
                Order::FirstFirst => self.on_their_way.pop_front(),
                Order::LastFirst => self.on_their_way.pop_back(),
            };
            match next {
                Some(Message::Out(message)) => {
                    for _ in 0..self.copies {
                        self.hand_over(&message);
                    }
                }
                Some(Message::Back(answer)) => {
                    for _ in 0..self.copies {
                        self.take(&Input::Reply {
                            message_type: answer.message_type.to_owned(),
                            at: answer.at.clone(),
                            payload: answer.payload.clone(),
                        });
                    }
                }
                None if !self.timers.is_empty() => self.next_timer(),
                None if !self.late.is_empty() => self.on_their_way.extend(self.late.drain(..)),
                None => return,
            }
        }
        panic!("no end after {MOST_MOVES} moves: {}", self.case);
    }

    fn next_timer(&mut self) {
        self.timers.sort_by_key(|(at, _)| *at);
        let (at, name) = self.timers.remove(0);
        self.now = at;
        self.take(&Input::TimerFired(name));
    }

    /// A participant, or the world, hears what the saga says.
    fn hand_over(&mut self, message: &RawMessage) {
        let Some(role) = self.cast.roles.get(message.message_type.as_str()) else {
            assert!(
                self.state.status.has_ended(),
                "nobody plays {}: {}",
                message.message_type,
                self.case
            );
            return;
        };
        match role(message) {
            Asked::Command {
                done,
                can_be_undone,
                refused,
            } => {
                let at = done.at.clone();
                let breaks = at.step == self.broken && at.attempt <= self.broken_tries;
                let key = (at.step.clone(), at.branch);
                let standing = self.participants.get(&key).cloned();
                let answer = match standing {
                    Some(Standing::Done(answered)) => answered,
                    Some(Standing::Cancelled) => refused(CANCELLED),
                    Some(Standing::Refused(answered)) if at.attempt <= answered.at.attempt => {
                        answered
                    }
                    _ if breaks && self.fault == Fault::Refused => {
                        let answer = refused("no");
                        let standing = Standing::Refused(answer.clone());
                        self.participants.insert(key, standing);
                        answer
                    }
                    _ => {
                        if can_be_undone {
                            self.undoable.insert(at.step.clone());
                        }
                        self.participants.insert(key, Standing::Done(done.clone()));
                        done
                    }
                };
                let answer = Message::Back(answer);
                match breaks && self.fault == Fault::AnswerLate {
                    true => self.late.push(answer),
                    false => self.on_their_way.push_back(answer),
                }
            }
            Asked::Cancel { confirmed } => {
                let key = (confirmed.at.step.clone(), confirmed.at.branch);
                self.participants.insert(key, Standing::Cancelled);
                self.on_their_way.push_back(Message::Back(confirmed));
            }
        }
    }

    fn take(&mut self, input: &Input) {
        let decided = || decide(self.definition, &self.state, input);
        let decision = decided()
            .unwrap_or_else(|error| panic!("{input:?} is refused: {error}; {}", self.case));
        // Died before the commit, and asked again.
        let again = decided().map(|again| again.events).unwrap_or_default();
        assert_eq!(decision.events, again, "decided differently, {}", self.case);
        let before = self.state.status;
        decision.events.iter().for_each(|e| self.state.apply(e));
        self.write(decision);
        let gave_up = before == SagaStatus::Running && self.state.status != before;
        if gave_up && self.order == Order::LastFirst {
            // Before the cancels that have just been sent are handled.
            self.on_their_way.extend(self.late.drain(..));
        }
    }

    fn write(&mut self, decision: Decision) {
        self.log.extend(decision.events);
        for timer in decision.timers {
            match timer {
                TimerChange::Arm(name, after) => self.timers.push((self.now + after, name)),
                TimerChange::Disarm(name) => self.timers.retain(|(_, armed)| *armed != name),
            }
        }
        for message in decision.messages {
            let Some(role) = self.cast.roles.get(message.message_type.as_str()) else {
                self.last_words += 1;
                continue;
            };
            let is_late = match role(&message) {
                Asked::Command { done, .. } => {
                    self.fault == Fault::CommandLate
                        && done.at.step == self.broken
                        && done.at.attempt <= self.broken_tries
                }
                Asked::Cancel { .. } => false,
            };
            match is_late {
                true => self.late.push(Message::Out(message)),
                false => self.on_their_way.push_back(Message::Out(message)),
            }
        }
        // The restart: what the log says is what the saga knows.
        let rebuilt = SagaState::fold(self.state.saga_id, &self.log);
        assert_eq!(rebuilt.as_ref(), Some(&self.state), "{}", self.case);
    }

    /// The step at which the saga turned back.
    fn gave_up_at(&self) -> Option<&str> {
        let began = self
            .log
            .iter()
            .position(|event| matches!(event, SagaEvent::CompensationBegan { .. }));
        let before = &self.log[..began.unwrap_or(0)];
        before.iter().rev().find_map(|event| match event {
            SagaEvent::StepRefused { step, .. } | SagaEvent::DeadlinePassed { step, .. } => {
                Some(step.as_str())
            }
            _ => None,
        })
    }

    /// The steps whose command was sent.
    fn begun(&self) -> BTreeSet<&str> {
        let commanded = self.log.iter().filter_map(|event| match event {
            SagaEvent::StepCommanded { step, .. } => Some(step.as_str()),
            _ => None,
        });
        commanded.collect()
    }

    /// The steps that are done and not undone.
    fn standing(&self) -> BTreeSet<&str> {
        self.participants
            .iter()
            .filter(|(_, standing)| matches!(standing, Standing::Done(_)))
            .map(|((step, _), _)| step.as_str())
            .collect()
    }
}
