//! Killed at every line that matters, then started again.

use onceward_testkit::kafka;
use sqlx::{Postgres, Sqlite};

use crate::support::relay::Start;
use crate::support::source::{Database, Source};
use crate::support::topic::{Topic, assert_exactly_once};

/// Killed at `point`, restarted, and each row is there once.
fn survives<B: Database>(point: &str, publisher: &str) {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<B>::new("crash");
    let topic = Topic::new(&kafka, "crash", 3);
    source.write_key(&topic.name, "a", 0..10);
    source.write_key(&topic.name, "b", 0..7);
    let mut relay = Start::new(&kafka, &[source.option()])
        .publisher(publisher)
        .arg("--batch-rows", "4")
        .arg("--instance-id", "one")
        .dying_at(point)
        .go();
    relay.wait_for_death();
    source.write_key(&topic.name, "a", 10..20);
    let relay = Start::new(&kafka, &[source.option()])
        .publisher(publisher)
        .arg("--batch-rows", "4")
        .arg("--instance-id", "one")
        .go();
    topic.wait_for(27, || relay.process.log_tail(60));
    assert_exactly_once(&topic.read(), &[("a", 20), ("b", 7)]);
}

/// Every point a relay without poison rows passes.
const POINTS: &[&str] = &[
    "claimed",
    "opened",
    "progress-read",
    "genesis-committed",
    "genesis-mirrored",
    "taken-over",
    "fetched",
    "publishing",
    "committed",
    "committed:2",
    "publishing:3",
    "mirroring",
    "mirrored",
];

#[test]
fn killed_at_any_line_each_row_is_published_once_from_sqlite() {
    for point in POINTS {
        println!("{point}");
        survives::<Sqlite>(point, "native");
    }
}

#[test]
fn killed_at_any_line_each_row_is_published_once_from_postgres() {
    for point in POINTS {
        println!("{point}");
        survives::<Postgres>(point, "native");
    }
}

#[test]
fn killed_at_any_line_each_row_is_published_once_by_rdkafka() {
    for point in POINTS {
        println!("{point}");
        survives::<Sqlite>(point, "rdkafka");
    }
}
