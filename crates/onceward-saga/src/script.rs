//! Unit tests of a definition, written as dialogue.
//!
//! ```text
//! SagaScript::start(&definition, "order-1", &an_order())
//!     .expects(Reserve { saga: at("inventory"), items: 2 }).replies(Reserved { … })
//!     .expects(Charge { … })
//!     .time_passes(minutes(15))                       // no reply: the deadline fires
//!     .expects(Refund { … }).replies(Refunded { … })  // "undo it if it happened"
//!     .expects(Release { … }).replies(Released { … })
//!     .expects_event(OrderCancelled { … })
//!     .ends(SagaStatus::Compensated);
//! ```
//!
//! Whole messages are compared, in order, and nothing may be left unsaid. After every line the
//! state is rebuilt from its stored events, so each script is also a test of a restart.
#![expect(clippy::panic, reason = "a test helper: it fails by panicking")]

use std::collections::VecDeque;
use std::time::Duration;

use onceward::{Event, RawMessage};
use serde::Serialize;
use serde_json::Value;

use crate::decide::{Decision, Input, TimerChange, begin, decide};
use crate::{
    Illegal, Operation, SagaDefinition, SagaEvent, SagaMessage, SagaState, SagaStatus, StepRef,
    TimerName, Verb,
};

/// A conversation between a saga and its participants, in memory and virtual time.
#[derive(Debug)]
pub struct SagaScript {
    definition: SagaDefinition,
    /// The log as it would be stored.
    log: Vec<String>,
    state: SagaState,
    said: VecDeque<RawMessage>,
    now: Duration,
    timers: Vec<(Duration, TimerName)>,
    twice: bool,
}

impl SagaScript {
    /// Starts the saga.
    #[track_caller]
    pub fn start(definition: &SagaDefinition, subject: &str, data: &impl Serialize) -> Self {
        let data = serde_json::to_value(data)
            .unwrap_or_else(|error| panic!("the saga's data is not JSON: {error}"));
        let (state, decision) = begin(definition, subject, data)
            .unwrap_or_else(|error| panic!("the saga can't begin: {error}"));
        let mut script = Self {
            definition: definition.clone(),
            log: Vec::new(),
            state,
            said: VecDeque::new(),
            now: Duration::ZERO,
            timers: Vec::new(),
            twice: false,
        };
        script.write(decision);
        script
    }

    /// From here on every reply comes twice, and the second must change nothing.
    #[must_use]
    pub fn every_reply_comes_twice(mut self) -> Self {
        self.twice = true;
        self
    }

    /// The step reference its messages carry at the first try.
    pub fn at(&self, step: &str) -> StepRef {
        StepRef::first(self.state.saga_id, step)
    }

    /// The next message is exactly this command.
    #[must_use]
    #[track_caller]
    pub fn expects<E: SagaMessage>(self, message: E) -> Self {
        self.next_is(&message)
    }

    /// The next message is exactly this event.
    #[must_use]
    #[track_caller]
    pub fn expects_event<E: Event>(self, event: E) -> Self {
        self.next_is(&event)
    }

    /// The saga says nothing (more).
    #[must_use]
    #[track_caller]
    pub fn expects_nothing(self) -> Self {
        if let Some(message) = self.said.front() {
            panic!("the saga says more:\n{}", pretty(message));
        }
        self
    }

    /// A participant answers.
    #[must_use]
    #[track_caller]
    pub fn replies<E: SagaMessage>(mut self, message: E) -> Self {
        self.hears(&message)
            .unwrap_or_else(|error| panic!("{} is refused: {error}", E::TYPE));
        if self.twice {
            let again = self
                .hears(&message)
                .unwrap_or_else(|error| panic!("{} again is refused: {error}", E::TYPE));
            assert!(again, "{} changes something when it comes again", E::TYPE);
        }
        self
    }

    /// A participant answers, and it changes nothing: no event, no message, no timer.
    #[must_use]
    #[track_caller]
    pub fn ignores<E: SagaMessage>(mut self, message: E) -> Self {
        match self.hears(&message) {
            Ok(true) => self,
            Ok(false) => panic!("{} changes something: {:?}", E::TYPE, self.log.last()),
            Err(error) => panic!("{} is refused: {error}", E::TYPE),
        }
    }

    /// A participant says what can't be true; the saga refuses it and changes nothing.
    #[must_use]
    #[track_caller]
    pub fn refuses<E: SagaMessage>(mut self, message: E) -> Self {
        if let Ok(nothing) = self.hears(&message) {
            panic!("{} is taken (changing nothing: {nothing})", E::TYPE);
        }
        self
    }

    /// An operator steps in.
    #[must_use]
    #[track_caller]
    pub fn operated(mut self, verb: Verb, step: Option<&str>) -> Self {
        self.take(&operation(verb, step))
            .unwrap_or_else(|error| panic!("{verb} is refused: {error}"));
        self
    }

