//! What the shop's saga does not need: retries, pivot, stuck, definitions that can't work.

use std::time::Duration;

use onceward_saga::faults::{Cast, compensates_from_every_step, completes_past_the_pivot};
use onceward_saga::script::SagaScript;
use onceward_saga::{BY_OPERATOR, SagaDefinition, SagaStatus, StepRef, TIMED_OUT, Verb};

use crate::messages::*;

const DEADLINE: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(5);

fn start(attempts: i32, pivot: bool) -> SagaScript {
    SagaScript::start(&trip(DEADLINE, attempts, pivot), "7", &Trip { seat: 12 })
}

fn at(step: &str, attempt: i32) -> StepRef {
    let saga_id = trip(DEADLINE, 1, false).saga_id("7");
    StepRef {
        attempt,
        ..StepRef::first(saga_id, step)
    }
}
fn book(attempt: i32) -> Book {
    Book {
        at: at("book", attempt),
        seat: 12,
    }
}
fn booked(attempt: i32) -> Booked {
    Booked {
        at: at("book", attempt),
        seat: 13,
    }
}
fn free(attempt: i32, reason: &str) -> Free {
    Free {
        at: at("book", attempt),
        reason: reason.into(),
    }
}
fn print(attempt: i32) -> Print {
    Print {
        at: at("print", attempt),
        seat: 13,
    }
}
fn jammed(attempt: i32) -> Jammed {
    Jammed {
        at: at("print", attempt),
        reason: "paper jam".into(),
    }
}
fn ended(reason: &str) -> Ended {
    Ended {
        seat: 12,
        reason: reason.into(),
    }
}

fn cast() -> Cast {
    Cast::new()
        .plays::<Book, Booked, Full, Free, Freed>(|book| Booked {
            at: book.at.clone(),
            seat: 13,
        })
        .plays_on::<Print, Printed, Jammed>(|print| Printed {
            at: print.at.clone(),
        })
}

#[test]
fn every_step_can_be_broken_in_every_way() {
    let (trip_7, retried) = (Trip { seat: 12 }, trip(DEADLINE, 3, false));
    let ways = compensates_from_every_step(&retried, "7", &trip_7, &cast());
    assert_eq!(ways, 24);
    let pivoted = trip(DEADLINE, 1, true);
    let ways = compensates_from_every_step(&pivoted, "7", &trip_7, &cast());
    assert_eq!(ways, 12, "up to the pivot");
    let ways = completes_past_the_pivot(&pivoted, "7", &trip_7, &cast());
    assert_eq!(ways, 12, "behind it");
}

#[test]
#[should_panic(expected = "left done: {\"book\"}, book, CommandLate, x1, FirstFirst")]
fn a_definition_that_forgets_to_undo_a_step_is_found_out() {
    let forgetful = SagaDefinition::of::<Trip>("trip", 1)
        .step("book", |step| {
            step.command(|_, at| Book { at, seat: 12 })
                .done_by::<Booked>()
                .refused_by::<Full>()
                .nothing_to_undo()
        })
        .step("print", |step| {
            step.command(|_, at| Print { at, seat: 12 })
                .done_by::<Printed>()
                .refused_by::<Jammed>()
                .nothing_to_undo()
        })
        .build()
        .unwrap();
    compensates_from_every_step(&forgetful, "7", &Trip { seat: 12 }, &cast());
}

#[test]
fn a_silent_step_is_asked_again_and_the_answer_to_any_try_counts() {
    start(3, false)
        .every_reply_comes_twice()
        .expects(book(1))
        .time_passes(DEADLINE)
        .expects(book(2))
        .ignores(Full {
            at: at("book", 1),
            reason: "no".into(),
        })
        .replies(booked(1))
        .expects(print(1))
        .time_passes(DEADLINE / 2)
        .replies(Printed { at: at("print", 1) })
        .expects_event(ended(""))
        .ends(SagaStatus::Completed);
}

#[test]
fn a_step_that_stays_silent_is_given_up_after_its_last_try() {
    start(3, false)
        .expects(book(1))
        .time_passes(DEADLINE)
        .expects(book(2))
        .time_passes(DEADLINE)
        .expects(book(3))
        .time_passes(DEADLINE)
        .expects(free(3, TIMED_OUT))
        .replies(Freed { at: at("book", 3) })
        .expects_event(ended(TIMED_OUT))
        .ends(SagaStatus::Compensated);
}

#[test]
fn a_step_without_effect_is_not_undone() {
    start(1, false)
        .expects(book(1))
        .replies(booked(1))
        .expects(print(1))
        .time_passes(DEADLINE)
        .expects(free(1, TIMED_OUT))
        .replies(Printed { at: at("print", 1) })
        .logged("late_reply", 1)
        .ignores(Printed { at: at("print", 1) })
        .expects_nothing()
        .replies(Freed { at: at("book", 1) })
        .expects_event(ended(TIMED_OUT))
        .ends(SagaStatus::Compensated);
}

#[test]
fn behind_the_pivot_there_is_no_way_back_and_a_refusal_is_tried_again() {
    start(1, true)
        .every_reply_comes_twice()
        .expects(book(1))
        .replies(booked(1))
        .expects(print(1))
        .replies(jammed(1))
        .expects_nothing()
        .time_passes(RETRY)
        .expects(print(2))
        .ignores(jammed(1))
        .time_passes(DEADLINE)
        .expects(print(3))
        .replies(jammed(3))
        .time_passes(RETRY)
        .expects(print(4))
        .is(SagaStatus::Running)
        .replies(Printed { at: at("print", 4) })
        .expects_event(ended(""))
        .ends(SagaStatus::Completed);
}

