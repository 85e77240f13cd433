//! Records that Kafka refuses: their key waits, other keys go on, replay keeps the order.

use onceward_testkit::kafka;
use outbox_relay::Phase;
use sqlx::{Postgres, Sqlite};

use crate::support::relay::Start;
use crate::support::source::{Database, Row, Source};
use crate::support::topic::{Topic, delete_topic, numbered, of_key};
use crate::support::until;

/// Small enough to be refused by a topic that takes 2 kB, when it is more than that. Not to be
/// compressed away: the relay sends uncompressed batches.
const SMALL: &[(&str, &str)] = &[("max.message.bytes", "2000")];

fn big(text: &str) -> String {
    format!("{text} {}", "x".repeat(5_000))
}

fn a_row<'a>(topic: &'a str, key: Option<&'a str>, payload: String) -> Row<'a> {
    Row {
        topic,
        key,
        payload,
    }
}

fn an_oversized_row_parks_its_key<B: Database>(publisher: &str) {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<B>::new("parked");
    let topic = Topic::with(&kafka, "parked", 1, SMALL);
    // One transaction, so that guilty and innocent stand in one batch.
    source.write(&[
        a_row(&topic.name, Some("good"), "good:0".into()),
        a_row(&topic.name, Some("bad"), "bad:0".into()),
        a_row(&topic.name, Some("bad"), big("bad:1")),
        a_row(&topic.name, Some("good"), "good:1".into()),
        a_row(&topic.name, Some("bad"), "bad:2".into()),
        a_row(&topic.name, Some("good"), "good:2".into()),
    ]);
    let relay = Start::new(&kafka, &[source.option()])
        .publisher(publisher)
        .go();
    let seen = topic.wait_for(4, || relay.process.log_tail(60));
    assert_eq!(of_key(&seen, "good"), numbered("good", 0..3));
    assert_eq!(of_key(&seen, "bad"), numbered("bad", 0..1));
    source.write_key(&topic.name, "bad", 3..5);
    source.write_key(&topic.name, "good", 3..6);
    until("later rows of the key to wait", || {
        Ok((source.parked_rows() == 4).then_some(()))
    });
    topic.wait_for_key("good", 6);
    assert_eq!(of_key(&topic.read(), "bad"), numbered("bad", 0..1));
    assert_eq!(relay.status(0).unwrap().parked_keys, 1);

    // In vain while the topic still refuses it.
    source.ask("replay", &topic.name, "bad");
    until("the refusal", || {
        Ok((source.open_requests() == 0).then_some(()))
    });
    assert_eq!(source.parked_rows(), 4);

    topic.alter("max.message.bytes", "100000");
    source.ask("replay", &topic.name, "bad");
    until("the replay", || {
        Ok((source.open_requests() == 0).then_some(()))
    });
    source.write_key(&topic.name, "bad", 5..7);
    let bad = topic.wait_for_key("bad", 7);
    let short: Vec<&str> = bad.iter().map(|p| p.split(' ').next().unwrap()).collect();
    assert_eq!(short, numbered("bad", 0..7));
    assert_eq!(topic.read().len(), 13, "nothing twice");
    assert_eq!(source.parked_rows(), 0);
    relay.wait_for_state(Phase::Tail);
}

#[test]
fn an_oversized_row_parks_its_key_and_is_replayed_in_order_from_sqlite() {
    an_oversized_row_parks_its_key::<Sqlite>("native");
}

#[test]
fn an_oversized_row_parks_its_key_and_is_replayed_in_order_from_postgres() {
    an_oversized_row_parks_its_key::<Postgres>("rdkafka");
}

