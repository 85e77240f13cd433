//! The state machine: what a saga does next. Pure; rows and clocks are elsewhere.
//!
//! ```text
//! saga    Running ──last step done──────────────────────────▶ Completed
//!            │ refused, or silent past the deadline (before the pivot)
//!            ▼
//!         Compensating ──every compensation confirmed───────▶ Compensated
//!            │    ▲
//!            │    └──retried by an operator, or confirmed after all
//!            ▼    │
//!           Stuck    a compensation failed for good
//!
//! step    (not yet) ──▶ Commanded ──done────────────────────▶ Done
//!                        │  │ │ ▲                              │
//!                        │  │ │ └─ silent, tries left: again   │ the saga is
//!                        │  │ │                                │ compensated
//!                        │  │ └─silent──────▶ Cancelling ◀─────┘
//!                        │  │                  │     │ ▲
//!                        │  │        confirmed │     │ └─ retried
//!                        │  │                  ▼     ▼
//!                        │  │            Cancelled  CancelFailed ──confirmed──▶ Cancelled
//!                        │  └─refused (before the pivot)──▶ Refused
//!                        └─refused (behind it)──▶ WaitingToRetry ──delay──▶ Commanded, next try
//! ```
//!
//! The steps of a group are commanded together; the saga goes on when the last of them is done, skipped or was
//! omitted (its condition did not want it when its turn came). When it turns back, the timers of those that are still
//! silent are disarmed.
//!
//! Silence is not refusal: a silent step is cancelled too, because its command may have been, or
//! may yet be, carried out. A reply that comes while (or after) a step is undone is written to the
//! log once and changes nothing; only the confirmation ends the step. What comes twice changes
//! nothing; what contradicts the log is [`Illegal`] and changes nothing either.
//!
//! An operator has four verbs for what does not go on by itself; [`crate::Verb`] says what they do.
//! Each leads along the arrows above, or to a step's last state, `Skipped`, whose late answers are
//! written to the log once and change nothing.

use std::time::Duration;

use onceward::RawMessage;
use serde_json::Value;

use crate::definition::{Meaning, SagaDefinition, Step};
use crate::timer::TimerName;
use crate::{Illegal, Operation, SagaEvent, SagaState, SagaStatus, StepRef, StepState, StepStatus};

/// The reason of a saga that was given up because a step was silent.
pub const TIMED_OUT: &str = "timed out";

/// What reaches a saga.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Input {
    /// A participant's answer, to a command or to a compensation.
    Reply {
        /// Its type.
        message_type: String,
        /// The step it is about.
        at: StepRef,
        /// The whole message.
        payload: Value,
    },
    /// A timer's time has come.
    TimerFired(TimerName),
    /// An operator steps in.
    Operated(Operation),
}

/// What to do with timers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimerChange {
    /// Arm it to fire after this time.
    Arm(TimerName, Duration),
    /// It is not needed any more.
    Disarm(TimerName),
}

/// What follows from an input: written in one transaction, or not at all. Empty for what came
/// twice or too late to matter.
#[derive(Debug, Clone, Default)]
pub struct Decision {
    /// For the log.
    pub events: Vec<SagaEvent>,
    /// For the outbox, in this order.
    pub messages: Vec<RawMessage>,
    /// For the timers.
    pub timers: Vec<TimerChange>,
}

impl Decision {
    /// Whether nothing follows.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.messages.is_empty() && self.timers.is_empty()
    }
}

/// Begins a saga: its first event and its first commands.
///
/// # Errors
/// [`Illegal::Build`] if the data does not fit the definition.
pub fn begin(
    definition: &SagaDefinition,
    subject: &str,
    data: Value,
) -> Result<(SagaState, Decision), Illegal> {
    let (name, version) = (definition.name(), definition.version());
    let saga_id = definition.saga_id(subject);
    let state = SagaState::started(saga_id, name, version, subject, &data);
    let mut course = Course::new(definition, state);
    course.decision.events.push(SagaEvent::Started {
        definition: name.to_owned(),
        definition_version: version,
        subject: subject.to_owned(),
        data,
    });
    course.enter(0)?;
    Ok((course.state, course.decision))
}

