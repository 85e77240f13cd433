//! A saga's state: the fold of its events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{SagaEvent, SagaId};

/// Where a saga stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SagaStatus {
    /// Steps are being done.
    Running,
    /// Steps are being undone.
    Compensating,
    /// Every step is done. The end.
    Completed,
    /// Every step that may have been done is confirmed undone. The end.
    Compensated,
    /// A compensation failed for good: an operator is needed.
    Stuck,
}

impl SagaStatus {
    /// As stored in `saga_instance.status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Compensating => "compensating",
            Self::Completed => "completed",
            Self::Compensated => "compensated",
            Self::Stuck => "stuck",
        }
    }

    /// Whether nothing can happen any more.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Compensated)
    }
}

impl std::fmt::Display for SagaStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for SagaStatus {
    type Err = UnknownStatus;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [
            Self::Running,
            Self::Compensating,
            Self::Completed,
            Self::Compensated,
            Self::Stuck,
        ]
        .into_iter()
        .find(|status| status.as_str() == text)
        .ok_or_else(|| UnknownStatus(text.to_owned()))
    }
}

/// Not a saga status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not one of running, compensating, completed, compensated, stuck")]
pub struct UnknownStatus(String);

/// Where one step stands. The arrows are drawn in [`decide`](mod@crate::decide).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepStatus {
    /// The command is out, no answer yet.
    Commanded,
    /// Refused behind the pivot; the command goes out again after a delay.
    WaitingToRetry,
    /// Done.
    Done,
    /// Not done, by the participant's own word.
    Refused,
    /// "Undo it if it happened" is out.
    Cancelling,
    /// Confirmed undone.
    Cancelled,
    /// The participant can't undo it.
    CancelFailed,
    /// An operator answers for it: nobody waits for the participant any more.
    Skipped,
    /// Not wanted when its turn came: its command was never sent, nor will be.
    Omitted,
}

impl StepStatus {
    /// For messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Commanded => "commanded",
            Self::WaitingToRetry => "waiting to retry",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::CancelFailed => "not cancellable",
            Self::Skipped => "skipped",
            Self::Omitted => "omitted",
        }
    }
}

/// One step (and branch) of a saga.
#[derive(Debug, Clone, PartialEq)]
pub struct StepState {
    /// Where it stands.
    pub status: StepStatus,
    /// The latest try of its command, from 1; 0 for one that was omitted.
    pub attempt: i32,
    /// The reply that ended it well, with its type.
    pub reply: Option<(String, Value)>,
    /// A late reply is in the log already; more of them add nothing.
    pub late_reply_logged: bool,
}

impl StepState {
    fn new(status: StepStatus, attempt: i32) -> Self {
        Self {
            status,
            attempt,
            reply: None,
            late_reply_logged: false,
        }
    }
}

/// A saga, rebuilt from its events.
#[derive(Debug, Clone, PartialEq)]
pub struct SagaState {
    /// Which saga.
    pub saga_id: SagaId,
    /// Name of its definition.
    pub definition: String,
    /// Version of its definition.
    pub definition_version: i32,
    /// What it is about.
    pub subject: String,
    /// What its messages are made of.
    pub data: Value,
    /// Where it stands.
    pub status: SagaStatus,
    /// Why it is compensated.
    pub reason: Option<String>,
    /// Number of events so far.
    pub version: i64,
    /// Its steps so far, by name and branch.
    pub steps: BTreeMap<(String, i32), StepState>,
}

