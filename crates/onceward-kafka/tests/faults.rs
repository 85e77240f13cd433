//! Faults: brokers that die, answers that get lost, requests that arrive late.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use onceward::publisher::{Broker, BrokerError, PublishOutcome, Publisher, Refusal};
use onceward_kafka::PublisherKind;
use onceward_testkit::kafka::Kafka;
use onceward_testkit::proxy::{Fault, ProxiedKafka, api};
use rdkafka::producer::Producer;

use crate::support::{
    Place, SOON, batch, broker_with, committed, deliver, progress, raw_producer, read_committed,
    sees, with_both_publishers,
};

with_both_publishers!(
    a_commit_that_arrives_in_the_next_transaction_doubles_and_loses_nothing,
    whatever_answer_is_lost_progress_tells_what_became_of_the_rows,
    kill_9_of_kafka_in_a_transaction_leaves_the_truth_in_progress,
    opening_ends_what_a_dead_relay_left_open,
);

/// KAFKA-17754: an EndTxn(commit) that arrives late ends the next transaction of the same epoch. The
/// control shows that it does so here; the publisher then shows that our rule keeps it harmless.
async fn a_commit_that_arrives_in_the_next_transaction_doubles_and_loses_nothing(
    kind: PublisherKind,
) {
    let both = ProxiedKafka::start().unwrap();
    let (direct, proxy) = (both.kafka.bootstrap(), &both.proxy);

    // Control: a producer without the rule.
    let place = Place::with(&direct, 1, kind).await;
    let topic = place.topic.clone();
    let careless = raw_producer(&proxy.address(), "careless");
    careless.init_transactions(SOON).unwrap();
    let late = proxy.on(api::END_TXN, Fault::Hold);
    let cutter = {
        let late = late.clone();
        std::thread::spawn(move || {
            late.wait(SOON).unwrap();
            late.cut().unwrap();
        })
    };
    careless.begin_transaction().unwrap();
    deliver(&careless, &topic, "first");
    careless.commit_transaction(SOON).unwrap();
    cutter.join().unwrap();
    careless.begin_transaction().unwrap();
    deliver(&careless, &topic, "not committed by anybody");
    sees(&direct, &topic, &["first"]);
    late.release().unwrap();
    wait_for("the hole", || read_committed(&direct, &topic).len() == 2);
    drop(careless);

    // Ours.
    let place = Place::with(&direct, 1, kind).await;
    let topic = place.topic.clone();
    let behind = broker_with(&proxy.address(), kind);
    let mut publisher = behind.open(&place.source).await.unwrap();
    let late = proxy.on(api::END_TXN, Fault::Hold);
    let rows = vec![place.record("1")];
    let first = tokio::spawn(async move {
        let outcome = publisher.publish(&batch(rows), &progress(1)).await;
        (publisher, outcome)
    });
    late.wait(SOON).unwrap();
    late.cut().unwrap();
    let (mut publisher, outcome) = first.await.unwrap();
    // rdkafka sends it again by itself, known or not; the native one never does.
    let is_known = match outcome {
        PublishOutcome::Committed { dirty: true, .. } if kind == PublisherKind::RdKafka => true,
        PublishOutcome::Unknown(_) => false,
        other => panic!("{other:?}"),
    };
    let outcome = publisher
        .publish(&batch(vec![place.record("2")]), &progress(2))
        .await;
    assert!(matches!(outcome, PublishOutcome::Unknown(_)), "{outcome:?}");

    let mut publisher = behind.open(&place.source).await.unwrap();
    let known = behind.read_progress(&place.source, None).await.unwrap();
    let position = known.record.map(|(_, record)| record.position);
    assert!(position.is_some() || !is_known);
    assert!(position.is_none() || kind == PublisherKind::RdKafka);
    let mut expected: Vec<&str> = position.iter().map(|_| "1").collect();
    let own = proxy.on(api::END_TXN, Fault::Hold);
    let rows = vec![place.record("2")];
    let second = tokio::spawn(async move { publisher.publish(&batch(rows), &progress(2)).await });
    own.wait(SOON).unwrap();
    late.release().unwrap();
    // The late one must have been answered before we look: a transaction of another producer, sent
    // after it, is a fence in time.
    let other = Place::with(&direct, 1, kind).await;
    let mut after = other.broker.open(&other.source).await.unwrap();
    committed(after.publish(&batch(vec![]), &progress(1)).await);
    assert_eq!(
        read_committed(&direct, &topic),
        expected,
        "ended by the late request"
    );
    own.release().unwrap();
    committed(second.await.unwrap());
    expected.push("2");
    sees(&direct, &topic, &expected);
    assert_eq!(place.position().await, Some(2));
}