/// Neither a btree of Postgres nor a progress record takes such a key; JSON writes six bytes for each
/// of its control characters, and no compression makes the rest short.
fn huge_key() -> String {
    let noise = (0_u64..4_000).map(|n| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    noise.chain(["\u{1}".repeat(200_000)]).collect()
}

fn a_refused_row_with_a_huge_key_parks_too<B: Database>(publisher: &str) {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<B>::new("hugekey");
    let topic = Topic::with(&kafka, "hugekey", 1, SMALL);
    let key = huge_key();
    let other = format!("{key}, another one");
    source.write(&[
        a_row(&topic.name, Some(&key), "huge:0".into()),
        a_row(&topic.name, Some("good"), "good:0".into()),
        a_row(&topic.name, Some(&key), "huge:1".into()),
        a_row(&topic.name, Some(&other), "other:0".into()),
    ]);
    let start = || Start::new(&kafka, &[source.option()]).publisher(publisher);
    let relay = start().go();
    topic.wait_for_key("good", 1);
    assert_eq!(relay.wait_for_state(Phase::Tail).parked_keys, 2);
    assert_eq!(source.parked_rows(), 3);
    drop(relay);

    topic.alter("max.message.bytes", "1000000");
    source.ask("replay", &topic.name, &key);
    source.write(&[a_row(&topic.name, Some(&key), "huge:2".into())]);
    let relay = start().go();
    until("the replay", || {
        Ok((source.open_requests() == 0 && source.parked_rows() == 1).then_some(()))
    });
    source.write(&[a_row(&topic.name, Some(&key), "huge:3".into())]);
    let seen = topic.wait_for(5, || relay.process.log_tail(60));
    let payloads: Vec<&str> = seen.iter().map(|record| record.payload.as_str()).collect();
    assert_eq!(payloads, ["good:0", "huge:0", "huge:1", "huge:2", "huge:3"]);
    assert_eq!(relay.status(0).unwrap().parked_keys, 1);
}

#[test]
fn a_refused_row_with_a_huge_key_parks_too_on_sqlite() {
    a_refused_row_with_a_huge_key_parks_too::<Sqlite>("rdkafka");
}

#[test]
fn a_refused_row_with_a_huge_key_parks_too_on_postgres() {
    a_refused_row_with_a_huge_key_parks_too::<Postgres>("native");
}

/// `is_known`: the topic is deleted after the relay has published to it, so that only Kafka's refusal
/// tells that it is gone.
fn a_topic_that_stays_missing_parks_its_rows<B: Database>(publisher: &str, is_known: bool) {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<B>::new("givenup");
    let topic = Topic::new(&kafka, "there", 1);
    let missing = Topic::named("missing", &kafka, 1);
    let relay = Start::new(&kafka, &[source.option()])
        .arg("--topic-hold-ms", "1500")
        .publisher(publisher)
        .go();
    if is_known {
        missing.create(&[]);
        source.write_key(&missing.name, "before", 0..1);
        missing.wait_for_key("before", 1);
        delete_topic(&kafka, &missing.name);
    }
    source.write(&[
        a_row(&topic.name, Some("a"), "a:0".into()),
        a_row(&missing.name, Some("b"), "b:0".into()),
        a_row(&missing.name, Some("c"), "c:0".into()),
        a_row(&missing.name, None, "alone".into()),
        a_row(&missing.name, Some("b"), "b:1".into()),
        a_row(&topic.name, Some("a"), "a:1".into()),
    ]);
    topic.wait_for_key("a", 2);
    assert_eq!(source.parked_rows(), 4);
    // It was waited for already: not again for each row. More than one transaction parks.
    source.write_key(&missing.name, "d", 0..250);
    source.write_key(&topic.name, "a", 2..3);
    topic.wait_for_key("a", 3);
    assert_eq!(source.parked_rows(), 254);
    assert_eq!(relay.wait_for_state(Phase::Tail).parked_keys, 4);

    // In vain while it is missing, and holds up nobody.
    source.ask("replay", &missing.name, "b");
    until("the refusal", || {
        Ok((source.open_requests() == 0).then_some(()))
    });
    assert_eq!(source.parked_rows(), 254);
    missing.create(&[]);
    source.ask("replay", &missing.name, "b");
    until("the replay", || {
        Ok((source.open_requests() == 0).then_some(()))
    });
    source.write_key(&missing.name, "b", 2..4);
    assert_eq!(missing.wait_for_key("b", 4), numbered("b", 0..4));
    assert_eq!(source.parked_rows(), 252);
}

#[test]
fn a_topic_that_stays_missing_parks_its_rows_on_sqlite() {
    a_topic_that_stays_missing_parks_its_rows::<Sqlite>("native", false);
    a_topic_that_stays_missing_parks_its_rows::<Sqlite>("rdkafka", true);
}

#[test]
fn a_topic_that_stays_missing_parks_its_rows_on_postgres() {
    a_topic_that_stays_missing_parks_its_rows::<Postgres>("rdkafka", false);
    a_topic_that_stays_missing_parks_its_rows::<Postgres>("native", true);
}

/// Dies at `point` on the way through parking and replay; the next relay finishes.
fn dies_while_replaying<B: Database>(point: &str, publisher: &str) {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<B>::new("replay");
    let topic = Topic::with(&kafka, "replay", 1, SMALL);
    source.write(&[
        a_row(&topic.name, Some("bad"), big("bad:0")),
        a_row(&topic.name, Some("good"), "good:0".into()),
    ]);
    source.write_key(&topic.name, "bad", 1..8);
    // Asked for before the cursor can have passed the key: it must wait.
    source.ask("replay", &topic.name, "bad");
    let start = || {
        Start::new(&kafka, &[source.option()])
            .publisher(publisher)
            .arg("--instance-id", "one")
            .arg("--batch-rows", "3")
    };
    let mut relay = start().dying_at(point).go();
    if point != "parked" {
        until("the key to be parked", || {
            Ok((source.parked_rows() == 8 && source.open_requests() == 0).then_some(()))
        });
        topic.alter("max.message.bytes", "100000");
        source.ask("replay", &topic.name, "bad");
    }
    relay.wait_for_death();
    if point == "parked" {
        topic.alter("max.message.bytes", "100000");
    }
    let relay = start().go();
    until("all to be passed", || {
        let passed = relay.status(0).map(|status| status.passed);
        Ok((passed == Some(9) && source.open_requests() == 0).then_some(()))
    });
    if source.parked_rows() > 0 {
        source.ask("replay", &topic.name, "bad");
    }
    source.write_key(&topic.name, "bad", 8..10);
    let bad = topic.wait_for_key("bad", 10);
    let short: Vec<&str> = bad.iter().map(|p| p.split(' ').next().unwrap()).collect();
    assert_eq!(short, numbered("bad", 0..10), "{point}");
    assert_eq!(topic.read().len(), 11, "{point}: nothing twice");
}

const POINTS: &[&str] = &[
    "parked",
    "request-taken:2",
    "replay-publishing:2",
    "replay-publishing:3",
    "replay-committed",
    "replay-committed:2",
    "replay-settled",
    "replay-settled:3",
];

#[test]
fn a_replay_killed_anywhere_is_finished_once_on_sqlite() {
    for point in POINTS {
        println!("{point}");
        dies_while_replaying::<Sqlite>(point, "native");
    }
}

#[test]
fn a_replay_killed_anywhere_is_finished_once_on_postgres() {
    for point in ["parked", "replay-committed", "replay-settled"] {
        println!("{point}");
        dies_while_replaying::<Postgres>(point, "rdkafka");
    }
}

#[test]
fn a_refused_row_without_a_key_is_parked_alone_and_can_be_discarded() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<Sqlite>::new("keyless");
    let topic = Topic::with(&kafka, "keyless", 2, SMALL);
    source.write(&[
        a_row(&topic.name, None, "one".into()),
        a_row(&topic.name, None, big("two")),
        a_row(&topic.name, None, "three".into()),
    ]);
    let relay = Start::new(&kafka, &[source.option()]).go();
    let seen = topic.wait_for(2, || relay.process.log_tail(60));
    let mut payloads: Vec<&str> = seen.iter().map(|record| record.payload.as_str()).collect();
    payloads.sort_unstable();
    assert_eq!(payloads, ["one", "three"]);
    until("the copy", || Ok((source.parked_rows() == 1).then_some(())));
    source.execute(&format!(
        "insert into outbox_dead_letter_request (kind, topic, message_id, requested_by, \
         requested_at) select 'discard', '{}', message_id, 'a test', 0 from outbox_dead_letter",
        topic.name
    ));
    until("the discard", || {
        Ok((source.open_requests() == 0).then_some(()))
    });
    assert_eq!(source.parked_rows(), 0);
    assert_eq!(
        source
            .text("select state from outbox_dead_letter")
            .as_deref(),
        Some("discarded")
    );
    source.write(&[a_row(&topic.name, None, "four".into())]);
    topic.wait_for(3, || relay.process.log_tail(60));
    assert_eq!(topic.read().len(), 3);
}

#[test]
fn a_row_for_a_topic_that_can_never_exist_is_parked_and_the_others_go_on() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let source = Source::<Sqlite>::new("nameless");
    let topic = Topic::new(&kafka, "nameless", 1);
    source.write(&[
        a_row(&topic.name, Some("good"), "good:0".into()),
        a_row("not a topic", Some("bad"), "bad:0".into()),
        a_row(&topic.name, Some("good"), "good:1".into()),
    ]);
    let relay = Start::new(&kafka, &[source.option()]).go();
    topic.wait_for_key("good", 2);
    assert_eq!(relay.wait_for_state(Phase::Tail).parked_keys, 1);
    source.ask("replay", "not a topic", "bad");
    until("the refusal", || {
        Ok((source.open_requests() == 0).then_some(()))
    });
    assert_eq!(source.parked_rows(), 1);
    source.write_key(&topic.name, "good", 2..4);
    topic.wait_for_key("good", 4);
}
