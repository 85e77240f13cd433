//! A few cells of `./dev faults`, through the same code; and that it notices what it is for.
#![expect(clippy::unwrap_used, reason = "tests end by panicking")]

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use faults::broken::{BROKEN, is_noticed};
use faults::cell::{Plan, run};
use faults::cli::cell_named;
use faults::stage::Stage;
use faults::stop::stop_cells;
use onceward_testkit::disk::SmallDisk;

/// One Kafka for both tests; its processes end with this one.
fn stage() -> MutexGuard<'static, Stage> {
    static STAGE: OnceLock<Mutex<Stage>> = OnceLock::new();
    let stage = STAGE.get_or_init(|| Mutex::new(Stage::set().unwrap()));
    stage.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_handful_of_faults_loses_doubles_and_reorders_nothing() {
    for (cell, rounds) in [
        ("relay-killed/postgres/native", 2),
        ("relay-taken-over/sqlite/rdkafka", 1),
        ("commit-late/postgres/rdkafka", 1),
        ("postgres-xids-reused/postgres/native", 1),
        ("writer-killed/sqlite/native", 1),
        ("consumer-killed-in-handler/sqlite/native", 1),
        ("progress-lost/postgres/native", 1),
        ("database-disk-full/sqlite/native", 2),
    ] {
        if cell.contains("disk") && !SmallDisk::is_allowed() {
            println!("{cell}: not run, only root can mount a disk");
            continue;
        }
        println!("{cell}");
        let plan = Plan {
            seed: 1,
            rounds: Some(rounds),
            ..Plan::default()
        };
        let outcome = run(&mut stage(), &cell_named(cell).unwrap(), &plan);
        assert!(outcome.problems.is_empty(), "{cell}: {outcome:#?}");
        assert_eq!(outcome.runs, rounds);
        assert!(outcome.events > 50, "{cell}: {outcome:#?}");
    }
}

#[test]
fn each_rule_that_is_broken_is_noticed() {
    for broken in BROKEN {
        println!("{}", broken.name());
        let outcome = broken.run(&mut stage(), 1).unwrap();
        assert!(is_noticed(&outcome), "{}: {outcome:#?}", broken.rule);
    }
}

#[test]
fn where_records_would_be_skipped_the_consumer_stops() {
    let mut stops = stop_cells();
    let cell = stops.find(|cell| cell.name() == "stop/records-expired/sqlite");
    let stopped = cell.unwrap().run(&mut stage(), 1);
    assert_eq!(stopped.problem, "", "{stopped:#?}");
}
