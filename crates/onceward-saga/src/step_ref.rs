//! Which step of which saga a message is about.

use std::fmt;

use onceward::Event;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Identity of one running instance of a saga.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type,
)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct SagaId(pub Uuid);

impl SagaId {
    /// The id of the saga `definition` about `subject`, always the same one: a start that is
    /// repeated under another message id finds the saga that is already running.
    pub fn derived(definition: &str, subject: &str) -> Self {
        let name = format!("onceward.saga/{definition}/{subject}");
        Self(Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()))
    }
}

impl fmt::Display for SagaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for SagaId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Which step of which saga a command, its reply, its cancel or the confirmation is about.
///
/// Travels in the message itself: the participant copies it from the command into the reply.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StepRef {
    /// The saga.
    pub saga_id: SagaId,
    /// Name of the step in the definition.
    pub step: String,
    /// Which of several runs of one step at the same time, from 0. Always 0 so far: those of a group are steps of
    /// their own.
    #[serde(default)]
    pub branch: i32,
    /// Which try of the command, from 1. A participant repeats its stored answer to later ones.
    #[serde(default = "first_attempt")]
    pub attempt: i32,
}

impl StepRef {
    /// The first try of a step.
    pub fn first(saga_id: SagaId, step: impl Into<String>) -> Self {
        Self {
            saga_id,
            step: step.into(),
            branch: 0,
            attempt: 1,
        }
    }
}

fn first_attempt() -> i32 {
    1
}

/// A message between a saga and its participants.
pub trait SagaMessage: Event {
    /// The step it is about.
    fn step_ref(&self) -> &StepRef;
}

/// A reply by which a participant says no.
pub trait Refusal: SagaMessage {
    /// Why, in words a customer may read.
    fn reason(&self) -> &str;
}
