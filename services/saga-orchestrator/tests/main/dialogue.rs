//! What the saga says, word for word.

use std::time::Duration;

use contracts::{customer, delivery, inventory, order, payment};
use onceward_saga::faults::{Cast, compensates_from_every_step};
use onceward_saga::script::SagaScript;
use onceward_saga::{Refusal, SagaDefinition, SagaStatus, StepRef, TIMED_OUT};
use saga_orchestrator::place_order;
use uuid::Uuid;

const DEADLINE: Duration = Duration::from_secs(60);
const SHORT_OF_IT: Duration = Duration::from_millis(59_999);
const ORDER: Uuid = Uuid::from_u128(7);

fn definition() -> SagaDefinition {
    place_order::without_validation(DEADLINE).unwrap()
}

fn order() -> order::Created {
    order::Created {
        order_id: ORDER,
        user_id: "user_123".into(),
        product_id: "product_1".into(),
        quantity: 2,
        amount_minor: 19_999,
    }
}

fn script() -> SagaScript {
    SagaScript::start(&definition(), &ORDER.to_string(), &order())
}

fn at(step: &str) -> StepRef {
    StepRef::first(definition().saga_id(&ORDER.to_string()), step)
}

/// The version that asks customer and inventory first.
fn validated() -> SagaScript {
    let definition = place_order::validated(DEADLINE).unwrap();
    SagaScript::start(&definition, &ORDER.to_string(), &order())
        .every_reply_comes_twice()
        .expects(may_order())
        .expects(is_there_enough())
}

fn may_order() -> customer::Validate {
    customer::Validate {
        saga: at("customer"),
        order_id: ORDER,
        user_id: "user_123".into(),
        amount_minor: 19_999,
    }
}
fn may() -> customer::Validated {
    customer::Validated {
        saga: at("customer"),
        order_id: ORDER,
    }
}
fn may_not() -> customer::Rejected {
    customer::Rejected {
        saga: at("customer"),
        order_id: ORDER,
        reason: "credit limit exceeded".into(),
    }
}
fn give_back(reason: &str) -> customer::Release {
    customer::Release {
        saga: at("customer"),
        order_id: ORDER,
        reason: reason.into(),
    }
}
fn given_back() -> customer::Released {
    customer::Released {
        saga: at("customer"),
        order_id: ORDER,
    }
}
fn is_there_enough() -> inventory::Validate {
    inventory::Validate {
        saga: at("availability"),
        order_id: ORDER,
        product_id: "product_1".into(),
        quantity: 2,
    }
}
fn there_is() -> inventory::Validated {
    inventory::Validated {
        saga: at("availability"),
        order_id: ORDER,
    }
}
fn there_is_not() -> inventory::Rejected {
    inventory::Rejected {
        saga: at("availability"),
        order_id: ORDER,
        reason: "insufficient inventory".into(),
    }
}
fn reserve() -> inventory::Reserve {
    inventory::Reserve {
        saga: at("inventory"),
        order_id: ORDER,
        product_id: "product_1".into(),
        quantity: 2,
    }
}
fn reserved() -> inventory::Reserved {
    inventory::Reserved {
        saga: at("inventory"),
        order_id: ORDER,
        product_id: "product_1".into(),
        quantity: 2,
    }
}
fn release(reason: &str) -> inventory::Release {
    inventory::Release {
        saga: at("inventory"),
        order_id: ORDER,
        product_id: "product_1".into(),
        quantity: 2,
        reason: reason.into(),
    }
}
fn released() -> inventory::Released {
    inventory::Released {
        saga: at("inventory"),
        order_id: ORDER,
    }
}
fn out_of_stock() -> inventory::Failed {
    inventory::Failed {
        saga: at("inventory"),
        order_id: ORDER,
        reason: "insufficient inventory".into(),
    }
}
fn charge() -> payment::Process {
    payment::Process {
        saga: at("payment"),
        order_id: ORDER,
        user_id: "user_123".into(),
        amount_minor: 19_999,
    }
}
fn charged() -> payment::Completed {
    payment::Completed {
        saga: at("payment"),
        order_id: ORDER,
        amount_minor: 19_999,
    }
}
fn declined() -> payment::Failed {
    payment::Failed {
        saga: at("payment"),
        order_id: ORDER,
        reason: "payment declined".into(),
    }
}
fn refund(reason: &str) -> payment::Refund {
    payment::Refund {
        saga: at("payment"),
        order_id: ORDER,
        user_id: "user_123".into(),
        amount_minor: 19_999,
        reason: reason.into(),
    }
}
fn refunded() -> payment::Refunded {
    payment::Refunded {
        saga: at("payment"),
        order_id: ORDER,
    }
}
fn schedule() -> delivery::Schedule {
    delivery::Schedule {
        saga: at("delivery"),
        order_id: ORDER,
        user_id: "user_123".into(),
        product_id: "product_1".into(),
        quantity: 2,
    }
}
fn scheduled() -> delivery::Scheduled {
    delivery::Scheduled {
        saga: at("delivery"),
        order_id: ORDER,
    }
}
fn undeliverable() -> delivery::Failed {
    delivery::Failed {
        saga: at("delivery"),
        order_id: ORDER,
        reason: "address undeliverable".into(),
    }
}
fn cancel(reason: &str) -> delivery::Cancel {
    delivery::Cancel {
        saga: at("delivery"),
        order_id: ORDER,
        reason: reason.into(),
    }
}
fn called_off() -> delivery::Cancelled {
    delivery::Cancelled {
        saga: at("delivery"),
        order_id: ORDER,
    }
}
fn completed() -> order::Completed {
    order::Completed {
        order_id: ORDER,
        saga_id: at("").saga_id,
    }
}
fn cancelled(reason: &str) -> order::Cancelled {
    order::Cancelled {
        order_id: ORDER,
        saga_id: at("").saga_id,
        reason: reason.into(),
    }
}

