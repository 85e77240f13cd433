//! The saga: a seat, then the money; and both undone if one of them can't be had.

use std::time::Duration;

use onceward_saga::{InvalidDefinition, SagaDefinition};
use serde::{Deserialize, Serialize};

use crate::messages::*;

/// What a saga is started with, and its messages are made of.
#[derive(Debug, Serialize, Deserialize)]
pub struct Trip {
    pub number: u32,
    pub amount_minor: i64,
}

pub fn definition() -> Result<SagaDefinition, InvalidDefinition> {
    SagaDefinition::of::<Trip>("trip", 1)
        .deadline(Duration::from_secs(60))
        .step("seat", |step| {
            step.command(|saga, at| BookSeat {
                at,
                trip: saga.data.number,
            })
            .done_by::<SeatBooked>()
            .refused_by::<SoldOut>()
            .compensate_with(|saga, at| FreeSeat {
                at,
                trip: saga.data.number,
            })
            .confirmed_by::<SeatFreed>()
        })
        .step("card", |step| {
            step.command(|saga, at| ChargeCard {
                at,
                trip: saga.data.number,
                amount_minor: saga.data.amount_minor,
            })
            .done_by::<CardCharged>()
            .refused_by::<CardDeclined>()
            .compensate_with(|saga, at| RefundCard {
                at,
                trip: saga.data.number,
            })
            .confirmed_by::<CardRefunded>()
        })
        .on_completed(|saga| TripBooked {
            trip: saga.data.number,
        })
        .on_compensated(|saga| TripCancelled {
            trip: saga.data.number,
            reason: saga.reason().to_owned(),
        })
        .build()
}

/// Written as dialogue, without Kafka and without a database.
#[cfg(test)]
mod tests {
    use onceward_saga::script::SagaScript;
    use onceward_saga::{SagaStatus, StepRef, TIMED_OUT};

    use super::*;

    const TRIP: Trip = Trip {
        number: 7,
        amount_minor: 4_200,
    };

    fn at(step: &str) -> StepRef {
        StepRef::first(definition().unwrap().saga_id("7"), step)
    }

    /// The seat is booked, the card asked for its money.
    fn up_to_the_card() -> SagaScript {
        SagaScript::start(&definition().unwrap(), "7", &TRIP)
            .every_reply_comes_twice()
            .expects(BookSeat {
                at: at("seat"),
                trip: 7,
            })
            .replies(SeatBooked {
                at: at("seat"),
                trip: 7,
            })
            .expects(ChargeCard {
                at: at("card"),
                trip: 7,
                amount_minor: 4_200,
            })
    }

    #[test]
    fn a_trip_is_booked_once_its_seat_is_paid_for() {
        up_to_the_card()
            .replies(CardCharged {
                at: at("card"),
                trip: 7,
            })
            .expects_event(TripBooked { trip: 7 })
            .ends(SagaStatus::Completed);
    }

    #[test]
    fn a_declined_card_frees_the_seat() {
        up_to_the_card()
            .replies(CardDeclined {
                at: at("card"),
                trip: 7,
                reason: "no money".into(),
            })
            .expects(FreeSeat {
                at: at("seat"),
                trip: 7,
            })
            .replies(SeatFreed {
                at: at("seat"),
                trip: 7,
            })
            .expects_event(TripCancelled {
                trip: 7,
                reason: "no money".into(),
            })
            .ends(SagaStatus::Compensated);
    }

    #[test]
    fn a_bank_that_says_nothing_may_have_charged_so_it_is_told_to_refund() {
        up_to_the_card()
            .time_passes(Duration::from_secs(60))
            .expects(RefundCard {
                at: at("card"),
                trip: 7,
            })
            .expects(FreeSeat {
                at: at("seat"),
                trip: 7,
            })
            .replies(SeatFreed {
                at: at("seat"),
                trip: 7,
            })
            .replies(CardRefunded {
                at: at("card"),
                trip: 7,
            })
            .expects_event(TripCancelled {
                trip: 7,
                reason: TIMED_OUT.into(),
            })
            .ends(SagaStatus::Compensated);
    }
}
