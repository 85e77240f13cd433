//! Sagas over a transactional outbox: a definition in code, an append-only log in rows, commands
//! and compensations that commute.
//!
//! * [`SagaDefinition`]: the steps, each with command, replies, compensation and deadline.
//! * [`decide()`]: the state machine, pure; drawn in [`mod@decide`].
//! * [`Sagas`]: starts sagas and hands them replies, in the consumer's transaction.
//! * [`TimerRunner`]: fires deadlines.
//! * [`Participant`]: the other side; write `perform` and `undo`, the rest is done.
//! * [`inspect`]: lists and shows sagas.
//! * `script::SagaScript` (feature `test-util`): unit tests as dialogue.
#![deny(missing_docs)]

pub mod decide;
mod definition;
mod engine;
mod error;
mod event;
pub mod inspect;
mod log;
mod participant;
pub mod schema;
#[cfg(feature = "test-util")]
pub mod script;
mod state;
mod step_ref;
mod timer;

/// Implements [`trait@SagaMessage`] for a struct with one field of type [`StepRef`].
pub use onceward_macros::SagaMessage;

pub use decide::{Decision, Input, TIMED_OUT, TimerChange, begin, decide};
pub use definition::{
    DEFAULT_DEADLINE, DEFAULT_RETRY_DELAY, InvalidDefinition, SagaBuilder, SagaDefinition,
    SagaView, StepBuilder,
};
pub use engine::{Fired, Moved, Sagas, Started};
pub use error::{Illegal, SagaError};
pub use event::SagaEvent;
pub use participant::{
    Answer, CANCELLED, Confirms, EXPIRED, Participant, ParticipantOptions, Refuses, take_part,
};
pub use schema::SagaBackend;
pub use state::{SagaState, SagaStatus, StepState, StepStatus, UnknownStatus};
pub use step_ref::{Refusal, SagaId, SagaMessage, StepRef};
pub use timer::{InvalidTimerName, TimerName, TimerOptions, TimerRunner};