#[test]
fn an_order_goes_through_stock_money_and_delivery() {
    script()
        .every_reply_comes_twice()
        .expects(reserve())
        .replies(reserved())
        .expects(charge())
        .replies(charged())
        .expects(schedule())
        .expects_nothing()
        .replies(scheduled())
        .expects_event(completed())
        .time_passes(DEADLINE * 10)
        .ends(SagaStatus::Completed);
}

#[test]
fn an_order_without_stock_is_cancelled_and_nothing_needs_undoing() {
    script()
        .every_reply_comes_twice()
        .expects(reserve())
        .replies(out_of_stock())
        .expects_event(cancelled(out_of_stock().reason()))
        .ends(SagaStatus::Compensated);
}

#[test]
fn a_declined_payment_releases_the_stock() {
    script()
        .every_reply_comes_twice()
        .expects(reserve())
        .replies(reserved())
        .expects(charge())
        .replies(declined())
        .expects(release("payment declined"))
        .expects_nothing()
        .time_passes(DEADLINE * 10)
        .expects_nothing()
        .replies(released())
        .expects_event(cancelled("payment declined"))
        .ends(SagaStatus::Compensated);
}

#[test]
fn a_failed_delivery_refunds_and_releases_at_once() {
    let until_both_are_asked = || {
        script()
            .every_reply_comes_twice()
            .expects(reserve())
            .replies(reserved())
            .expects(charge())
            .replies(charged())
            .expects(schedule())
            .replies(undeliverable())
            .expects(refund("address undeliverable"))
            .expects(release("address undeliverable"))
    };
    until_both_are_asked()
        .replies(refunded())
        .expects_nothing()
        .replies(released())
        .expects_event(cancelled("address undeliverable"))
        .ends(SagaStatus::Compensated);
    until_both_are_asked()
        .replies(released())
        .expects_nothing()
        .replies(refunded())
        .expects_event(cancelled("address undeliverable"))
        .ends(SagaStatus::Compensated);
}

#[test]
fn a_silent_inventory_is_told_to_undo_what_it_may_have_done() {
    script()
        .every_reply_comes_twice()
        .expects(reserve())
        .time_passes(SHORT_OF_IT)
        .expects_nothing()
        .is(SagaStatus::Running)
        .time_passes(Duration::from_millis(1))
        .expects(release(TIMED_OUT))
        .is(SagaStatus::Compensating)
        .replies(released())
        .expects_event(cancelled(TIMED_OUT))
        .ends(SagaStatus::Compensated);
}

#[test]
fn a_silent_payment_service_is_asked_to_refund_and_the_stock_is_released_at_once() {
    script()
        .every_reply_comes_twice()
        .expects(reserve())
        .replies(reserved())
        .expects(charge())
        .time_passes(DEADLINE)
        .expects(refund(TIMED_OUT))
        .expects(release(TIMED_OUT))
        .replies(released())
        .time_passes(DEADLINE * 1_000)
        .expects_nothing()
        .is(SagaStatus::Compensating)
        .replies(refunded())
        .expects_event(cancelled(TIMED_OUT))
        .ends(SagaStatus::Compensated);
}

#[test]
fn a_silent_delivery_undoes_all_three() {
    script()
        .every_reply_comes_twice()
        .expects(reserve())
        .replies(reserved())
        .expects(charge())
        .replies(charged())
        .expects(schedule())
        .time_passes(DEADLINE)
        .expects(cancel(TIMED_OUT))
        .expects(refund(TIMED_OUT))
        .expects(release(TIMED_OUT))
        .replies(refunded())
        .replies(called_off())
        .expects_nothing()
        .replies(released())
        .expects_event(cancelled(TIMED_OUT))
        .ends(SagaStatus::Compensated);
}

