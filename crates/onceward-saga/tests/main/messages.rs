//! A saga of two steps for tests: `book` a seat, `print` the ticket.

use std::time::Duration;

use onceward::{Event, MessageKind};
use onceward_saga::{
    Confirms, Refusal, Refuses, SagaBuilder, SagaDefinition, SagaMessage, StepBuilder, StepRef,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trip {
    pub seat: i64,
}

macro_rules! message {
    ($name:ident, $type:literal, $kind:ident $(, $field:ident: $ty:ty)*) => {
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub struct $name {
            pub at: StepRef,
            $(pub $field: $ty,)*
        }
        impl Event for $name {
            const TYPE: &'static str = $type;
            const KIND: MessageKind = MessageKind::$kind;
            const AGGREGATE_TYPE: &'static str = "trip";
            fn aggregate_id(&self) -> String {
                self.at.saga_id.to_string()
            }
        }
        impl SagaMessage for $name {
            fn step_ref(&self) -> &StepRef {
                &self.at
            }
        }
    };
}

message!(Book, "seat.book.v1", Command, seat: i64);
message!(Booked, "seat.booked.v1", Reply, seat: i64);
message!(Full, "seat.full.v1", Reply, reason: String);
message!(Free, "seat.free.v1", Command, reason: String);
message!(Freed, "seat.freed.v1", Reply);
message!(NotFreed, "seat.not_freed.v1", Reply, reason: String);
message!(Print, "ticket.print.v1", Command, seat: i64);
message!(Printed, "ticket.printed.v1", Reply);
message!(Jammed, "ticket.jammed.v1", Reply, reason: String);

macro_rules! refusal {
    ($($name:ident),*) => {$(
        impl Refusal for $name {
            fn reason(&self) -> &str {
                &self.reason
            }
        }
    )*};
}
refusal!(Full, NotFreed, Jammed);

impl Refuses<Book> for Full {
    fn refuse(command: &Book, reason: String) -> Self {
        let at = command.at.clone();
        Self { at, reason }
    }
}
impl Refuses<Print> for Jammed {
    fn refuse(command: &Print, reason: String) -> Self {
        let at = command.at.clone();
        Self { at, reason }
    }
}
impl Confirms<Free> for Freed {
    fn confirm(cancel: &Free) -> Self {
        let at = cancel.at.clone();
        Self { at }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    pub seat: i64,
    pub reason: String,
}
impl Event for Ended {
    const TYPE: &'static str = "trip.ended.v1";
    const AGGREGATE_TYPE: &'static str = "trip";
    fn aggregate_id(&self) -> String {
        self.seat.to_string()
    }
}

/// A step that books the seat of the trip, or frees it again.
pub fn booking(step: StepBuilder<Trip>) -> StepBuilder<Trip> {
    step.command(|saga, at| Book {
        at,
        seat: saga.data.seat,
    })
    .done_by::<Booked>()
    .refused_by::<Full>()
    .compensate_with(|saga, at| Free {
        at,
        reason: saga.reason().to_owned(),
    })
    .confirmed_by::<Freed>()
}

/// A step that prints the ticket of the seat that the step `booked` got.
pub fn printing(step: StepBuilder<Trip>, booked: &'static str) -> StepBuilder<Trip> {
    // The seat of the reply, not of the trip: later steps read earlier replies.
    step.command(move |saga, at| Print {
        at,
        seat: saga
            .reply::<Booked>(booked)
            .map_or(-1, |booked| booked.seat),
    })
    .done_by::<Printed>()
    .refused_by::<Jammed>()
}

/// A definition of these steps that says how it ended.
pub fn ending(steps: SagaBuilder<Trip>) -> SagaDefinition {
    steps
        .on_completed(|saga| Ended {
            seat: saga.data.seat,
            reason: String::new(),
        })
        .on_compensated(|saga| Ended {
            seat: saga.data.seat,
            reason: saga.reason().to_owned(),
        })
        .build()
        .unwrap()
}

/// `book` is the pivot if asked, so that `print` is retried.
pub fn trip(deadline: Duration, attempts: i32, pivot: bool) -> SagaDefinition {
    let steps = SagaDefinition::of::<Trip>("trip", 1)
        .deadline(deadline)
        .step("book", |step| {
            let step = booking(step)
                .compensation_refused_by::<NotFreed>()
                .attempts(attempts);
            if pivot { step.pivot() } else { step }
        })
        .step("print", |step| {
            let step = printing(step, "book").retry_delay(Duration::from_secs(5));
            if pivot { step } else { step.nothing_to_undo() }
        });
    ending(steps)
}