/// Decides what follows from `input`.
///
/// # Errors
/// [`Illegal`] if the input is no arrow of the state machine.
pub fn decide(
    definition: &SagaDefinition,
    state: &SagaState,
    input: &Input,
) -> Result<Decision, Illegal> {
    let mut course = Course::new(definition, state.clone());
    match input {
        Input::Reply {
            message_type,
            at,
            payload,
        } => course.reply(message_type, at, payload)?,
        Input::TimerFired(timer) => course.timer(timer)?,
        Input::Operated(operation) => course.operate(operation)?,
    }
    Ok(course.decision)
}

/// The decision in the making, and the state as it will be.
pub(crate) struct Course<'d> {
    pub(crate) definition: &'d SagaDefinition,
    pub(crate) state: SagaState,
    pub(crate) decision: Decision,
}

impl<'d> Course<'d> {
    fn new(definition: &'d SagaDefinition, state: SagaState) -> Self {
        Self {
            definition,
            state,
            decision: Decision::default(),
        }
    }

    pub(crate) fn happened(&mut self, event: SagaEvent) {
        self.state.apply(&event);
        self.decision.events.push(event);
    }

    fn reply(&mut self, message_type: &str, at: &StepRef, payload: &Value) -> Result<(), Illegal> {
        let (index, step) = self.step(&at.step)?;
        let unexpected = || Illegal::UnexpectedType {
            step: at.step.clone(),
            message_type: message_type.to_owned(),
        };
        let meaning = step.replies.get(message_type).ok_or_else(unexpected)?;
        let state = self.state.step(&at.step, at.branch);
        let never_asked = || Illegal::NeverAsked {
            step: at.step.clone(),
            message_type: message_type.to_owned(),
            attempt: at.attempt,
        };
        let StepState {
            status,
            attempt,
            late_reply_logged,
            ..
        } = state.cloned().ok_or_else(never_asked)?;
        if at.attempt > attempt || at.attempt < 1 {
            return Err(never_asked());
        }
        let contradiction = || {
            Err(Illegal::Contradiction {
                step: at.step.clone(),
                status: status.as_str(),
                message_type: message_type.to_owned(),
            })
        };
        use StepStatus as S;
        let given_up = self.state.status != SagaStatus::Running;
        match (meaning, status) {
            // Silent, with nothing to undo: its answer comes too late as well.
            (Meaning::Done | Meaning::Refused(_), S::Commanded | S::WaitingToRetry) if given_up => {
                self.too_late(at, message_type, late_reply_logged);
                Ok(())
            }
            (Meaning::Done, S::Commanded | S::WaitingToRetry) => {
                self.done(index, at, message_type, payload, attempt)
            }
            (Meaning::Done, S::Done) => Ok(()),
            (Meaning::Done, S::Refused | S::Omitted) => contradiction(),
            // An earlier try was refused, a later one is on its way: the later one counts.
            (Meaning::Refused(_), _) if at.attempt < attempt => Ok(()),
            (Meaning::Refused(reason), S::Commanded) => {
                self.refused(index, at, reason(payload), attempt)
            }
            (Meaning::Refused(_), S::Refused | S::WaitingToRetry) => Ok(()),
            (Meaning::Refused(_), S::Done | S::Omitted) => contradiction(),
            (
                Meaning::Done | Meaning::Refused(_),
                S::Cancelling | S::Cancelled | S::CancelFailed | S::Skipped,
            )
            | (Meaning::Confirmed | Meaning::CancelRefused(_), S::Skipped) => {
                self.too_late(at, message_type, late_reply_logged);
                Ok(())
            }
            (Meaning::Confirmed, S::Cancelling | S::CancelFailed) => {
                self.happened(SagaEvent::StepCancelled {
                    step: at.step.clone(),
                    branch: at.branch,
                });
                self.end_if_undone()
            }
            (Meaning::Confirmed | Meaning::CancelRefused(_), S::Cancelled) => Ok(()),
            (Meaning::CancelRefused(reason), S::Cancelling) => {
                self.happened(SagaEvent::CancelFailed {
                    step: at.step.clone(),
                    branch: at.branch,
                    reason: reason(payload),
                });
                Ok(())
            }
            (Meaning::CancelRefused(_), S::CancelFailed) => Ok(()),
            (
                Meaning::Confirmed | Meaning::CancelRefused(_),
                S::Commanded | S::WaitingToRetry | S::Done | S::Refused | S::Omitted,
            ) => contradiction(),
        }
    }

