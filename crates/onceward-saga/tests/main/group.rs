//! Steps done at the same time, and steps that depend on what was said before.

use std::time::Duration;

use onceward_saga::faults::{Cast, compensates_from_every_step, completes_past_the_pivot};
use onceward_saga::script::SagaScript;
use onceward_saga::{BY_OPERATOR, SagaDefinition, SagaStatus, StepRef, TIMED_OUT, Verb};

use crate::messages::*;

const DEADLINE: Duration = Duration::from_secs(60);

/// Two seats at once, `left` and `right`; then the ticket, if `left` got another seat than it asked for.
fn seats() -> SagaDefinition {
    definition(false)
}

fn definition(pivot: bool) -> SagaDefinition {
    let steps = SagaDefinition::of::<Trip>("trip", 1)
        .deadline(DEADLINE)
        .together(|group| group.step("left", booking).step("right", booking))
        .step("pay", |step| {
            let step = booking(step);
            if pivot { step.pivot() } else { step }
        })
        .step("print", |step| {
            let step = printing(step, "left").when(|saga| {
                let booked = saga.reply::<Booked>("left");
                booked.is_some_and(|booked| booked.seat != saga.data.seat)
            });
            if pivot { step } else { step.nothing_to_undo() }
        });
    ending(steps)
}

fn start() -> SagaScript {
    SagaScript::start(&seats(), "7", &Trip { seat: 12 }).every_reply_comes_twice()
}

fn again(step: &str, attempt: i32) -> StepRef {
    StepRef {
        attempt,
        ..at(step)
    }
}
fn at(step: &str) -> StepRef {
    StepRef::first(seats().saga_id("7"), step)
}
fn book(step: &str) -> Book {
    Book {
        at: at(step),
        seat: 12,
    }
}
fn booked(step: &str, seat: i64) -> Booked {
    Booked { at: at(step), seat }
}
fn full(step: &str) -> Full {
    let (at, reason) = (at(step), "full".into());
    Full { at, reason }
}
fn free(step: &str, reason: &str) -> Free {
    let (at, reason) = (at(step), reason.into());
    Free { at, reason }
}
fn freed(step: &str) -> Freed {
    Freed { at: at(step) }
}
fn ended(reason: &str) -> Ended {
    let reason = reason.into();
    Ended { seat: 12, reason }
}

/// Gives the seat that was asked for, or the one behind it.
fn cast(off: i64) -> Cast {
    Cast::new()
        .plays::<Book, Booked, Full, Free, Freed>(move |book| Booked {
            at: book.at.clone(),
            seat: book.seat + off,
        })
        .plays_on::<Print, Printed, Jammed>(|print| Printed {
            at: print.at.clone(),
        })
}

#[test]
fn what_comes_behind_a_group_waits_for_all_of_it() {
    start()
        .expects(book("left"))
        .expects(book("right"))
        .replies(booked("right", 12))
        .expects_nothing()
        .replies(booked("left", 12))
        .expects(book("pay"))
        .replies(booked("pay", 12))
        // The left seat is the one that was asked for: no ticket is needed.
        .expects_event(ended(""))
        .logged("step_omitted", 1)
        .ends(SagaStatus::Completed);
}

#[test]
fn a_reply_chooses_what_comes_next() {
    let print = Print {
        at: at("print"),
        seat: 13,
    };
    start()
        .expects(book("left"))
        .expects(book("right"))
        .replies(booked("left", 13))
        .replies(booked("right", 12))
        .expects(book("pay"))
        .replies(booked("pay", 12))
        .expects(print)
        .replies(Printed { at: at("print") })
        .expects_event(ended(""))
        .logged("step_omitted", 0)
        .ends(SagaStatus::Completed);
}

