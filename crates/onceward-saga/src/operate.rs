//! What an operator may do to a saga that does not go on by itself. Pure, as all of
//! [`decide`](mod@crate::decide).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::decide::{Course, TimerChange};
use crate::timer::TimerName;
use crate::{Illegal, SagaEvent, SagaStatus, StepStatus};

/// The reason of a saga that an operator turned back. What the operator said stays in the log: a
/// reason is for customers.
pub const BY_OPERATOR: &str = "cancelled by an operator";

/// What an operator may want. A saga that has ended is left alone by all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Send again what was not answered: the command of a running saga as its next try, the
    /// compensations of one that is being undone (of a stuck one, those that failed).
    Retry,
    /// Take a step's answer as given, because a person made sure of it: a command counts as done, a
    /// compensation as confirmed. Should the saga be undone later, a skipped command is cancelled too.
    Skip,
    /// End a running saga as completed, whatever is still missing.
    ForceComplete,
    /// Turn a running saga back, as if its step had been refused; end one that is being undone as
    /// compensated, whatever is still missing.
    ForceCompensate,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Retry,
        Self::Skip,
        Self::ForceComplete,
        Self::ForceCompensate,
    ];

    /// As stored, and as on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Skip => "skip",
            Self::ForceComplete => "force-complete",
            Self::ForceCompensate => "force-compensate",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Verb {
    type Err = UnknownVerb;
    fn from_str(text: &str) -> Result<Self, UnknownVerb> {
        let mut all = Self::ALL.into_iter();
        all.find(|verb| verb.as_str() == text)
            .ok_or_else(|| UnknownVerb(text.to_owned()))
    }
}

/// Not a verb.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not one of retry, skip, force-complete, force-compensate")]
pub struct UnknownVerb(String);

/// What an operator wants, who it is and why: written to the saga's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// What is to be done.
    pub verb: Verb,
    /// To which step; needed only by [`Verb::Skip`], and only where several are waited for.
    pub step: Option<String>,
    /// Who.
    pub by: String,
    /// Why.
    pub why: String,
}

impl Course<'_> {
    pub(crate) fn operate(&mut self, operation: &Operation) -> Result<(), Illegal> {
        let status = self.state.status;
        if status.has_ended() {
            return Err(Illegal::Ended {
                status: status.as_str(),
            });
        }
        let steps = self.awaited(operation.step.as_deref())?;
        self.happened(SagaEvent::Operated {
            verb: operation.verb,
            step: operation.step.clone(),
            by: operation.by.clone(),
            why: operation.why.clone(),
        });
        let running = status == SagaStatus::Running;
        match operation.verb {
            Verb::Retry if running => steps.iter().try_for_each(|step| self.command_again(step)),
            Verb::Retry => {
                let failed_only = status == SagaStatus::Stuck && operation.step.is_none();
                self.send_compensations(|name, status| {
                    steps.iter().any(|step| step == name)
                        && !(failed_only && status == StepStatus::Cancelling)
                })
            }
            Verb::Skip => match steps.as_slice() {
                [step] if running => {
                    let (index, _) = self.step(step)?;
                    self.skip(step)?;
                    self.go_on(index)
                }
                [step] => {
                    self.skip(step)?;
                    self.end_if_undone()
                }
                _ => Err(Illegal::WhichStep { steps }),
            },
            Verb::ForceComplete if running => {
                steps.iter().try_for_each(|step| self.skip(step))?;
                self.complete()
            }
            Verb::ForceComplete => Err(Illegal::NotRunning {
                status: status.as_str(),
            }),
            Verb::ForceCompensate if running => {
                self.refuse_behind_the_pivot()?;
                self.compensate(BY_OPERATOR.to_owned())
            }
            Verb::ForceCompensate => {
                steps.iter().try_for_each(|step| self.skip(step))?;
                self.end_if_undone()
            }
        }
    }

    /// The steps whose participants have not said the last word, or only the one that is named.
    fn awaited(&self, named: Option<&str>) -> Result<Vec<String>, Illegal> {
        use StepStatus as S;
        let is_awaited = |status: StepStatus| match self.state.status {
            SagaStatus::Running => matches!(status, S::Commanded | S::WaitingToRetry),
            _ => matches!(status, S::Cancelling | S::CancelFailed),
        };
        let Some(name) = named else {
            let steps = self.definition.steps().iter();
            let found = steps.filter(|step| {
                let state = self.state.step(&step.name, 0);
                state.is_some_and(|state| is_awaited(state.status))
            });
            return Ok(found.map(|step| step.name.clone()).collect());
        };
        self.step(name)?;
        let state = self.state.step(name, 0);
        match state.map(|state| state.status) {
            Some(status) if is_awaited(status) => Ok(vec![name.to_owned()]),
            status => Err(Illegal::NotAwaited {
                step: name.to_owned(),
                status: status.map_or("not begun", StepStatus::as_str),
            }),
        }
    }

    /// Ends the wait for a step's answer.
    fn skip(&mut self, step: &str) -> Result<(), Illegal> {
        self.disarm(step)?;
        self.happened(SagaEvent::StepSkipped {
            step: step.to_owned(),
            branch: 0,
        });
        Ok(())
    }

    fn command_again(&mut self, step: &str) -> Result<(), Illegal> {
        let attempt = self.disarm(step)?;
        let (index, _) = self.step(step)?;
        self.command(index, attempt + 1)
    }

    /// Disarms the timer of the step's latest try, if it has one; says which try that is.
    fn disarm(&mut self, step: &str) -> Result<i32, Illegal> {
        let Some(state) = self.state.step(step, 0) else {
            return Err(Illegal::UnknownStep {
                step: step.to_owned(),
            });
        };
        let attempt = state.attempt;
        let timer = match state.status {
            StepStatus::Commanded => Some(TimerName::deadline(step, 0, attempt)),
            StepStatus::WaitingToRetry => Some(TimerName::retry(step, 0, attempt)),
            _ => None,
        };
        let disarm = timer.map(TimerChange::Disarm);
        self.decision.timers.extend(disarm);
        Ok(attempt)
    }

    fn refuse_behind_the_pivot(&self) -> Result<(), Illegal> {
        for (index, step) in self.definition.steps().iter().enumerate() {
            let status = self.state.step(&step.name, 0).map(|state| state.status);
            let begun = status.is_some_and(|status| status != StepStatus::Omitted);
            let can_be_undone = step.compensation.is_some() || step.nothing_to_undo;
            let is_done = matches!(status, Some(StepStatus::Done | StepStatus::Skipped));
            let pivot_done = step.pivot && is_done;
            if begun && (self.behind_the_pivot(index) || pivot_done || !can_be_undone) {
                return Err(Illegal::NoWayBack {
                    step: step.name.clone(),
                });
            }
        }
        Ok(())
    }
}
