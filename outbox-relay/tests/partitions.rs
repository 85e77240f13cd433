//! A source of more partitions than a progress record tells of each time.

use onceward_testkit::kafka;
use outbox_relay::Phase;
use sqlx::{Postgres, Sqlite};

use crate::support::relay::{Relay, Start};
use crate::support::source::{Database, Row, Source};
use crate::support::topic::{Seen, Topic, assert_exactly_once};

const KEYS: u32 = 2_000;

fn progress_tells_of_changes_and_forgets_no_partition<B: Database>(publisher: &str) {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<B>::new("partitions");
    let topic = Topic::new(&kafka, "partitions", 300);
    let start = || Start::new(&kafka, &[source.option()]).publisher(publisher);
    let keys: Vec<String> = (0..KEYS).map(|key| format!("k{key}")).collect();
    let once_each: Vec<Row<'_>> = keys
        .iter()
        .map(|key| Row {
            topic: &topic.name,
            key: Some(key),
            payload: format!("{key}:0"),
        })
        .collect();
    source.write(&once_each);
    let mut relay = start().go();
    let mut count = once_each.len();
    topic.wait_for(count, || relay.process.log_tail(30));
    let mut once_more = |number: u32, of: &[&str], relay: &Relay| {
        for key in of {
            source.write_key(&topic.name, key, number..number + 1);
            count += 1;
            topic.wait_for(count, || relay.process.log_tail(30));
        }
    };
    once_more(1, &["k0", "k1", "k2"], &relay);

    let written = Topic::of_progress(&kafka, &source.name).read();
    let (full, changes): (Vec<&Seen>, Vec<&Seen>) = written
        .iter()
        .partition(|record| record.key.as_deref() == Some(source.name.as_str()));
    let longest = |records: &[&Seen]| records.iter().map(|record| record.payload.len()).max();
    println!(
        "bytes: in full {:?}, changes {:?}",
        longest(&full),
        longest(&changes)
    );
    assert_eq!(changes.len(), 3);
    assert!(longest(&changes) < Some(700) && longest(&full) > Some(2_500));

    // Its successor knows all partitions from the two records, and begins with all of them again.
    relay.process.kill9().unwrap();
    let mut relay = start().go();
    relay.wait_for_state(Phase::Tail);
    once_more(2, &["k0", "k1"], &relay);
    relay.process.kill9().unwrap();
    let mut relay = start().dying_at("committed").go();
    source.write_key(&topic.name, "k2", 2..3);
    relay.wait_for_death();
    let relay = start().go();
    count += 1;
    source.write_key(&topic.name, "k3", 1..3);
    count += 2;
    let seen = topic.wait_for(count, || relay.process.log_tail(30));
    let numbers = |key: &str| match key {
        "k0" | "k1" | "k2" | "k3" => 3,
        _ => 1,
    };
    let expected: Vec<(&str, u32)> = keys.iter().map(|key| (&**key, numbers(key))).collect();
    assert_exactly_once(&seen, &expected);
}

#[test]
fn progress_of_many_partitions_tells_of_changes_on_sqlite() {
    progress_tells_of_changes_and_forgets_no_partition::<Sqlite>("native");
}

#[test]
fn progress_of_many_partitions_tells_of_changes_by_rdkafka_on_postgres() {
    progress_tells_of_changes_and_forgets_no_partition::<Postgres>("rdkafka");
}