async fn whatever_answer_is_lost_progress_tells_what_became_of_the_rows(kind: PublisherKind) {
    let both = ProxiedKafka::start().unwrap();
    let (direct, proxy) = (both.kafka.bootstrap(), &both.proxy);
    let place = Place::with(&direct, 1, kind).await;
    let behind = broker_with(&proxy.address(), kind);
    let mut expected = Vec::new();
    let mut faults = vec![
        (api::END_TXN, Fault::LoseAnswer),
        (api::END_TXN, Fault::Cut),
        (api::PRODUCE, Fault::LoseAnswer),
        (api::PRODUCE, Fault::Cut),
    ];
    if kind == PublisherKind::RdKafka {
        // With transactions V2 the Produce does that.
        faults.push((api::ADD_PARTITIONS_TO_TXN, Fault::LoseAnswer));
        faults.push((api::ADD_PARTITIONS_TO_TXN, Fault::Cut));
    }
    for (api_key, fault) in faults {
        let mut publisher = behind.open(&place.source).await.unwrap();
        let known = behind.read_progress(&place.source, None).await.unwrap();
        let position = known.record.map_or(0, |(_, record)| record.position) + 1;
        let hit = proxy.on(api_key, fault);
        let row = position.to_string();
        let rows = vec![place.record(row.clone())];
        let outcome = publisher.publish(&batch(rows), &progress(position)).await;
        hit.wait(Duration::ZERO).unwrap();
        match outcome {
            PublishOutcome::Committed { dirty, .. } => assert!(dirty, "{api_key} {fault:?}"),
            PublishOutcome::Unknown(_) => {}
            other => panic!("{api_key} {fault:?}: {other:?}"),
        }
        drop(publisher);
        // Taking over: fence, then read.
        drop(behind.open(&place.source).await.unwrap());
        let known = behind.read_progress(&place.source, None).await.unwrap();
        if known
            .record
            .is_some_and(|(_, record)| record.position == position)
        {
            expected.push(row);
        }
        println!("{api_key} {fault:?}: {}", expected.len());
        sees(&direct, &place.topic, &expected);
    }
    assert!(!expected.is_empty());
}

