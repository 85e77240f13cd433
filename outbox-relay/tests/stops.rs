//! Loud stops: one source stops and says what a person can do; the others go on.

use std::time::Duration;

use onceward_testkit::kafka;
use onceward_testkit::proxy::{Fault, ProxiedKafka, api};
use outbox_relay::Phase;
use sqlx::{Postgres, Sqlite};

use crate::support::relay::{Relay, Start};
use crate::support::source::Source;
use crate::support::topic::{Topic, assert_exactly_once, delete_topic};
use crate::support::until;

/// Waits for the stop of the first source and checks that it is told everywhere.
#[track_caller]
pub fn stopped_because(relay: &Relay, reason: &str) {
    let status = relay.wait_for_state(Phase::Stopped);
    let told = status.last_error.unwrap();
    assert!(told.contains(reason), "{told}");
    assert!(status.alarm && status.way_out.is_some());
    let (code, ready) = relay.get("/readyz").unwrap();
    assert_eq!(code, 503);
    assert!(ready.contains(status.source.as_str()), "{ready}");
    let (_, metrics) = relay.get("/metrics").unwrap();
    let alarm = format!("onceward_relay_alarm{{source=\"{}\"}} 1", status.source);
    assert!(metrics.contains(&alarm), "{metrics}");
    assert_eq!(relay.get("/healthz").map(|(code, _)| code), Some(200));
}

#[test]
fn a_keyed_topic_that_grows_stops_its_source_until_a_person_accepts_and_others_go_on() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let (grown, calm) = (
        Source::<Sqlite>::new("grown"),
        Source::<Sqlite>::new("calm"),
    );
    let mut topic = Topic::new(&kafka, "grown", 2);
    let other = Topic::new(&kafka, "calm", 2);
    let sources = [grown.option(), calm.option()];
    let start = || Start::new(&kafka, &sources).arg("--topics-refresh-ms", "200");
    let mut relay = start().go();
    grown.write_key(&topic.name, "a", 0..4);
    topic.wait_for(4, || relay.process.log_tail(30));
    topic.grow(3);
    stopped_because(&relay, "partitions");
    calm.write_key(&other.name, "b", 0..4);
    other.wait_for(4, || relay.process.log_tail(30));
    relay.stop();
    // Also over a restart, and before anything is published.
    grown.write_key(&topic.name, "a", 4..8);
    let mut relay = start().go();
    stopped_because(&relay, "partitions");
    assert_eq!(topic.read().len(), 4);
    relay.stop();
    let relay = start().arg("--accept-repartitioned", &topic.name).go();
    topic.wait_for(8, || relay.process.log_tail(30));
}

/// Kafka takes longer for the open transaction than a stop may last by default.
#[test]
fn a_stop_takes_the_time_that_it_is_given() {
    let both = ProxiedKafka::start().unwrap();
    let source = Source::<Postgres>::new("unhurried");
    let topic = Topic::new(&both.kafka.bootstrap(), "unhurried", 1);
    let mut relay = Start::new(&both.proxy.address(), &[source.option()])
        .arg("--stop-ms", "15000")
        .go();
    relay.wait_for_state(Phase::Tail);
    let slow = Fault::Delay(Duration::from_secs(4));
    let commit = both.proxy.on(api::END_TXN, slow);
    source.write_key(&topic.name, "a", 0..3);
    commit.wait(Duration::from_secs(120)).unwrap();
    assert!(relay.stop() < Duration::from_secs(15));
    let log = relay.process.log_tail(30);
    assert!(!log.contains("did not stop in time"), "{log}");
    assert_exactly_once(&topic.read(), &[("a", 3)]);
    assert_eq!(
        source.text("select owner from outbox_source"),
        None,
        "{log}"
    );
    assert_eq!(source.number("select passed from outbox_progress"), 3);
}

#[test]
fn a_missing_topic_holds_its_source_until_it_exists() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let (held, calm) = (
        Source::<Postgres>::new("held"),
        Source::<Sqlite>::new("calm"),
    );
    let (topic, missing) = (
        Topic::new(&kafka, "held", 1),
        Topic::named("not-yet", &kafka, 1),
    );
    let relay = Start::new(&kafka, &[held.option(), calm.option()]).go();
    held.write_key(&topic.name, "a", 0..3);
    held.write_key(&missing.name, "b", 0..3);
    held.write_key(&topic.name, "a", 3..6);
    let status = relay.wait_for_state(Phase::Hold);
    assert!(status.last_error.unwrap().contains(&missing.name));
    assert_eq!(topic.read().len(), 3, "rows before the missing topic's");
    assert_eq!(relay.get("/readyz").map(|(code, _)| code), Some(503));
    calm.write_key(&topic.name, "c", 0..3);
    topic.wait_for_key("c", 3);
    missing.create(&[]);
    assert_eq!(missing.wait_for_key("b", 3).len(), 3);
    topic.wait_for_key("a", 6);
    relay.wait_for_state(Phase::Tail);
    until("ready again", || {
        Ok(relay
            .get("/readyz")
            .filter(|(code, _)| *code == 200)
            .map(|_| ()))
    });
}

