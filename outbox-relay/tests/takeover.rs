//! Several relays for one source, frozen ones, and Kafka going away.

use std::time::{Duration, Instant};

use onceward_testkit::kafka::{self, Kafka, KafkaOptions};
use outbox_relay::Phase;
use sqlx::{Postgres, Sqlite};

use crate::support::relay::Start;
use crate::support::source::{Database, Source};
use crate::support::topic::{Topic, assert_exactly_once};
use crate::support::until;

fn a_second_relay_takes_over<B: Database>() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<B>::new("failover");
    let topic = Topic::new(&kafka, "failover", 2);
    let mut first = Start::new(&kafka, &[source.option()]).go();
    first.wait_for_state(Phase::Tail);
    let second = Start::new(&kafka, &[source.option()]).go();
    until("the second knows the owner", || {
        let status = second.status(0);
        Ok(status.filter(|s| s.owner.is_some() && s.relay_epoch.is_none()))
    });
    source.write_key(&topic.name, "a", 0..5);
    topic.wait_for(5, || first.process.log_tail(30));
    assert_eq!(second.get("/readyz").map(|(code, _)| code), Some(200));
    first.process.kill9().unwrap();
    let killed = Instant::now();
    source.write_key(&topic.name, "a", 5..12);
    topic.wait_for(12, || second.process.log_tail(30));
    println!("{} took over in {:?}", B::LABEL, killed.elapsed());
    assert!(second.status(0).unwrap().relay_epoch.is_some());
    assert_exactly_once(&topic.read(), &[("a", 12)]);
}

#[test]
fn a_killed_relays_sqlite_source_is_taken_over() {
    a_second_relay_takes_over::<Sqlite>();
}

#[test]
fn a_killed_relays_postgres_source_is_taken_over() {
    a_second_relay_takes_over::<Postgres>();
}

fn a_frozen_relay_is_replaced_and_fenced<B: Database>() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<B>::new("frozen");
    let topic = Topic::new(&kafka, "frozen", 2);
    let first = Start::new(&kafka, &[source.option()]).go();
    first.wait_for_state(Phase::Tail);
    source.write_key(&topic.name, "a", 0..5);
    topic.wait_for(5, || first.process.log_tail(30));
    first.process.pause().unwrap();
    let second = Start::new(&kafka, &[source.option()]).go();
    source.write_key(&topic.name, "a", 5..9);
    topic.wait_for(9, || second.process.log_tail(30));
    let epoch = second.status(0).unwrap().relay_epoch;
    first.process.resume().unwrap();
    source.write_key(&topic.name, "a", 9..20);
    let standby = first.wait_for_state(Phase::Standby);
    assert_eq!(standby.relay_epoch, None);
    topic.wait_for(20, || second.process.log_tail(30));
    let status = second.wait_for_state(Phase::Tail);
    assert_eq!(status.relay_epoch, epoch, "the winner kept its claim");
    assert_exactly_once(&topic.read(), &[("a", 20)]);
}

#[test]
fn a_frozen_relay_of_a_sqlite_source_is_replaced_and_writes_nothing_when_it_wakes() {
    a_frozen_relay_is_replaced_and_fenced::<Sqlite>();
}

#[test]
fn a_frozen_relay_of_a_postgres_source_is_replaced_and_writes_nothing_when_it_wakes() {
    a_frozen_relay_is_replaced_and_fenced::<Postgres>();
}

#[test]
fn two_relays_with_one_instance_id_do_not_take_the_source_from_each_other() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<Postgres>::new("twins");
    let topic = Topic::new(&kafka, "twins", 1);
    let start = || {
        Start::new(&kafka, &[source.option()])
            .arg("--instance-id", "twin")
            .go()
    };
    let first = start();
    first.wait_for_state(Phase::Tail);
    let second = start();
    second.wait_for_state(Phase::Tail);
    first.wait_for_state(Phase::Standby);
    let epoch = second.status(0).unwrap().relay_epoch;
    // Three lease times and more: enough for the loser to try again and again.
    let calm_until = Instant::now() + Duration::from_secs(10);
    let mut written = 0;
    until("ten calm seconds", || {
        source.write_key(&topic.name, "a", written..written + 1);
        written += 1;
        let status = second.status(0);
        assert_eq!(status.and_then(|s| s.relay_epoch), epoch, "claimed anew");
        Ok((Instant::now() > calm_until).then_some(()))
    });
    let count = usize::try_from(written).unwrap();
    assert_exactly_once(
        &topic.wait_for(count, || second.process.log_tail(30)),
        &[("a", written)],
    );
}

