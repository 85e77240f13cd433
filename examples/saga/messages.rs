//! What coordinator, airline and bank say to each other. In real life: a crate they share.

use onceward::Event;
use onceward_saga::{Confirms, Refusal, Refuses, SagaMessage, StepRef};
use serde::{Deserialize, Serialize};

// ---- the airline ---------------------------------------------------------------------------------

#[derive(Debug, Clone, Serialize, Deserialize, Event, SagaMessage)]
#[event(type = "seat.book.v1", kind = command, id = trip)]
pub struct BookSeat {
    pub at: StepRef,
    pub trip: u32,
}

#[derive(Debug, Serialize, Deserialize, Event, SagaMessage)]
#[event(type = "seat.booked.v1", kind = reply, id = trip)]
pub struct SeatBooked {
    pub at: StepRef,
    pub trip: u32,
}

#[derive(Debug, Serialize, Deserialize, Event, SagaMessage)]
#[event(type = "seat.sold_out.v1", kind = reply, id = trip)]
pub struct SoldOut {
    pub at: StepRef,
    pub trip: u32,
    pub reason: String,
}

#[derive(Debug, Serialize, Deserialize, Event, SagaMessage)]
#[event(type = "seat.free.v1", kind = command, id = trip)]
pub struct FreeSeat {
    pub at: StepRef,
    pub trip: u32,
}

#[derive(Debug, Serialize, Deserialize, Event, SagaMessage)]
#[event(type = "seat.freed.v1", kind = reply, id = trip)]
pub struct SeatFreed {
    pub at: StepRef,
    pub trip: u32,
}

// ---- the bank ------------------------------------------------------------------------------------

#[derive(Debug, Clone, Serialize, Deserialize, Event, SagaMessage)]
#[event(type = "card.charge.v1", kind = command, id = trip)]
pub struct ChargeCard {
    pub at: StepRef,
    pub trip: u32,
    pub amount_minor: i64,
}

#[derive(Debug, Serialize, Deserialize, Event, SagaMessage)]
#[event(type = "card.charged.v1", kind = reply, id = trip)]
pub struct CardCharged {
    pub at: StepRef,
    pub trip: u32,
}

#[derive(Debug, Serialize, Deserialize, Event, SagaMessage)]
#[event(type = "card.declined.v1", kind = reply, id = trip)]
pub struct CardDeclined {
    pub at: StepRef,
    pub trip: u32,
    pub reason: String,
}

#[derive(Debug, Serialize, Deserialize, Event, SagaMessage)]
#[event(type = "card.refund.v1", kind = command, id = trip)]
pub struct RefundCard {
    pub at: StepRef,
    pub trip: u32,
}

#[derive(Debug, Serialize, Deserialize, Event, SagaMessage)]
#[event(type = "card.refunded.v1", kind = reply, id = trip)]
pub struct CardRefunded {
    pub at: StepRef,
    pub trip: u32,
}

// ---- the coordinator's last word -----------------------------------------------------------------

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(type = "trip.booked.v1", id = trip)]
pub struct TripBooked {
    pub trip: u32,
}

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(type = "trip.cancelled.v1", id = trip)]
pub struct TripCancelled {
    pub trip: u32,
    pub reason: String,
}

/// Every topic: the types without their versions.
pub const TOPICS: [&str; 12] = [
    "seat.book",
    "seat.booked",
    "seat.sold_out",
    "seat.free",
    "seat.freed",
    "card.charge",
    "card.charged",
    "card.declined",
    "card.refund",
    "card.refunded",
    "trip.booked",
    "trip.cancelled",
];

// ---- how to say no, and how to confirm -----------------------------------------------------------

macro_rules! refusals {
    ($($refusal:ident of $command:ident),*) => {$(
        impl Refusal for $refusal {
            fn reason(&self) -> &str {
                &self.reason
            }
        }
        impl Refuses<$command> for $refusal {
            fn refuse(command: &$command, reason: String) -> Self {
                let (at, trip) = (command.at.clone(), command.trip);
                Self { at, trip, reason }
            }
        }
    )*};
}
refusals!(SoldOut of BookSeat, CardDeclined of ChargeCard);

macro_rules! confirmations {
    ($($confirmation:ident of $cancel:ident),*) => {$(
        impl Confirms<$cancel> for $confirmation {
            fn confirm(cancel: &$cancel) -> Self {
                let (at, trip) = (cancel.at.clone(), cancel.trip);
                Self { at, trip }
            }
        }
    )*};
}
confirmations!(SeatFreed of FreeSeat, CardRefunded of RefundCard);