#[test]
fn before_the_pivot_a_refusal_turns_back() {
    start(1, true)
        .expects(book(1))
        .replies(Full {
            at: at("book", 1),
            reason: "full".into(),
        })
        .expects_event(ended("full"))
        .ends(SagaStatus::Compensated);
}

#[test]
fn a_compensation_that_fails_for_good_leaves_the_saga_stuck_until_an_operator_steps_in() {
    let stuck = || {
        start(1, false)
            .every_reply_comes_twice()
            .expects(book(1))
            .time_passes(DEADLINE)
            .expects(free(1, TIMED_OUT))
            .replies(NotFreed {
                at: at("book", 1),
                reason: "the seat is glued".into(),
            })
            .time_passes(DEADLINE * 100)
            .expects_nothing()
            .is(SagaStatus::Stuck)
    };
    stuck().ends(SagaStatus::Stuck);
    stuck()
        .operated(Verb::Retry, None)
        .is(SagaStatus::Compensating)
        .logged("operated", 1)
        .expects(free(1, TIMED_OUT))
        .replies(Freed { at: at("book", 1) })
        .expects_event(ended(TIMED_OUT))
        .ends(SagaStatus::Compensated);
    // Or it was done by hand.
    for (verb, step) in [
        (Verb::Skip, None),
        (Verb::Skip, Some("book")),
        (Verb::ForceCompensate, None),
    ] {
        stuck()
            .operated(verb, step)
            .expects_event(ended(TIMED_OUT))
            .is(SagaStatus::Compensated)
            .refuses_to(Verb::Retry, None, "has ended")
            .replies(Freed { at: at("book", 1) })
            .logged("late_reply", 1)
            .ends(SagaStatus::Compensated);
    }
    stuck()
        .refuses_to(Verb::ForceComplete, None, "only a running one")
        .refuses_to(Verb::Retry, Some("print"), "is not begun")
        .refuses_to(Verb::Skip, Some("fly"), "no step")
        .ends(SagaStatus::Stuck);
    // Or the participant did it after all.
    stuck()
        .replies(Freed { at: at("book", 1) })
        .expects_event(ended(TIMED_OUT))
        .ends(SagaStatus::Compensated);
}

#[test]
fn an_operator_moves_a_running_saga_on_or_back() {
    // Again, at once: the next try has the whole deadline.
    start(1, false)
        .every_reply_comes_twice()
        .expects(book(1))
        .time_passes(DEADLINE / 2)
        .operated(Verb::Retry, None)
        .expects(book(2))
        .time_passes(DEADLINE - Duration::from_secs(1))
        .expects_nothing()
        .replies(booked(2))
        .expects(print(1))
        .refuses_to(Verb::Retry, Some("book"), "is done")
        .refuses_to(Verb::Skip, Some("book"), "is done")
        .operated(Verb::Skip, Some("print"))
        .expects_event(ended(""))
        .refuses_to(Verb::ForceCompensate, None, "has ended")
        .ends(SagaStatus::Completed);
    // What was skipped may have happened: it is undone with the rest.
    let unknown_seat = Print {
        seat: -1,
        ..print(1)
    };
    start(1, false)
        .expects(book(1))
        .operated(Verb::Skip, None)
        .expects(unknown_seat.clone())
        .replies(booked(1))
        .logged("late_reply", 1)
        .operated(Verb::ForceCompensate, None)
        .expects(free(1, BY_OPERATOR))
        .replies(Freed { at: at("book", 1) })
        .expects_event(ended(BY_OPERATOR))
        .ends(SagaStatus::Compensated);
    start(1, false)
        .expects(book(1))
        .operated(Verb::ForceComplete, None)
        .expects_event(ended(""))
        .replies(booked(1))
        .logged("late_reply", 1)
        .ends(SagaStatus::Completed);
    // Behind the pivot there is no way back, by force either; but no need to wait.
    start(1, true)
        .expects(book(1))
        .replies(booked(1))
        .expects(print(1))
        .replies(jammed(1))
        .refuses_to(Verb::ForceCompensate, None, "point of no return")
        .operated(Verb::Retry, None)
        .expects(print(2))
        .time_passes(RETRY)
        .expects_nothing()
        .operated(Verb::ForceComplete, None)
        .expects_event(ended(""))
        .ends(SagaStatus::Completed);
}

#[test]
#[should_panic(expected = "another thing than expected")]
fn a_script_compares_whole_messages() {
    let wrong = Book {
        seat: 99,
        ..book(1)
    };
    start(1, false).expects(wrong).ends(SagaStatus::Running);
}

#[test]
fn a_definition_that_cannot_work_tells_all_its_problems() {
    let invalid = SagaDefinition::of::<Trip>("bad", 1)
        .step("book", |step| {
            step.command(|saga, at| Book {
                at,
                seat: saga.data.seat,
            })
            .done_by::<Booked>()
            .compensate_with(|saga, at| Free {
                at,
                reason: saga.reason().to_owned(),
            })
            .attempts(0)
        })
        .step("book", |step| step.done_by::<Booked>())
        .step("A/B", |step| step.pivot())
        .build()
        .unwrap_err();
    let text = invalid.to_string();
    for problem in [
        "tried at least once",
        "both a compensation and its confirmation",
        "there twice",
        "no command",
        "no compensation",
        "no reply that says done",
        "a-z 0-9",
    ] {
        assert!(text.contains(problem), "{problem} is not in: {text}");
    }
}