    /// An operator wants what makes no sense here, is told so by a sentence with `told` in it, and
    /// nothing changes.
    #[must_use]
    #[track_caller]
    pub fn refuses_to(mut self, verb: Verb, step: Option<&str>, told: &str) -> Self {
        match self.take(&operation(verb, step)) {
            Ok(_) => panic!("{verb} is not refused"),
            Err(error) => assert!(error.to_string().contains(told), "{error}"),
        }
        self
    }

    /// Time goes on; timers whose time comes fire in their order.
    #[must_use]
    #[track_caller]
    pub fn time_passes(mut self, time: Duration) -> Self {
        let until = self.now + time;
        loop {
            self.timers.sort_by_key(|(at, _)| *at);
            match self.timers.first() {
                Some((at, _)) if *at <= until => {
                    let (at, name) = self.timers.remove(0);
                    self.now = at;
                    self.take(&Input::TimerFired(name.clone()))
                        .unwrap_or_else(|error| panic!("timer {name} can't fire: {error}"));
                }
                _ => break,
            }
        }
        self.now = until;
        self
    }

    /// The saga stands there.
    #[must_use]
    #[track_caller]
    pub fn is(self, status: SagaStatus) -> Self {
        assert_eq!(self.state.status, status, "\n{}", self.log.join("\n"));
        self
    }

    /// An event of this kind is in the log this many times.
    #[must_use]
    #[track_caller]
    pub fn logged(self, kind: &str, times: usize) -> Self {
        let found = self.events().iter().filter(|e| e.kind() == kind).count();
        assert_eq!(found, times, "{kind} in\n{}", self.log.join("\n"));
        self
    }

    /// The saga stands there and has said everything. An ended one has no timer left, and time
    /// changes nothing any more.
    #[track_caller]
    pub fn ends(self, status: SagaStatus) {
        let script = self.is(status).expects_nothing();
        if status.has_ended() {
            assert_eq!(script.timers, [], "timers are still armed at the end");
        }
    }

    #[track_caller]
    fn next_is<E: Event>(mut self, expected: &E) -> Self {
        let expected = RawMessage::of(expected)
            .unwrap_or_else(|error| panic!("{} is not JSON: {error}", E::TYPE));
        let Some(said) = self.said.pop_front() else {
            panic!("the saga says nothing, expected\n{}", pretty(&expected));
        };
        let (said, expected) = (pretty(&said), pretty(&expected));
        assert!(
            said == expected,
            "the saga says (-) another thing than expected (+)\n{}",
            { diff(&said, &expected) }
        );
        self
    }

    /// Whether the message changed nothing.
    fn hears<E: SagaMessage>(&mut self, message: &E) -> Result<bool, Illegal> {
        let payload = serde_json::to_value(message)
            .unwrap_or_else(|error| panic!("{} is not JSON: {error}", E::TYPE));
        self.take(&Input::Reply {
            message_type: E::TYPE.to_owned(),
            at: message.step_ref().clone(),
            payload,
        })
    }

    fn take(&mut self, input: &Input) -> Result<bool, Illegal> {
        let decision = decide(&self.definition, &self.state, input)?;
        let nothing = decision.is_empty();
        decision.events.iter().for_each(|e| self.state.apply(e));
        self.write(decision);
        Ok(nothing)
    }

    fn write(&mut self, decision: Decision) {
        for event in &decision.events {
            let stored = serde_json::to_string(event)
                .unwrap_or_else(|error| panic!("{} can't be stored: {error}", event.kind()));
            self.log.push(stored);
        }
        for timer in decision.timers {
            match timer {
                TimerChange::Arm(name, after) => self.timers.push((self.now + after, name)),
                TimerChange::Disarm(name) => self.timers.retain(|(_, armed)| *armed != name),
            }
        }
        self.said.extend(decision.messages);
        // The restart: what the log says is what the saga knows.
        let rebuilt = SagaState::fold(self.state.saga_id, &self.events());
        assert_eq!(
            rebuilt.as_ref(),
            Some(&self.state),
            "the log tells another story"
        );
    }

    fn events(&self) -> Vec<SagaEvent> {
        let read = |line: &String| {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{line} can't be read back: {error}"))
        };
        self.log.iter().map(read).collect()
    }
}

fn operation(verb: Verb, step: Option<&str>) -> Input {
    Input::Operated(Operation {
        verb,
        step: step.map(str::to_owned),
        by: "ann".to_owned(),
        why: "ticket 4711".to_owned(),
    })
}

fn pretty(message: &RawMessage) -> String {
    let payload: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
    let key = message.message_key.as_deref().unwrap_or("none");
    format!("{} (key {key}) {payload:#}", message.message_type)
}

fn diff(said: &str, expected: &str) -> String {
    let (said, expected): (Vec<_>, Vec<_>) = (said.lines().collect(), expected.lines().collect());
    let mut out = String::new();
    for line in &said {
        let mark = if expected.contains(line) { ' ' } else { '-' };
        out.push_str(&format!("{mark} {line}\n"));
    }
    for line in expected.iter().filter(|line| !said.contains(line)) {
        out.push_str(&format!("+ {line}\n"));
    }
    out
}