    fn too_late(&mut self, at: &StepRef, message_type: &str, logged: bool) {
        if !logged {
            self.happened(SagaEvent::LateReply {
                step: at.step.clone(),
                branch: at.branch,
                message_type: message_type.to_owned(),
            });
        }
    }

    fn done(
        &mut self,
        index: usize,
        at: &StepRef,
        message_type: &str,
        payload: &Value,
        attempt: i32,
    ) -> Result<(), Illegal> {
        let was = self.state.step(&at.step, at.branch).map(|s| s.status);
        self.happened(SagaEvent::StepDone {
            step: at.step.clone(),
            branch: at.branch,
            attempt: at.attempt,
            message_type: message_type.to_owned(),
            reply: payload.clone(),
        });
        let timer = if was == Some(StepStatus::WaitingToRetry) {
            TimerName::retry(&at.step, at.branch, attempt)
        } else {
            TimerName::deadline(&at.step, at.branch, attempt)
        };
        self.decision.timers.push(TimerChange::Disarm(timer));
        self.go_on(index)
    }

    /// Behind this step, if nobody beside it is waited for any more: the join.
    pub(crate) fn go_on(&mut self, index: usize) -> Result<(), Illegal> {
        let definition = self.definition;
        let stage = definition.steps()[index].stage;
        let is_awaited = |(_, step): (usize, &Step)| {
            let state = self.state.step(&step.name, 0);
            state.is_some_and(|s| {
                matches!(s.status, StepStatus::Commanded | StepStatus::WaitingToRetry)
            })
        };
        if definition.stage(stage).any(is_awaited) {
            return Ok(());
        }
        self.enter(stage + 1)
    }

    /// Commands the steps of this stage, or of the first one behind it that is wanted; at the end, the saga is
    /// complete.
    fn enter(&mut self, first: usize) -> Result<(), Illegal> {
        let definition = self.definition;
        for stage in first..=definition.last_stage() {
            let mut commanded = false;
            for (index, step) in definition.stage(stage) {
                let wanted = step.condition.as_ref().map(|wanted| wanted(&self.state));
                if wanted.transpose().map_err(failed("the condition"))? == Some(false) {
                    self.happened(SagaEvent::StepOmitted {
                        step: step.name.clone(),
                        branch: 0,
                    });
                } else {
                    self.command(index, 1)?;
                    commanded = true;
                }
            }
            if commanded {
                return Ok(());
            }
        }
        self.complete()
    }

    pub(crate) fn complete(&mut self) -> Result<(), Illegal> {
        self.happened(SagaEvent::Completed);
        if let Some(build) = self.definition.on_completed() {
            let event = build(&self.state).map_err(failed("the completion event"))?;
            self.decision.messages.push(event);
        }
        Ok(())
    }

    fn refused(
        &mut self,
        index: usize,
        at: &StepRef,
        reason: String,
        attempt: i32,
    ) -> Result<(), Illegal> {
        let deadline = TimerName::deadline(&at.step, at.branch, attempt);
        self.decision.timers.push(TimerChange::Disarm(deadline));
        self.happened(SagaEvent::StepRefused {
            step: at.step.clone(),
            branch: at.branch,
            attempt,
            reason: reason.clone(),
        });
        if self.behind_the_pivot(index) {
            let (_, step) = self.step(&at.step)?;
            let retry = TimerName::retry(&at.step, at.branch, attempt);
            let arm = TimerChange::Arm(retry, step.retry_delay);
            self.decision.timers.push(arm);
            return Ok(());
        }
        self.compensate(reason)
    }

    fn timer(&mut self, timer: &TimerName) -> Result<(), Illegal> {
        let (index, step) = self.step(timer.step())?;
        let Some(state) = self.state.step(timer.step(), timer.branch()) else {
            return Ok(());
        };
        // A timer of an earlier try, or of a step that was answered meanwhile.
        if state.attempt != timer.attempt() {
            return Ok(());
        }
        match (timer, state.status) {
            (TimerName::Deadline { .. }, StepStatus::Commanded) => {
                self.happened(SagaEvent::DeadlinePassed {
                    step: step.name.clone(),
                    branch: timer.branch(),
                    attempt: timer.attempt(),
                });
                // A pivot that can't be undone can't be given up either.
                let no_way_back =
                    step.pivot && step.compensation.is_none() && !step.nothing_to_undo;
                if timer.attempt() < step.attempts || self.behind_the_pivot(index) || no_way_back {
                    self.command(index, timer.attempt() + 1)
                } else {
                    self.compensate(TIMED_OUT.to_owned())
                }
            }
            (TimerName::Retry { .. }, StepStatus::WaitingToRetry) => {
                self.command(index, timer.attempt() + 1)
            }
            _ => Ok(()),
        }
    }