async fn kill_9_of_kafka_in_a_transaction_leaves_the_truth_in_progress(kind: PublisherKind) {
    let mut kafka = Kafka::start().unwrap();
    let bootstrap = kafka.bootstrap();
    let place = Place::with(&bootstrap, 1, kind).await;
    let mut publisher = place.broker.open(&place.source).await.unwrap();
    committed(
        publisher
            .publish(&batch(vec![place.record("0")]), &progress(1))
            .await,
    );
    // Many transactions one after another, and the broker dies in one of them.
    let record = place.record("x");
    let (said, mut acknowledged) = tokio::sync::watch::channel(0);
    let killed = Arc::new(AtomicBool::new(false));
    let (is_killed, broker, source) = (killed.clone(), place.broker.clone(), place.source.clone());
    let busy = tokio::spawn(async move {
        let mut position = 2;
        loop {
            let outcome = publisher
                .publish(&batch(vec![record.clone()]), &progress(position))
                .await;
            match outcome {
                PublishOutcome::Committed { .. } => {
                    let _ = said.send(position);
                    position += 1;
                }
                PublishOutcome::Unknown(_) if is_killed.load(Ordering::Acquire) => break,
                // Killed between two transactions: nothing was under way.
                PublishOutcome::NotCommitted(Refusal::Outage(_)) => break,
                // A busy machine makes a producer dirty now and then: take over, as the relay does.
                PublishOutcome::Unknown(reason) => {
                    println!("taking over: {reason}");
                    let Ok(next) = broker.open(&source).await else {
                        break;
                    };
                    publisher = next;
                    let Ok(known) = broker.read_progress(&source, None).await else {
                        break;
                    };
                    position = known.record.unwrap().1.position + 1;
                }
                other => panic!("{other:?}"),
            }
        }
    });
    acknowledged
        .wait_for(|position| *position > 10)
        .await
        .unwrap();
    killed.store(true, Ordering::Release);
    kafka.kill9().unwrap();
    let start = Instant::now();
    tokio::time::timeout(Duration::from_secs(180), busy)
        .await
        .unwrap()
        .unwrap();
    println!("outcome {:?} after kill -9", start.elapsed());
    match place.broker.read_progress(&place.source, None).await {
        Err(BrokerError::Unavailable(_)) => {}
        other => panic!("no broker, yet {other:?}"),
    }
    kafka.start_again().unwrap();

    let mut publisher = place.broker.open(&place.source).await.unwrap();
    let position = place.position().await.unwrap();
    let agree =
        || read_committed(&bootstrap, &place.topic).len() == usize::try_from(position).unwrap();
    wait_for("rows and progress to agree", agree);
    let acknowledged = *acknowledged.borrow();
    assert!(
        (acknowledged..=acknowledged + 1).contains(&position),
        "{acknowledged} {position}"
    );
    committed(
        publisher
            .publish(&batch(vec![place.record("y")]), &progress(position + 1))
            .await,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_progress_waits_for_the_end_of_an_open_transaction() {
    let kafka = onceward_testkit::kafka::shared().unwrap();
    let bootstrap = kafka.bootstrap();
    let place = Place::new(&bootstrap, 1).await;
    let mut publisher = place.broker.open(&place.source).await.unwrap();
    committed(publisher.publish(&batch(vec![]), &progress(1)).await);
    drop(publisher);
    // A relay of this source that has written its progress and not ended its transaction.
    let open = raw_producer(&bootstrap, &place.source.transactional_id());
    open.init_transactions(SOON).unwrap();
    open.begin_transaction().unwrap();
    let topic = place.source.progress_topic();
    deliver(&open, &topic, &serde_json::to_string(&progress(2)).unwrap());

    let looked = place.broker.look(&place.source, None).await.unwrap();
    assert_eq!(
        looked.record.unwrap().1.position,
        1,
        "looking does not wait"
    );
    let (broker, source) = (place.broker.clone(), place.source.clone());
    let reading = tokio::spawn(async move { broker.read_progress(&source, None).await });
    tokio::time::timeout(Duration::from_millis(1_500), async {
        while !reading.is_finished() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect_err("it must wait for the open transaction");
    open.commit_transaction(SOON).unwrap();
    let read = reading.await.unwrap().unwrap();
    assert_eq!(read.record.unwrap().1.position, 2);
}

async fn opening_ends_what_a_dead_relay_left_open(kind: PublisherKind) {
    let kafka = onceward_testkit::kafka::shared().unwrap();
    let bootstrap = kafka.bootstrap();
    let place = Place::with(&bootstrap, 1, kind).await;
    let open = raw_producer(&bootstrap, &place.source.transactional_id());
    open.init_transactions(SOON).unwrap();
    open.begin_transaction().unwrap();
    deliver(&open, &place.topic, "left open");
    let start = Instant::now();
    let mut publisher = place.broker.open(&place.source).await.unwrap();
    assert_eq!(place.position().await, None);
    println!("taken over in {:?}", start.elapsed());
    committed(
        publisher
            .publish(&batch(vec![place.record("mine")]), &progress(1))
            .await,
    );
    sees(&bootstrap, &place.topic, &["mine"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_an_rdkafka_publisher_never_waits_for_a_dead_broker() {
    let mut kafka = Kafka::start().unwrap();
    let place = Place::with(&kafka.bootstrap(), 1, PublisherKind::RdKafka).await;
    let publisher = place.broker.open(&place.source).await.unwrap();
    kafka.kill9().unwrap();
    let start = Instant::now();
    drop(publisher);
    assert!(start.elapsed() < Duration::from_millis(100));
    let named = || {
        std::fs::read_dir("/proc/self/task")
            .unwrap()
            .flatten()
            .any(|task| {
                std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| {
                    place.source.as_str().contains("source")
                        && name.trim() == format!("publish {}", place.source)
                })
            })
    };
    wait_for("the end of the producer's thread", || !named());
    println!("thread ended {:?} after the drop", start.elapsed());
}

#[track_caller]
fn wait_for(what: &str, mut state: impl FnMut() -> bool) {
    onceward_testkit::wait::until(what, SOON, || Ok(state().then_some(()))).unwrap();
}
