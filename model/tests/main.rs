//! The rules suffice, and each of them is needed.

use model::relay::World;
use model::{consumer, cursor, relay, replay};
use stateright::{Checker, HasDiscoveries, Model};

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
    let found = HasDiscoveries::AllOf([promise].into());
    let checker = rules.checker().threads(2).finish_when(found);
    let checker = checker.spawn_bfs().join();
    assert!(
        checker.discovery(promise).is_some(),
        "{rules:?} keeps the promise {promise:?}"
    );
}

const ORDER: &str = "each row once and in order";
const POISON: World = World {
    poison: 2,
    is_mended: true,
    hangs: false,
    first_start: false,
};

#[test]
fn rows_are_published_once_and_in_order_whatever_dies_or_comes_late() {
    for transactions_v2 in [false, true] {
        for poison in [0, 2] {
            holds(relay::Rules {
                transactions_v2,
                world: World {
                    poison,
                    is_mended: poison > 0 && !transactions_v2,
                    ..World::default()
                },
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
        world: POISON,
        park_before_passing: false,
        ..Default::default()
    };
    breaks("progress tells the rows", rules);
}

#[test]
fn a_replaced_relay_that_parks_stores_a_row_that_its_successor_published() {
    let rules = relay::Rules {
        world: POISON,
        guarded: false,
        ..Default::default()
    };
    breaks("progress tells the rows", rules);
}

#[test]
fn progress_as_far_as_readers_see_doubles_rows_behind_a_hanging_transaction() {
    let rules = relay::Rules {
        world: World {
            hangs: true,
            ..World::default()
        },
        ..Default::default()
    };
    holds(rules);
    let rules = relay::Rules {
        read_to_high_watermark: false,
        ..rules
    };
    breaks(ORDER, rules);
}

#[test]
fn rows_before_the_first_mirror_are_doubled_when_progress_is_lost() {
    let rules = relay::Rules {
        world: World {
            first_start: true,
            ..World::default()
        },
        ..Default::default()
    };
    holds(rules);
    let rules = relay::Rules {
        mirror_before_rows: false,
        ..rules
    };
    breaks(ORDER, rules);
}

#[test]
fn each_copy_of_a_parked_key_is_replayed_once() {
    holds(replay::Rules::default());
}

#[test]
fn a_take_over_that_does_not_clean_up_replays_copies_twice() {
    let rules = replay::Rules {
        clean_up_at_take_over: false,
        ..Default::default()
    };
    breaks("each copy once and in order", rules);
}

#[test]
fn copies_deleted_before_their_commit_are_lost() {
    let rules = replay::Rules {
        delete_after_commit: false,
        ..Default::default()
    };
    breaks("no copy is lost", rules);
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
fn a_snapshot_of_a_standby_skips_what_runs_on_the_primary() {
    breaks(
        "no row skipped",
        cursor::Rules {
            only_from_primary: false,
            ..Default::default()
        },
    );
}

#[test]
fn a_row_with_the_id_of_another_cluster_is_left_behind() {
    breaks(
        "no row left behind",
        cursor::Rules {
            stop_at_foreign: false,
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
