//! Sagas over the transactional outbox [`onceward`]: steps in several services, all of them done, or those
//! that were done undone.
//!
//! A saga has a **definition** (code, pure) and instances (rows: an append-only log). The **coordinator** sends each
//! step's command and waits for its reply; a **participant** carries it out. If one refuses, or is silent past its
//! deadline, every step that was done *or may have been* is told to undo it. Because topics are in no order to each
//! other, a cancel may overtake its command; both sides are built so that the two commute.
//!
//! # A definition
//!
//! ```
//! use onceward::Event;
//! use onceward_saga::{Refusal, SagaDefinition, SagaMessage, StepRef};
//! use serde::{Deserialize, Serialize};
//!
//! /// What an instance is started with.
//! #[derive(Serialize, Deserialize)]
//! struct Trip { number: u32 }
//!
//! #[derive(Debug, Clone, Serialize, Deserialize, Event, SagaMessage)]
//! #[event(type = "seat.book.v1", kind = command, id = trip)]
//! struct BookSeat { at: StepRef, trip: u32 }
//!
//! #[derive(Debug, Serialize, Deserialize, Event, SagaMessage)]
//! #[event(type = "seat.booked.v1", kind = reply, id = trip)]
//! struct SeatBooked { at: StepRef, trip: u32 }
//!
//! #[derive(Debug, Serialize, Deserialize, Event, SagaMessage)]
//! #[event(type = "seat.sold_out.v1", kind = reply, id = trip)]
//! struct SoldOut { at: StepRef, trip: u32, reason: String }
//!
//! impl Refusal for SoldOut {
//!     fn reason(&self) -> &str { &self.reason }
//! }
//!
//! #[derive(Debug, Serialize, Deserialize, Event, SagaMessage)]
//! #[event(type = "seat.free.v1", kind = command, id = trip)]
//! struct FreeSeat { at: StepRef, trip: u32 }
//!
//! #[derive(Debug, Serialize, Deserialize, Event, SagaMessage)]
//! #[event(type = "seat.freed.v1", kind = reply, id = trip)]
//! struct SeatFreed { at: StepRef, trip: u32 }
//!
//! # fn main() -> Result<(), onceward_saga::InvalidDefinition> {
//! let definition = SagaDefinition::of::<Trip>("trip", 1)
//!     .step("seat", |step| {
//!         step.command(|saga, at| BookSeat { at, trip: saga.data.number })
//!             .done_by::<SeatBooked>()
//!             .refused_by::<SoldOut>()
//!             .compensate_with(|saga, at| FreeSeat { at, trip: saga.data.number })
//!             .confirmed_by::<SeatFreed>()
//!     })
//!     // .step("card", …)
//!     .build()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Running it
//!
//! The coordinator is a consumer ([`onceward::consumer`]) whose handlers are [`Sagas`]: it takes every reply
//! (`handlers.on::<SeatBooked, _>(sagas.clone())`), and [`Sagas::start`] begins an instance in your transaction.
//! Deadlines are fired by a [`TimerRunner`], one or more a database; what operators ask for
//! ([`Verb`], `onceward saga retry` …) is done by a [`RequestRunner`]. A participant writes
//! [`perform` and `undo`](Participant) and is registered by [`take_part`]; one that has nothing to undo is a
//! [`Performer`], registered by [`take_commands`]. That commands come twice, late, or after their cancels is not its
//! business. Both make the tables by [`schema::migrate`].
//!
//! The repository's `examples/saga` is a whole program of two steps.
//!
//! # Without a coordinator
//!
//! In a **choreography** services react to each other's facts: a [`Reaction`] does something on a fact and says
//! what became of it, and undoes it on a fact that makes it void; [`Reacting`] handles both. Whoever began the
//! process sees where it stands in a [`ProcessView`], with a [`Deadline`] for what stays silent.
//!
//! # Testing it
//!
//! With the feature `test-util` a definition is tested as dialogue, in memory and virtual time:
//! `script::SagaScript`, and broken at every step in every way by `faults::compensates_from_every_step` and
//! `faults::completes_past_the_pivot`. [`inspect`] lists and shows instances, [`mod@decide`] is the state machine,
//! drawn.
#![deny(missing_docs)]

pub mod decide;
mod definition;
mod engine;
mod error;
mod event;
#[cfg(feature = "test-util")]
pub mod faults;
pub mod inspect;
mod log;
mod operate;
mod participant;
mod reaction;
mod request;
pub mod schema;
#[cfg(feature = "test-util")]
pub mod script;
mod state;
mod step_ref;
mod step_row;
mod timer;
mod view;

/// Implements [`trait@SagaMessage`] for a struct with one field of type [`StepRef`].
pub use onceward_macros::SagaMessage;

pub use decide::{Decision, Input, TIMED_OUT, TimerChange, begin, decide};
pub use definition::{
    DEFAULT_DEADLINE, DEFAULT_RETRY_DELAY, GroupBuilder, InvalidDefinition, SagaBuilder,
    SagaDefinition, SagaView, StepBuilder,
};
pub use engine::{Fired, Moved, Sagas, Started};
pub use error::{Illegal, SagaError};
pub use event::SagaEvent;
pub use operate::{BY_OPERATOR, Operation, UnknownVerb, Verb};
pub use participant::{
    Answer, CANCELLED, Confirms, EXPIRED, Participant, ParticipantOptions, Performer, Refuses,
    take_commands, take_part,
};
pub use reaction::{Never, Outcome, Reacting, Reaction, UndoneBy, Voided};
pub use request::RequestRunner;
pub use schema::SagaBackend;
pub use state::{SagaState, SagaStatus, StepState, StepStatus, UnknownStatus};
pub use step_ref::{Refusal, SagaId, SagaMessage, StepRef};
pub use timer::{
    Deadline, InvalidTimerName, Passed, TimerName, TimerOptions, TimerOwner, TimerRunner,
};
pub use view::ProcessView;