#[test]
fn rows_flow_again_after_kafka_was_killed_and_came_back() {
    let mut kafka = Kafka::start().unwrap();
    let address = kafka.bootstrap();
    let lite = Source::<Sqlite>::new("outage-lite");
    let post = Source::<Postgres>::new("outage-post");
    let (a, b) = (
        Topic::new(&address, "outage-lite", 2),
        Topic::new(&address, "outage-post", 2),
    );
    let mut relay = Start::new(&address, &[lite.option(), post.option()]).go();
    lite.write_key(&a.name, "a", 0..20);
    post.write_key(&b.name, "b", 0..20);
    a.wait_for(20, || relay.process.log_tail(30));
    b.wait_for(20, || relay.process.log_tail(30));
    kafka.kill9().unwrap();
    lite.write_key(&a.name, "a", 20..40);
    post.write_key(&b.name, "b", 20..40);
    until("the status to tell of waiting rows", || {
        let waiting = relay.status(1).and_then(|s| s.unpublished_rows);
        Ok((waiting == Some(20)).then_some(()))
    });
    let open = post.number(
        "select count(*) from pg_stat_activity where datname = current_database() \
         and application_name like 'outbox-relay%' and xact_start is not null",
    );
    assert_eq!(
        open, 0,
        "a database transaction is open while Kafka is down"
    );
    let begun = Instant::now();
    kafka.start_again().unwrap();
    let (back, started) = (Instant::now(), begun.elapsed());
    lite.write_key(&a.name, "a", 40..50);
    post.write_key(&b.name, "b", 40..50);
    a.wait_for(50, || relay.process.log_tail(60));
    b.wait_for(50, || relay.process.log_tail(60));
    println!(
        "Kafka started in {started:?}, all visible {:?} after",
        back.elapsed()
    );
    assert_exactly_once(&a.read(), &[("a", 50)]);
    assert_exactly_once(&b.read(), &[("b", 50)]);
    relay.stop();
}

#[test]
fn rows_flow_again_after_postgres_crashed_and_came_back() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let mut server = onceward_testkit::postgres::Postgres::start().unwrap();
    let source = Source::<Postgres>::at(&server.create_database().unwrap(), "crashed");
    let topic = Topic::new(&kafka, "crashed", 2);
    let relay = Start::new(&kafka, &[source.option()]).go();
    source.write_key(&topic.name, "a", 0..10);
    topic.wait_for(10, || relay.process.log_tail(30));
    server.stop_immediate().unwrap();
    until("the relay not to be ready", || {
        let ready = relay.get("/readyz").map(|(code, _)| code);
        Ok((ready == Some(503)).then_some(()))
    });
    server.start_again().unwrap();
    until("the application to write again", || {
        Ok(source.try_write_key(&topic.name, "a", 10..20).ok())
    });
    topic.wait_for(20, || relay.process.log_tail(60));
    assert_exactly_once(&topic.read(), &[("a", 20)]);
}

#[test]
fn a_stop_finishes_within_two_seconds_and_leaves_mirror_and_lease_in_order() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let lite = Source::<Sqlite>::new("stop-lite");
    let post = Source::<Postgres>::new("stop-post");
    let topic = Topic::new(&kafka, "stop", 2);
    let mut relay = Start::new(&kafka, &[lite.option(), post.option()]).go();
    until("both to publish", || {
        let tail = |index| relay.status(index).is_some_and(|s| s.state == Phase::Tail);
        Ok((tail(0) && tail(1)).then_some(()))
    });
    lite.write_key(&topic.name, "a", 0..30);
    post.write_key(&topic.name, "b", 0..30);
    topic.wait_for(60, || relay.process.log_tail(30));
    let took = relay.stop();
    println!("stopped in {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    for (passed, owner) in [
        (
            lite.number("select passed from outbox_progress"),
            lite.text("select owner from outbox_source"),
        ),
        (
            post.number("select passed from outbox_progress"),
            post.text("select owner from outbox_source"),
        ),
    ] {
        assert_eq!((passed, owner), (30, None));
    }
}