impl SagaState {
    /// Folds a log. `None` for an empty one, and for one that does not begin with `Started`.
    pub fn fold<'e>(
        saga_id: SagaId,
        events: impl IntoIterator<Item = &'e SagaEvent>,
    ) -> Option<Self> {
        let mut events = events.into_iter();
        let SagaEvent::Started {
            definition,
            definition_version,
            subject,
            data,
        } = events.next()?
        else {
            return None;
        };
        let mut state = Self::started(saga_id, definition, *definition_version, subject, data);
        events.for_each(|event| state.apply(event));
        Some(state)
    }

    /// A saga of which no more is known than that it started.
    pub(crate) fn started(
        saga_id: SagaId,
        definition: &str,
        definition_version: i32,
        subject: &str,
        data: &Value,
    ) -> Self {
        Self {
            saga_id,
            definition: definition.to_owned(),
            definition_version,
            subject: subject.to_owned(),
            data: data.clone(),
            status: SagaStatus::Running,
            reason: None,
            version: 1,
            steps: BTreeMap::new(),
        }
    }

    /// Adds one event. Never fails: which may follow which is decided before one is written.
    pub fn apply(&mut self, event: &SagaEvent) {
        self.version += 1;
        match event {
            SagaEvent::Started { .. } => {}
            SagaEvent::StepCommanded {
                step,
                branch,
                attempt,
            } => {
                let commanded = StepState::new(StepStatus::Commanded, *attempt);
                self.steps.insert((step.clone(), *branch), commanded);
            }
            SagaEvent::StepOmitted { step, branch } => {
                let omitted = StepState::new(StepStatus::Omitted, 0);
                self.steps.insert((step.clone(), *branch), omitted);
            }
            SagaEvent::StepDone {
                step,
                branch,
                message_type,
                reply,
                ..
            } => self.with_step(step, *branch, |s| {
                s.status = StepStatus::Done;
                s.reply = Some((message_type.clone(), reply.clone()));
            }),
            // Which of the two it is depends on the pivot, so the decision writes what follows:
            // behind the pivot a retry, else the beginning of the compensation.
            SagaEvent::StepRefused { step, branch, .. } => {
                self.with_step(step, *branch, |s| s.status = StepStatus::WaitingToRetry);
            }
            SagaEvent::DeadlinePassed { .. } | SagaEvent::Operated { .. } => {}
            SagaEvent::CompensationBegan { reason } => {
                self.status = SagaStatus::Compensating;
                self.reason = Some(reason.clone());
                for step in self.steps.values_mut() {
                    if step.status == StepStatus::WaitingToRetry {
                        step.status = StepStatus::Refused;
                    }
                }
            }
            SagaEvent::StepCancelling { step, branch } => {
                self.with_step(step, *branch, |s| s.status = StepStatus::Cancelling);
                self.unstick();
            }
            SagaEvent::StepSkipped { step, branch } => {
                self.with_step(step, *branch, |s| s.status = StepStatus::Skipped);
                self.unstick();
            }
            SagaEvent::LateReply { step, branch, .. } => {
                self.with_step(step, *branch, |s| s.late_reply_logged = true);
            }
            SagaEvent::StepCancelled { step, branch } => {
                self.with_step(step, *branch, |s| s.status = StepStatus::Cancelled);
                self.unstick();
            }
            SagaEvent::CancelFailed { step, branch, .. } => {
                self.with_step(step, *branch, |s| s.status = StepStatus::CancelFailed);
                self.status = SagaStatus::Stuck;
            }
            SagaEvent::Resumed { .. } => self.status = SagaStatus::Compensating,
            SagaEvent::Completed => self.status = SagaStatus::Completed,
            SagaEvent::Compensated => self.status = SagaStatus::Compensated,
        }
    }

    /// A step's state, if its turn has come.
    pub fn step(&self, step: &str, branch: i32) -> Option<&StepState> {
        self.steps.get(&(step.to_owned(), branch))
    }

    /// A saga is stuck as long as one of its steps is.
    fn unstick(&mut self) {
        let failed = |s: &StepState| s.status == StepStatus::CancelFailed;
        if self.status == SagaStatus::Stuck && !self.steps.values().any(failed) {
            self.status = SagaStatus::Compensating;
        }
    }

    fn with_step(&mut self, step: &str, branch: i32, change: impl FnOnce(&mut StepState)) {
        if let Some(state) = self.steps.get_mut(&(step.to_owned(), branch)) {
            change(state);
        }
    }
}