    /// Sends a step's command and starts its deadline.
    pub(crate) fn command(&mut self, index: usize, attempt: i32) -> Result<(), Illegal> {
        let step = &self.definition.steps()[index];
        self.happened(SagaEvent::StepCommanded {
            step: step.name.clone(),
            branch: 0,
            attempt,
        });
        let at = self.step_ref(step, attempt);
        if let Some(build) = &step.command {
            let command = build(&self.state, at).map_err(failed("the command"))?;
            self.decision.messages.push(command);
        }
        let timer = TimerName::deadline(&step.name, 0, attempt);
        let arm = TimerChange::Arm(timer, self.definition.deadline_of(step));
        self.decision.timers.push(arm);
        Ok(())
    }

    /// Turns back: every step that is done, and every silent one, is undone, all at once.
    pub(crate) fn compensate(&mut self, reason: String) -> Result<(), Illegal> {
        use StepStatus::{Commanded, Done, Skipped};
        let steps = self.state.steps.iter();
        let silent = steps.filter(|(_, state)| state.status == Commanded);
        let deadlines = silent.map(|((step, branch), state)| {
            TimerChange::Disarm(TimerName::deadline(step, *branch, state.attempt))
        });
        self.decision.timers.extend(deadlines);
        self.happened(SagaEvent::CompensationBegan { reason });
        // A skipped command may have been carried out as well as a silent one.
        self.send_compensations(|_, s| matches!(s, Done | Commanded | Skipped))?;
        self.end_if_undone()
    }

    pub(crate) fn send_compensations(
        &mut self,
        wanted: impl Fn(&str, StepStatus) -> bool,
    ) -> Result<(), Illegal> {
        let definition = self.definition;
        for step in definition.steps().iter().rev() {
            let Some(build) = &step.compensation else {
                continue;
            };
            let Some(state) = self.state.step(&step.name, 0) else {
                continue;
            };
            let attempt = state.attempt;
            if !wanted(&step.name, state.status) {
                continue;
            }
            self.happened(SagaEvent::StepCancelling {
                step: step.name.clone(),
                branch: 0,
            });
            let at = self.step_ref(step, attempt);
            let cancel = build(&self.state, at).map_err(failed("the compensation"))?;
            self.decision.messages.push(cancel);
        }
        Ok(())
    }

    pub(crate) fn end_if_undone(&mut self) -> Result<(), Illegal> {
        let open =
            |s: &StepState| matches!(s.status, StepStatus::Cancelling | StepStatus::CancelFailed);
        if self.state.steps.values().any(open) {
            return Ok(());
        }
        self.happened(SagaEvent::Compensated);
        if let Some(build) = self.definition.on_compensated() {
            let event = build(&self.state).map_err(failed("the compensation event"))?;
            self.decision.messages.push(event);
        }
        Ok(())
    }

    pub(crate) fn step(&self, name: &str) -> Result<(usize, &'d Step), Illegal> {
        let unknown = || Illegal::UnknownStep {
            step: name.to_owned(),
        };
        let index = self.definition.position(name).ok_or_else(unknown)?;
        Ok((index, &self.definition.steps()[index]))
    }

    pub(crate) fn behind_the_pivot(&self, index: usize) -> bool {
        index > self.definition.pivot_index()
    }

    fn step_ref(&self, step: &Step, attempt: i32) -> StepRef {
        StepRef {
            saga_id: self.state.saga_id,
            step: step.name.clone(),
            branch: 0,
            attempt,
        }
    }
}

fn failed(what: &'static str) -> impl FnOnce(serde_json::Error) -> Illegal {
    move |source| Illegal::Build {
        what: what.to_owned(),
        source,
    }
}