#[test]
fn a_stop_while_kafka_is_frozen_takes_less_than_two_and_a_half_seconds() {
    let kafka = Kafka::start().unwrap();
    let source = Source::<Sqlite>::new("stuck");
    let topic = Topic::new(&kafka.bootstrap(), "stuck", 1);
    let mut relay = Start::new(&kafka.bootstrap(), &[source.option()]).go();
    source.write_key(&topic.name, "a", 0..3);
    topic.wait_for(3, || relay.process.log_tail(30));
    kafka.pause().unwrap();
    source.write_key(&topic.name, "a", 3..6);
    until("the row to wait", || {
        let waiting = relay.status(0).and_then(|s| s.unpublished_rows);
        Ok((waiting == Some(3)).then_some(()))
    });
    let took = relay.stop();
    assert!(took < Duration::from_millis(2_500), "{took:?}");
    kafka.resume().unwrap();
    let relay = Start::new(&kafka.bootstrap(), &[source.option()]).go();
    topic.wait_for(6, || relay.process.log_tail(30));
    assert_exactly_once(&topic.read(), &[("a", 6)]);
}

#[test]
fn a_stop_while_a_frozen_kafka_is_asked_for_topics_leaves_the_lease_in_order() {
    let kafka = Kafka::start().unwrap();
    let source = Source::<Sqlite>::new("asked");
    let topic = Topic::new(&kafka.bootstrap(), "asked", 1);
    let mut relay = Start::new(&kafka.bootstrap(), &[source.option()])
        .arg("--topics-refresh-ms", "100")
        .go();
    source.write_key(&topic.name, "a", 0..3);
    topic.wait_for(3, || relay.process.log_tail(30));
    kafka.pause().unwrap();
    // Renewed twice: many times the interval at which an idle source asks for its topics.
    let lease = || source.number("select lease_until from outbox_source");
    let begun = lease();
    until("the lease to be renewed", || {
        Ok((lease() > begun + 2_000_000).then_some(()))
    });
    let took = relay.stop();
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(source.text("select owner from outbox_source"), None);
    assert_eq!(source.number("select passed from outbox_progress"), 3);
    kafka.resume().unwrap();
}

/// Kafka forgets a transactional id that was not used for a week (here: two seconds). That is no newer
/// relay's fence: the source is taken over anew, and nothing is lost or doubled.
#[test]
fn rows_flow_after_kafka_forgot_an_idle_producer() {
    let kafka = Kafka::start_with(KafkaOptions {
        properties: [
            ("transactional.id.expiration.ms", "2000"),
            (
                "transaction.remove.expired.transaction.cleanup.interval.ms",
                "500",
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec(),
        ..KafkaOptions::default()
    })
    .unwrap();
    let source = Source::<Sqlite>::new("forgotten");
    let topic = Topic::new(&kafka.bootstrap(), "forgotten", 1);
    let relay = Start::new(&kafka.bootstrap(), &[source.option()]).go();
    source.write_key(&topic.name, "a", 0..3);
    topic.wait_for(3, || relay.process.log_tail(30));
    until("Kafka to forget the transactional id", || {
        let tool = "org.apache.kafka.tools.TransactionsCommand";
        let known = kafka.run_tool(tool, &["--bootstrap-server", &kafka.bootstrap(), "list"])?;
        Ok((!known.contains("outbox-relay.forgotten")).then_some(()))
    });
    source.write_key(&topic.name, "a", 3..6);
    topic.wait_for(6, || relay.process.log_tail(30));
    assert_exactly_once(&topic.read(), &[("a", 6)]);
    let log = relay.process.log_tail(40);
    assert!(log.contains("taking over anew"), "{log}");
}