#[test]
fn a_success_after_the_deadline_is_logged_once_and_only_the_confirmation_ends_the_step() {
    script()
        .expects(reserve())
        .replies(reserved())
        .expects(charge())
        .time_passes(DEADLINE)
        .expects(refund(TIMED_OUT))
        .expects(release(TIMED_OUT))
        .replies(charged())
        .logged("late_reply", 1)
        .ignores(charged())
        .ignores(declined())
        .expects_nothing()
        .replies(released())
        .expects_nothing()
        .replies(refunded())
        .expects_event(cancelled(TIMED_OUT))
        .ends(SagaStatus::Compensated);
}

#[test]
fn what_comes_after_the_end_changes_nothing() {
    script()
        .expects(reserve())
        .time_passes(DEADLINE)
        .expects(release(TIMED_OUT))
        .replies(released())
        .expects_event(cancelled(TIMED_OUT))
        .ignores(released())
        // Its topic was slower than the confirmation's.
        .replies(reserved())
        .logged("late_reply", 1)
        .ignores(reserved())
        .expects_nothing()
        .ends(SagaStatus::Compensated);
}

#[test]
fn answers_to_what_was_never_asked_are_refused() {
    let other_step = StepRef {
        step: "payment".into(),
        ..at("inventory")
    };
    let from_the_future = StepRef {
        attempt: 2,
        ..at("inventory")
    };
    script()
        .expects(reserve())
        .refuses(charged())
        .refuses(released())
        .refuses(inventory::Reserved {
            saga: other_step,
            ..reserved()
        })
        .refuses(inventory::Reserved {
            saga: from_the_future,
            ..reserved()
        })
        .replies(reserved())
        .expects(charge())
        .refuses(out_of_stock())
        .ends(SagaStatus::Running);
}

#[test]
fn customer_and_inventory_are_asked_at_once_and_both_must_say_yes() {
    validated()
        .replies(there_is())
        .expects_nothing()
        .replies(may())
        .expects(reserve())
        .replies(reserved())
        .expects(charge())
        .replies(declined())
        .expects(release("payment declined"))
        .expects(give_back("payment declined"))
        .replies(given_back())
        .expects_nothing()
        .replies(released())
        .expects_event(cancelled("payment declined"))
        .ends(SagaStatus::Compensated);
}

#[test]
fn a_rejected_order_gives_the_credit_back_and_touches_no_stock() {
    // Nothing was set aside.
    validated()
        .replies(may_not())
        .expects_event(cancelled("credit limit exceeded"))
        .replies(there_is())
        .logged("late_reply", 1)
        .time_passes(DEADLINE * 2)
        .ends(SagaStatus::Compensated);
    // The customer's answer is still on its way.
    validated()
        .replies(there_is_not())
        .expects(give_back("insufficient inventory"))
        .replies(may())
        .logged("late_reply", 1)
        .replies(given_back())
        .expects_event(cancelled("insufficient inventory"))
        .ends(SagaStatus::Compensated);
    // Or it has come, and the inventory's never does.
    validated()
        .replies(may())
        .time_passes(DEADLINE)
        .expects(give_back(TIMED_OUT))
        .replies(given_back())
        .expects_event(cancelled(TIMED_OUT))
        .ends(SagaStatus::Compensated);
}

#[test]
fn every_step_of_the_order_can_be_broken_in_every_way() {
    let cast = Cast::new()
        .plays::<customer::Validate, customer::Validated, customer::Rejected, customer::Release, customer::Released>(
            |validate| customer::Validated {
                saga: validate.saga.clone(),
                order_id: validate.order_id,
            },
        )
        .plays_on::<inventory::Validate, inventory::Validated, inventory::Rejected>(|validate| {
            inventory::Validated {
                saga: validate.saga.clone(),
                order_id: validate.order_id,
            }
        })
        .plays::<inventory::Reserve, inventory::Reserved, inventory::Failed, inventory::Release, inventory::Released>(
            |reserve| inventory::Reserved {
                saga: reserve.saga.clone(),
                order_id: reserve.order_id,
                product_id: reserve.product_id.clone(),
                quantity: reserve.quantity,
            },
        )
        .plays::<payment::Process, payment::Completed, payment::Failed, payment::Refund, payment::Refunded>(
            |process| payment::Completed {
                saga: process.saga.clone(),
                order_id: process.order_id,
                amount_minor: process.amount_minor,
            },
        )
        .plays::<delivery::Schedule, delivery::Scheduled, delivery::Failed, delivery::Cancel, delivery::Cancelled>(
            |schedule| delivery::Scheduled {
                saga: schedule.saga.clone(),
                order_id: schedule.order_id,
            },
        );
    let subject = ORDER.to_string();
    let ways = compensates_from_every_step(&definition(), &subject, &order(), &cast);
    assert_eq!(ways, 36);
    let validated = place_order::validated(DEADLINE).unwrap();
    let ways = compensates_from_every_step(&validated, &subject, &order(), &cast);
    assert_eq!(ways, 60);
}