#[test]
fn one_refusal_undoes_the_whole_group_at_once() {
    // The other is done already.
    start()
        .expects(book("left"))
        .expects(book("right"))
        .replies(booked("left", 12))
        .replies(full("right"))
        .expects(free("left", "full"))
        .replies(freed("left"))
        .expects_event(ended("full"))
        .ends(SagaStatus::Compensated);
    // Or it is silent still: its answer comes too late, and its deadline no more.
    start()
        .expects(book("left"))
        .expects(book("right"))
        .replies(full("right"))
        .expects(free("left", "full"))
        .replies(booked("left", 12))
        .logged("late_reply", 1)
        .time_passes(DEADLINE * 2)
        .logged("deadline_passed", 0)
        .replies(freed("left"))
        .expects_event(ended("full"))
        .ends(SagaStatus::Compensated);
    // Or both refuse: the first reason counts.
    start()
        .expects(book("left"))
        .expects(book("right"))
        .replies(full("left"))
        .expects(free("right", "full"))
        .replies(Full {
            at: at("right"),
            reason: "on fire".into(),
        })
        .replies(freed("right"))
        .expects_event(ended("full"))
        .ends(SagaStatus::Compensated);
}

#[test]
fn a_silent_group_is_given_up_once() {
    start()
        .expects(book("left"))
        .expects(book("right"))
        .time_passes(DEADLINE * 2)
        .logged("deadline_passed", 1)
        .expects(free("right", TIMED_OUT))
        .expects(free("left", TIMED_OUT))
        .replies(freed("left"))
        .replies(freed("right"))
        .expects_event(ended(TIMED_OUT))
        .ends(SagaStatus::Compensated);
}

#[test]
fn an_operator_says_which_step_of_a_group_is_meant() {
    let waiting = || {
        start()
            .expects(book("left"))
            .expects(book("right"))
            .refuses_to(Verb::Skip, None, "left")
    };
    waiting()
        .operated(Verb::Skip, Some("right"))
        .expects_nothing()
        .replies(booked("left", 12))
        .expects(book("pay"))
        .operated(Verb::ForceCompensate, None)
        .expects(free("pay", BY_OPERATOR))
        // Skipped, and perhaps done all the same.
        .expects(free("right", BY_OPERATOR))
        .expects(free("left", BY_OPERATOR))
        .replies(freed("right"))
        .replies(freed("left"))
        .replies(freed("pay"))
        .expects_event(ended(BY_OPERATOR))
        .ends(SagaStatus::Compensated);
    waiting()
        .replies(booked("right", 12))
        .operated(Verb::Retry, None)
        .expects(Book {
            at: again("left", 2),
            seat: 12,
        })
        .operated(Verb::ForceComplete, None)
        .expects_event(ended(""))
        .ends(SagaStatus::Completed);
    waiting()
        .operated(Verb::ForceCompensate, None)
        .expects(free("right", BY_OPERATOR))
        .expects(free("left", BY_OPERATOR))
        .time_passes(DEADLINE * 2)
        .logged("deadline_passed", 0)
        .replies(freed("left"))
        .replies(freed("right"))
        .expects_event(ended(BY_OPERATOR))
        .ends(SagaStatus::Compensated);
}

#[test]
fn every_step_of_a_group_can_be_broken_in_every_way() {
    let trip = Trip { seat: 12 };
    let ways = compensates_from_every_step(&definition(false), "7", &trip, &cast(1));
    assert_eq!(ways, 48, "with a ticket");
    let ways = compensates_from_every_step(&definition(false), "7", &trip, &cast(0));
    assert_eq!(ways, 36, "without");
    let ways = compensates_from_every_step(&definition(true), "7", &trip, &cast(1));
    assert_eq!(ways, 36, "up to the pivot");
    let ways = completes_past_the_pivot(&definition(true), "7", &trip, &cast(1));
    assert_eq!(ways, 12, "behind it");
}

#[test]
fn a_pivot_is_alone_and_always_wanted() {
    let pivot = |name: &'static str| {
        SagaDefinition::of::<Trip>("bad", 1)
            .together(|group| {
                group.step("left", booking).step(name, |step| {
                    step.command(|_, at| Book { at, seat: 1 })
                        .done_by::<Booked>()
                        .when(|saga| saga.data.seat > 1)
                        .pivot()
                })
            })
            .build()
            .unwrap_err()
            .to_string()
    };
    let text = pivot("right");
    for problem in ["must be done alone", "can't be left out"] {
        assert!(text.contains(problem), "{problem} is not in: {text}");
    }
}
