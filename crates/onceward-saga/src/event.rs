//! The saga's log: a closed set of facts. Its state is their fold.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Verb;

/// One fact of a saga's life, as stored in `saga_event.body`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum SagaEvent {
    /// The saga began.
    Started {
        /// Name of its definition.
        definition: String,
        /// Version of its definition: a running saga ends by the version it began with.
        definition_version: i32,
        /// What it is about.
        subject: String,
        /// What its messages are made of.
        data: Value,
    },
    /// A step's command was sent.
    StepCommanded {
        /// The step.
        step: String,
        /// Its branch.
        branch: i32,
        /// Which try, from 1.
        attempt: i32,
    },
    /// The participant did it.
    StepDone {
        /// The step.
        step: String,
        /// Its branch.
        branch: i32,
        /// Which try was answered.
        attempt: i32,
        /// Type of the reply.
        message_type: String,
        /// The reply; later steps can read it.
        reply: Value,
    },
    /// The participant said no.
    StepRefused {
        /// The step.
        step: String,
        /// Its branch.
        branch: i32,
        /// Which try was answered.
        attempt: i32,
        /// Why.
        reason: String,
    },
    /// No answer came in time. That is not a refusal: it may be done, or be done later.
    DeadlinePassed {
        /// The step.
        step: String,
        /// Its branch.
        branch: i32,
        /// Which try was not answered.
        attempt: i32,
    },
    /// From here on the saga is undone.
    CompensationBegan {
        /// Why.
        reason: String,
    },
    /// "Undo it if it happened" was sent.
    StepCancelling {
        /// The step.
        step: String,
        /// Its branch.
        branch: i32,
    },
    /// An answer to the command came while the step was already being undone. It changes nothing.
    LateReply {
        /// The step.
        step: String,
        /// Its branch.
        branch: i32,
        /// Type of the reply.
        message_type: String,
    },
    /// The participant confirmed: it is not done, nor will it be.
    StepCancelled {
        /// The step.
        step: String,
        /// Its branch.
        branch: i32,
    },
    /// The participant can't undo it. The saga is stuck until an operator steps in.
    CancelFailed {
        /// The step.
        step: String,
        /// Its branch.
        branch: i32,
        /// Why.
        reason: String,
    },
    /// An operator had the failed compensations sent again. Written by earlier versions;
    /// [`Verb::Retry`] does the same.
    Resumed {
        /// Who.
        by: String,
    },
    /// An operator stepped in; the events behind it say what follows.
    Operated {
        /// What is to be done.
        verb: Verb,
        /// To which step, if one was named.
        step: Option<String>,
        /// Who.
        by: String,
        /// Why.
        why: String,
    },
    /// Nobody waits for this step's answer any more, by an operator's word.
    StepSkipped {
        /// The step.
        step: String,
        /// Its branch.
        branch: i32,
    },
    /// The step's turn came, and its condition did not want it.
    StepOmitted {
        /// The step.
        step: String,
        /// Its branch.
        branch: i32,
    },
    /// Every step is done.
    Completed,
    /// Every step that may have been done is confirmed undone.
    Compensated,
}

impl SagaEvent {
    /// As stored in `saga_event.kind`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::StepCommanded { .. } => "step_commanded",
            Self::StepDone { .. } => "step_done",
            Self::StepRefused { .. } => "step_refused",
            Self::DeadlinePassed { .. } => "deadline_passed",
            Self::CompensationBegan { .. } => "compensation_began",
            Self::StepCancelling { .. } => "step_cancelling",
            Self::LateReply { .. } => "late_reply",
            Self::StepCancelled { .. } => "step_cancelled",
            Self::CancelFailed { .. } => "cancel_failed",
            Self::Resumed { .. } => "resumed",
            Self::Operated { .. } => "operated",
            Self::StepSkipped { .. } => "step_skipped",
            Self::StepOmitted { .. } => "step_omitted",
            Self::Completed => "completed",
            Self::Compensated => "compensated",
        }
    }

    /// The step and branch it is about.
    pub fn step(&self) -> Option<(&str, i32)> {
        match self {
            Self::StepCommanded { step, branch, .. }
            | Self::StepDone { step, branch, .. }
            | Self::StepRefused { step, branch, .. }
            | Self::DeadlinePassed { step, branch, .. }
            | Self::StepCancelling { step, branch }
            | Self::LateReply { step, branch, .. }
            | Self::StepCancelled { step, branch }
            | Self::CancelFailed { step, branch, .. }
            | Self::StepSkipped { step, branch }
            | Self::StepOmitted { step, branch } => Some((step, *branch)),
            Self::Operated { step, .. } => step.as_deref().map(|step| (step, 0)),
            Self::Started { .. }
            | Self::CompensationBegan { .. }
            | Self::Resumed { .. }
            | Self::Completed
            | Self::Compensated => None,
        }
    }

    /// The try it is about; 0 where that has no meaning.
    pub fn attempt(&self) -> i32 {
        match self {
            Self::StepCommanded { attempt, .. }
            | Self::StepDone { attempt, .. }
            | Self::StepRefused { attempt, .. }
            | Self::DeadlinePassed { attempt, .. } => *attempt,
            _ => 0,
        }
    }
}