#[test]
fn a_database_under_anothers_name_stops_and_fences_nobody() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let real = Source::<Sqlite>::new("named");
    let fake = Source::<Sqlite>::with_name(real.name.as_str());
    let topic = Topic::new(&kafka, "named", 1);
    let first = Start::new(&kafka, &[real.option()]).go();
    real.write_key(&topic.name, "a", 0..3);
    topic.wait_for(3, || first.process.log_tail(30));
    let epoch = first.status(0).unwrap().relay_epoch;
    fake.write_key(&topic.name, "fake", 0..3);
    let second = Start::new(&kafka, &[fake.option()]).go();
    stopped_because(&second, "belongs to outbox");
    real.write_key(&topic.name, "a", 3..6);
    topic.wait_for(6, || first.process.log_tail(30));
    assert_eq!(first.status(0).unwrap().relay_epoch, epoch, "not disturbed");
    assert_exactly_once(&topic.read(), &[("a", 6)]);
}

#[test]
fn progress_that_vanished_stops_the_source() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<Postgres>::new("vanished");
    let topic = Topic::new(&kafka, "vanished", 1);
    let mut relay = Start::new(&kafka, &[source.option()]).go();
    source.write_key(&topic.name, "a", 0..3);
    topic.wait_for(3, || relay.process.log_tail(30));
    relay.stop();
    delete_topic(&kafka, &source.name.progress_topic());
    let relay = Start::new(&kafka, &[source.option()]).go();
    stopped_because(&relay, "progress topic is empty");
    assert_eq!(topic.read().len(), 3);
}

#[test]
fn a_sqlite_file_restored_from_an_older_copy_stops_the_source() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<Sqlite>::new("restored");
    let topic = Topic::new(&kafka, "restored", 1);
    let mut relay = Start::new(&kafka, &[source.option()]).go();
    source.write_key(&topic.name, "a", 0..3);
    topic.wait_for(3, || relay.process.log_tail(30));
    let file = source.url.trim_start_matches("sqlite://").to_owned();
    source.execute(&format!("vacuum into '{file}.backup'"));
    source.write_key(&topic.name, "a", 3..9);
    topic.wait_for(9, || relay.process.log_tail(30));
    relay.stop();
    source.close();
    for extra in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{file}{extra}"));
    }
    std::fs::rename(format!("{file}.backup"), &file).unwrap();
    let relay = Start::new(&kafka, &[source.option()]).go();
    stopped_because(&relay, "row");
    assert_eq!(topic.read().len(), 9);
}

#[test]
fn another_kafka_cluster_stops_the_source() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<Sqlite>::new("moved");
    let topic = Topic::new(&kafka, "moved", 1);
    let mut relay = Start::new(&kafka, &[source.option()]).go();
    source.write_key(&topic.name, "a", 0..3);
    topic.wait_for(3, || relay.process.log_tail(30));
    relay.stop();
    let other = kafka::Kafka::start().unwrap();
    let relay = Start::new(&other.bootstrap(), &[source.option()]).go();
    stopped_because(&relay, "progress");
}

#[test]
fn one_process_relays_many_sources() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let topic = Topic::new(&kafka, "many", 3);
    let lite: Vec<_> = (0..8).map(|_| Source::<Sqlite>::new("many")).collect();
    let post: Vec<_> = (0..4).map(|_| Source::<Postgres>::new("many")).collect();
    let options: Vec<String> = lite
        .iter()
        .map(Source::option)
        .chain(post.iter().map(Source::option))
        .collect();
    let mut relay = Start::new(&kafka, &options).go();
    for (index, source) in lite.iter().enumerate() {
        source.write_key(&topic.name, &format!("lite-{index}"), 0..10);
    }
    for (index, source) in post.iter().enumerate() {
        source.write_key(&topic.name, &format!("post-{index}"), 0..10);
    }
    let seen = topic.wait_for(120, || relay.process.log_tail(30));
    assert_eq!(seen.len(), 120);
    for key in (0..8).map(|i| format!("lite-{i}")) {
        assert_eq!(topic.wait_for_key(&key, 10).len(), 10);
    }
    let took = relay.stop();
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");
}
