//! What only the native publisher has to prove: its batches are Kafka's own, it splits what is too large
//! for one request, and it finds its way when brokers die.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use onceward::publisher::{Broker, PublishOutcome, Publisher, Records, Refusal};
use onceward::{Clock, SystemClock};
use onceward_kafka::{Compression, KafkaBroker, KafkaConfig, PublisherKind, PublisherOptions};
use onceward_testkit::kafka::{self, Cluster, ClusterOptions, Kafka, KafkaOptions};

use crate::support::{Place, SOON, batch, broker_with, committed, progress, read_partition, sees};

fn by_native(broker: &KafkaBroker, compression: Compression) -> KafkaBroker {
    broker.clone().with_publisher(PublisherOptions {
        kind: PublisherKind::Native,
        compression,
    })
}

/// What Kafka's own consumer prints of a topic.
fn java_reads(kafka: &Kafka, topic: &str, count: usize) -> Vec<String> {
    let property = |name: &str| format!("print.{name}=true");
    let properties = ["timestamp", "partition", "headers", "key"].map(property);
    let (address, count) = (kafka.bootstrap(), count.to_string());
    let mut arguments = vec![
        "--bootstrap-server",
        &address,
        "--topic",
        topic,
        "--from-beginning",
        "--isolation-level",
        "read_committed",
        "--max-messages",
        &count,
        "--timeout-ms",
        "30000",
    ];
    for property in &properties {
        arguments.extend(["--formatter-property", property]);
    }
    let printed = kafka
        .run_tool(
            "org.apache.kafka.tools.consumer.ConsoleConsumer",
            &arguments,
        )
        .unwrap();
    printed.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn kafkas_own_consumer_reads_every_byte_whatever_the_compression() {
    let kafka = kafka::shared().unwrap();
    let place = Place::new(&kafka.bootstrap(), 2).await;
    let mut expected = Vec::new();
    let (mut position, mut count) = (0, 0);
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let broker = by_native(&place.broker, compression);
        let mut publisher = broker.open(&place.source).await.unwrap();
        // One record, then some hundreds, which is worth compressing.
        for size in [1, 300] {
            let now = SystemClock.now() / 1_000;
            let mut records = Records::new(now);
            let to = [1, 0].map(|p| records.add_destination(place.topic.clone(), p));
            for number in 0..size {
                let key = (number % 3 > 0).then(|| format!("k{number}"));
                let payload = format!("{}:{number}:é{}", compression.name(), "x".repeat(number));
                records.push(
                    to[number % 2],
                    key.as_ref().map(String::as_bytes),
                    payload.as_bytes(),
                    |headers| {
                        headers.add("ce_id", number.to_string().as_bytes());
                        headers.add("empty", b"");
                    },
                );
                expected.push(format!(
                    "CreateTime:{now}\tPartition:{}\tce_id:{number},empty:\t{}\t{payload}",
                    1 - number % 2,
                    key.as_deref().unwrap_or("null"),
                ));
            }
            position += 1;
            count += size;
            let outcome = publisher
                .publish(&std::sync::Arc::new(records), &progress(position))
                .await;
            committed(outcome);
        }
    }
    let mut read = java_reads(kafka, &place.topic, count);
    read.sort_unstable();
    expected.sort_unstable();
    assert_eq!(read, expected);
    assert_eq!(place.position().await, Some(position));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_is_split_into_batches_and_stays_whole() {
    let bootstrap = kafka::shared().unwrap().bootstrap();
    let place = Place::with(&bootstrap, 3, PublisherKind::Native).await;
    let mut publisher = place.broker.open(&place.source).await.unwrap();
    let rows = (0..9_000).map(|number: i32| {
        let mut row = place.record(format!("{number} {}", "x".repeat(2_000)));
        row.partition = number % 3;
        row
    });
    // 18 MB: six batches a partition.
    committed(publisher.publish(&batch(rows), &progress(1)).await);
    assert_eq!(place.position().await, Some(1));
    for partition in 0..3 {
        let read = read_partition(&bootstrap, &place.topic, partition, "read_committed");
        let numbers: Vec<i32> = read
            .iter()
            .map(|payload| payload.split(' ').next().unwrap().parse().unwrap())
            .collect();
        let expected: Vec<i32> = (partition..9_000).step_by(3).collect();
        assert_eq!(numbers, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_too_large_for_a_topic_are_made_smaller_until_a_record_alone_is_to_blame() {
    let kafka = kafka::shared().unwrap();
    let place = Place::with(&kafka.bootstrap(), 1, PublisherKind::Native).await;
    let arguments = [
        "--bootstrap-server",
        &kafka.bootstrap(),
        "--alter",
        "--entity-type",
        "topics",
        "--entity-name",
        &place.topic,
        "--add-config",
        "max.message.bytes=2000",
    ];
    kafka
        .run_tool("kafka.admin.ConfigCommand", &arguments)
        .unwrap();
    let mut publisher = place.broker.open(&place.source).await.unwrap();
    let mut rows: Vec<_> = (0..50)
        .map(|n| place.record(format!("{n} {}", "x".repeat(200))))
        .collect();
    committed(publisher.publish(&batch(rows.clone()), &progress(1)).await);
    let expected: Vec<String> = rows
        .iter()
        .map(|row| String::from_utf8(row.payload.clone()).unwrap())
        .collect();
    sees(&kafka.bootstrap(), &place.topic, &expected);
    rows[37] = place.record("y".repeat(3_000));
    match publisher.publish(&batch(rows), &progress(2)).await {
        PublishOutcome::NotCommitted(Refusal::Record { index, .. }) => assert_eq!(index, 37),
        other => panic!("{other:?}"),
    }
    sees(&kafka.bootstrap(), &place.topic, &expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_where_nobody_answers_is_passed_for_the_next() {
    let bootstrap = kafka::shared().unwrap().bootstrap();
    let place = Place::with(&bootstrap, 1, PublisherKind::Native).await;
    let port = async || {
        let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = port.local_addr().unwrap();
        (port, address)
    };
    // The system connects for it, and it never looks.
    let (_silent, first) = port().await;
    // It hangs up on everybody.
    let (rude, second) = port().await;
    let hanging_up = tokio::spawn(async move {
        while let Ok((caller, _)) = rude.accept().await {
            drop(caller);
        }
    });
    let addresses = format!("{first},{second},{bootstrap}");
    let broker = broker_with(&addresses, PublisherKind::Native);
    let mut publisher = tokio::time::timeout(SOON, broker.open(&place.source))
        .await
        .unwrap()
        .unwrap();
    let records = batch(vec![place.record("1")]);
    committed(publisher.publish(&records, &progress(1)).await);
    hanging_up.abort();
    sees(&bootstrap, &place.topic, &["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_chosen_where_the_cluster_has_transactions_v2_and_only_there() {
    let kafka = Kafka::start_with(KafkaOptions::default()).unwrap();
    let bootstrap = kafka.bootstrap();
    let place = Place::new(&bootstrap, 1).await;
    let publisher = place.broker.open(&place.source).await.unwrap();
    assert_eq!(publisher.kind(), PublisherKind::Native);
    let downgrade = [
        "--bootstrap-server",
        &bootstrap,
        "downgrade",
        "--feature",
        "transaction.version=1",
    ];
    kafka
        .run_tool("org.apache.kafka.tools.FeatureCommand", &downgrade)
        .unwrap();
    let deadline = Instant::now() + SOON;
    loop {
        let mut publisher = place.broker.open(&place.source).await.unwrap();
        if publisher.kind() == PublisherKind::RdKafka {
            committed(
                publisher
                    .publish(&batch(vec![place.record("1")]), &progress(1))
                    .await,
            );
            break;
        }
        assert!(Instant::now() < deadline, "the feature is still there");
    }
    sees(&bootstrap, &place.topic, &["1"]);
    let refused = by_native(&place.broker, Compression::None);
    let refused = refused.open(&place.source).await.unwrap_err().to_string();
    assert!(refused.contains("transaction.version"), "{refused}");
    // Settings that only librdkafka knows.
    let mut config = KafkaConfig::plaintext(&bootstrap);
    let properties = &mut config.properties.0;
    properties.insert("socket.timeout.ms".into(), "9000".into());
    let broker = KafkaBroker::new(config).unwrap();
    let publisher = broker.open(&place.source).await.unwrap();
    assert_eq!(publisher.kind(), PublisherKind::RdKafka);
}

/// Publishes one record a transaction, taking over as the relay does, until `enough`.
async fn publish_until(
    place: &Place,
    mut position: i64,
    mut enough: impl FnMut(i64) -> bool,
) -> (i64, BTreeMap<&'static str, u32>) {
    let mut told = BTreeMap::new();
    let mut publisher = None;
    let deadline = Instant::now() + 3 * SOON;
    while !enough(position) {
        assert!(Instant::now() < deadline, "at {position}, {told:?}");
        let open = match publisher.take() {
            Some(open) => open,
            None => {
                let Ok(open) = place.broker.open(&place.source).await else {
                    continue;
                };
                let Ok(known) = place.broker.read_progress(&place.source, None).await else {
                    continue;
                };
                position = known.record.map_or(0, |(_, record)| record.position);
                open
            }
        };
        let mut open = open;
        let mut row = place.record((position + 1).to_string());
        row.partition = i32::try_from(position % 3).unwrap();
        let outcome = open
            .publish(&batch(vec![row]), &progress(position + 1))
            .await;
        let name = match outcome {
            PublishOutcome::Committed { .. } => {
                position += 1;
                publisher = Some(open);
                "committed"
            }
            PublishOutcome::NotCommitted(Refusal::Outage(_)) => {
                publisher = Some(open);
                "outage"
            }
            PublishOutcome::Unknown(_) => "unknown",
            other => panic!("{other:?}"),
        };
        *told.entry(name).or_default() += 1;
    }
    (position, told)
}

/// Leaders of the partitions and the coordinator are spread over three brokers: each dies once.
#[tokio::test(flavor = "multi_thread")]
async fn leaders_and_the_coordinator_are_found_again_when_brokers_die() {
    let mut cluster = Cluster::start_with(ClusterOptions::default()).unwrap();
    let bootstrap = cluster.bootstrap();
    let mut place = Place::with(&bootstrap, 3, PublisherKind::Native).await;
    place.topic = "copied".into();
    let copied = vec![place.topic.to_string()];
    place.broker.make_topics(copied, 3, 3).await.unwrap();
    let (mut position, _) = publish_until(&place, 0, |position| position >= 20).await;
    for index in 0..3 {
        cluster.nodes()[index].kill9().unwrap();
        let begun = Instant::now();
        let goal = position + 20;
        let (reached, told) = publish_until(&place, position, |at| at >= goal).await;
        println!(
            "broker {} died: {told:?} in {:?}",
            index + 1,
            begun.elapsed()
        );
        position = reached;
        cluster.start_again().unwrap();
        cluster.wait_in_sync(Duration::from_secs(180)).unwrap();
    }
    assert_eq!(place.position().await, Some(position));
    let mut seen: Vec<i64> = (0..3)
        .flat_map(|p| read_partition(&bootstrap, &place.topic, p, "read_committed"))
        .map(|payload| payload.parse().unwrap())
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (1..=position).collect::<Vec<_>>());
}
