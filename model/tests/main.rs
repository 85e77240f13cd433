//! The rules suffice, and each of them is needed.

use model::{consumer, cursor, relay};
use stateright::{Checker, Model};

/// Walks through every state and fails with the way to a broken promise.
#[track_caller]
fn holds<M>(rules: M)
where
    M: Model + Send + Sync + std::fmt::Debug + Copy + 'static,
    M::State: Clone + Send + Sync + std::hash::Hash + std::fmt::Debug + PartialEq,
    M::Action: Clone + Send + Sync + std::fmt::Debug + PartialEq,
{
    let checker = rules.checker().threads(2).spawn_bfs().join();
    println!("{rules:?}: {} states", checker.unique_state_count());
    checker.assert_properties();
}

/// The checker finds that a promise does not hold under these rules.
#[track_caller]
fn breaks<M>(promise: &'static str, rules: M)
where
    M: Model + Send + Sync + std::fmt::Debug + Copy + 'static,
    M::State: Clone + Send + Sync + std::hash::Hash + std::fmt::Debug + PartialEq,
    M::Action: Clone + Send + Sync + std::fmt::Debug + PartialEq,
{
    let checker = rules.checker().threads(2).spawn_bfs().join();
    assert!(
        checker.discovery(promise).is_some(),
        "{rules:?} keeps the promise {promise:?}"
    );
}

const ORDER: &str = "each row once and in order";

#[test]
fn rows_are_published_once_and_in_order_whatever_dies_or_comes_late() {
    for transactions_v2 in [false, true] {
        for poison in [0, 2] {
            holds(relay::Rules {
                transactions_v2,
                poison,
                ..Default::default()
            });
        }
    }
}

#[test]
fn progress_read_before_init_doubles_rows() {
    breaks(
        ORDER,
        relay::Rules {
            init_before_read: false,
            ..Default::default()
        },
    );
}

#[test]
fn a_position_kept_only_in_the_database_doubles_rows() {
    breaks(
        ORDER,
        relay::Rules {
            position_from_kafka: false,
            ..Default::default()
        },
    );
}

#[test]
fn an_unanswered_commit_taken_for_an_abort_doubles_rows() {
    breaks(
        ORDER,
        relay::Rules {
            unknown_means_take_over: false,
            ..Default::default()
        },
    );
}

#[test]
fn a_dirty_producer_that_goes_on_breaks_transactions_v1_and_not_v2() {
    let rules = relay::Rules {
        dirty_is_dropped: false,
        ..Default::default()
    };
    breaks("progress tells the rows", rules);
    holds(relay::Rules {
        transactions_v2: true,
        ..rules
    });
}

#[test]
fn a_refused_row_passed_before_it_is_parked_is_lost() {
    let rules = relay::Rules {
        poison: 2,
        park_before_passing: false,
        ..Default::default()
    };
    breaks("progress tells the rows", rules);
}

#[test]
fn the_snapshot_cursor_skips_doubles_and_reorders_nothing() {
    holds(cursor::Rules::default());
}

#[test]
fn a_batch_in_the_order_of_transaction_ids_breaks_the_order_of_a_key() {
    breaks(
        "each key in order",
        cursor::Rules {
            order_by_seq: false,
            ..Default::default()
        },
    );
}

#[test]
fn a_snapshot_stored_as_it_is_skips_rows_with_reused_ids() {
    breaks(
        "no row skipped",
        cursor::Rules {
            lower_xmax: false,
            ..Default::default()
        },
    );
}

#[test]
fn a_cursor_by_sequence_number_skips_late_commits() {
    breaks(
        "no row skipped",
        cursor::Rules {
            snapshot: false,
            ..Default::default()
        },
    );
}

#[test]
fn each_message_takes_effect_once_and_in_the_order_of_its_key() {
    holds(consumer::Rules::default());
}

#[test]
fn a_claim_inside_the_savepoint_doubles_effects() {
    let rules = consumer::Rules {
        claim_outside_savepoint: false,
        ..Default::default()
    };
    breaks("each effect at most once", rules);
}

#[test]
fn an_owner_without_a_guard_breaks_the_order_of_a_key() {
    breaks(
        "each key in order",
        consumer::Rules {
            guarded: false,
            ..Default::default()
        },
    );
}

#[test]
fn later_messages_that_do_not_queue_break_the_order_of_a_key() {
    breaks(
        "each key in order",
        consumer::Rules {
            queue_behind: false,
            ..Default::default()
        },
    );
}

/// The inbox alone makes effects single; what an offset of its own time costs is only work.
#[test]
fn an_offset_stored_later_costs_work_and_no_effect() {
    holds(consumer::Rules {
        offset_in_same_transaction: false,
        ..Default::default()
    });
}
