//! Transactions: rows and progress together, fencing, refusals.

use onceward::publisher::{Broker, PublishOutcome, Publisher, Refusal};
use onceward_kafka::PublisherKind;
use onceward_testkit::kafka::{self, Kafka};

use crate::support::{Place, batch, committed, progress, sees, with_both_publishers};

with_both_publishers!(
    rows_and_progress_become_visible_together,
    a_second_open_fences_the_first,
    an_oversized_record_is_named_and_the_producer_goes_on,
    a_record_too_large_for_its_topic_alone_is_refused_by_the_broker,
    a_missing_topic_is_named_and_the_producer_goes_on,
);

fn kafka() -> &'static Kafka {
    kafka::shared().unwrap()
}

async fn rows_and_progress_become_visible_together(kind: PublisherKind) {
    let place = Place::with(&kafka().bootstrap(), 1, kind).await;
    let mut publisher = place.broker.open(&place.source).await.unwrap();
    assert_eq!(place.position().await, None, "an empty topic holds none");

    let outcome = publisher.publish(&batch(vec![]), &progress(0)).await;
    assert_eq!(committed(outcome), 0);
    let rows = vec![place.record("a"), place.record("b")];
    let outcome = publisher.publish(&batch(rows), &progress(2)).await;
    // Offset 1 is the marker of the first transaction.
    assert_eq!(committed(outcome), 2);

    assert_eq!(place.position().await, Some(2));
    sees(&kafka().bootstrap(), &place.topic, &["a", "b"]);
    let known = place
        .broker
        .read_progress(&place.source, Some(2))
        .await
        .unwrap();
    assert_eq!(known.record.as_ref().unwrap().0, 2);
    assert_eq!(known.record.unwrap().1, progress(2));
    for beyond in [-1, 4, 1_000_000] {
        let known = place
            .broker
            .read_progress(&place.source, Some(beyond))
            .await;
        assert_eq!(
            known.unwrap().record.unwrap().1.position,
            2,
            "from {beyond}"
        );
    }
}

async fn a_second_open_fences_the_first(kind: PublisherKind) {
    let place = Place::with(&kafka().bootstrap(), 1, kind).await;
    let mut first = place.broker.open(&place.source).await.unwrap();
    committed(
        first
            .publish(&batch(vec![place.record("1")]), &progress(1))
            .await,
    );
    let mut second = place.broker.open(&place.source).await.unwrap();

    let outcome = first
        .publish(&batch(vec![place.record("late")]), &progress(2))
        .await;
    assert!(matches!(outcome, PublishOutcome::Fenced), "{outcome:?}");
    committed(
        second
            .publish(&batch(vec![place.record("2")]), &progress(2))
            .await,
    );

    sees(&kafka().bootstrap(), &place.topic, &["1", "2"]);
    assert_eq!(place.position().await, Some(2));
}

async fn an_oversized_record_is_named_and_the_producer_goes_on(kind: PublisherKind) {
    let place = Place::with(&kafka().bootstrap(), 1, kind).await;
    let mut publisher = place.broker.open(&place.source).await.unwrap();
    let rows = vec![place.record("small"), place.record(vec![b'x'; 2_000_000])];
    match publisher.publish(&batch(rows), &progress(2)).await {
        PublishOutcome::NotCommitted(Refusal::Record { index, .. }) => assert_eq!(index, 1),
        other => panic!("{other:?}"),
    }
    committed(
        publisher
            .publish(&batch(vec![place.record("next")]), &progress(1))
            .await,
    );
    sees(&kafka().bootstrap(), &place.topic, &["next"]);
    assert_eq!(place.position().await, Some(1));
}

async fn a_record_too_large_for_its_topic_alone_is_refused_by_the_broker(kind: PublisherKind) {
    let place = Place::with(&kafka().bootstrap(), 1, kind).await;
    kafka()
        .run_tool(
            "kafka.admin.ConfigCommand",
            &[
                "--bootstrap-server",
                &kafka().bootstrap(),
                "--alter",
                "--entity-type",
                "topics",
                "--entity-name",
                &place.topic,
                "--add-config",
                "max.message.bytes=1000",
            ],
        )
        .unwrap();
    let mut publisher = place.broker.open(&place.source).await.unwrap();
    let outcome = publisher
        .publish(&batch(vec![place.record(vec![b'x'; 5_000])]), &progress(1))
        .await;
    match outcome {
        PublishOutcome::NotCommitted(Refusal::Record { index, .. }) => assert_eq!(index, 0),
        other => panic!("{other:?}"),
    }
    committed(
        publisher
            .publish(&batch(vec![place.record("next")]), &progress(1))
            .await,
    );
    sees(&kafka().bootstrap(), &place.topic, &["next"]);
}

async fn a_missing_topic_is_named_and_the_producer_goes_on(kind: PublisherKind) {
    let place = Place::with(&kafka().bootstrap(), 1, kind).await;
    let mut publisher = place.broker.open(&place.source).await.unwrap();
    for (topic, partition) in [("nowhere", 0), (&*place.topic, 7)] {
        let mut lost = place.record("lost");
        lost.topic = topic.into();
        lost.partition = partition;
        match publisher
            .publish(&batch(vec![place.record("with"), lost]), &progress(2))
            .await
        {
            PublishOutcome::NotCommitted(Refusal::Topic { topic: named, .. }) => {
                assert_eq!(named, topic);
            }
            other => panic!("{topic}: {other:?}"),
        }
    }
    committed(
        publisher
            .publish(&batch(vec![place.record("next")]), &progress(1))
            .await,
    );
    sees(&kafka().bootstrap(), &place.topic, &["next"]);
    let topics = place.broker.topics(vec!["nowhere".into()]).await.unwrap();
    assert!(topics.is_empty(), "asking must not make it");
}
