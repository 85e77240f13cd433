//! Sagas over a transactional outbox: a definition in code, an append-only log in rows, commands
//! and compensations that commute.
#![deny(missing_docs)]

mod step_ref;

pub use step_ref::{Refusal, SagaId, SagaMessage, StepRef};
