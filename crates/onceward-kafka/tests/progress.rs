//! What stands in a progress topic, and where keys go.

use std::io::Write;
use std::process::Stdio;

use onceward::partition_for;
use onceward::publisher::{Broker, BrokerError, Publisher};
use onceward_testkit::kafka::{self, Distribution, Kafka, KafkaOptions};

use crate::support::{
    Place, SOON, batch, committed, progress, raw_producer, read_partition, read_topic,
    send_in_transaction,
};
use rdkafka::producer::Producer;

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_progress_topic_still_reads_right() {
    let kafka = Kafka::start_with(KafkaOptions {
        properties: vec![("log.cleaner.backoff.ms".into(), "200".into())],
        ..KafkaOptions::default()
    })
    .unwrap();
    let bootstrap = kafka.bootstrap();
    let place = Place::new(&bootstrap, 1).await;
    let topic = place.source.progress_topic();
    let quickly = "segment.ms=100,min.cleanable.dirty.ratio=0.01,max.compaction.lag.ms=100";
    kafka
        .run_tool(
            "kafka.admin.ConfigCommand",
            &[
                "--bootstrap-server",
                &bootstrap,
                "--alter",
                "--entity-type",
                "topics",
                "--entity-name",
                &topic,
                "--add-config",
                quickly,
            ],
        )
        .unwrap();
    let mut publisher = place.broker.open(&place.source).await.unwrap();
    let told = |partitions: i32, position: i64| {
        let mut record = progress(position);
        let positions = (0..partitions).map(|partition| (partition, 1));
        record.partitions.insert("t".into(), positions.collect());
        record
    };
    let first = committed(publisher.publish(&batch(vec![]), &progress(1)).await);
    let (mut position, mut full, mut full_at) = (1, told(2, 1), first);
    // In full, then by what changed: that must stay readable when those before it are gone.
    for by_changes in [false, true] {
        let begin = read_topic(&bootstrap, &topic, "read_uncommitted").len();
        let mut written = 0;
        loop {
            position += 1;
            written += 1;
            let whole = told(2 + i32::from(by_changes), position);
            if by_changes {
                let changes = whole.changes_since(&full.partitions, full_at);
                committed(publisher.publish(&batch(vec![]), &changes).await);
            } else {
                full_at = committed(publisher.publish(&batch(vec![]), &whole).await);
                full = whole;
            }
            let left = read_topic(&bootstrap, &topic, "read_uncommitted").len();
            if left < begin + written {
                println!("{left} of {} records left", begin + written);
                break;
            }
            assert!(written < 1_000, "not compacted");
        }
        let expected = told(2 + i32::from(by_changes), position);
        for from in [None, Some(first), Some(first + 2)] {
            let known = place.broker.read_progress(&place.source, from).await;
            let (_, record) = known.unwrap().record.unwrap();
            assert_eq!(record, expected, "from {from:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_of_a_newer_format_is_not_half_understood() {
    let bootstrap = kafka::shared().unwrap().bootstrap();
    let place = Place::new(&bootstrap, 1).await;
    let newer = raw_producer(&bootstrap, &place.source.transactional_id());
    newer.init_transactions(SOON).unwrap();
    let topic = place.source.progress_topic();
    for (text, part) in [
        (r#"{"format": 99, "anything": "else"}"#, "format 99"),
        ("rubbish", "no progress record"),
    ] {
        send_in_transaction(&newer, &topic, text);
        match place.broker.read_progress(&place.source, None).await {
            Err(BrokerError::Unreadable { reason, .. }) => {
                assert!(reason.contains(part), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
    // Only the newest record counts.
    send_in_transaction(
        &newer,
        &topic,
        &serde_json::to_string(&progress(7)).unwrap(),
    );
    assert_eq!(place.position().await, Some(7));
}

/// Else a second relay of a busy source knows no owner, and is not ready, for minutes.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_progress_ends_while_its_owner_goes_on_publishing() {
    let bootstrap = kafka::shared().unwrap().bootstrap();
    let place = Place::new(&bootstrap, 1).await;
    let mut publisher = place.broker.open(&place.source).await.unwrap();
    committed(publisher.publish(&batch(vec![]), &progress(1)).await);
    // Its markers are written.
    assert_eq!(place.position().await, Some(1));
    let publishing = tokio::spawn(async move {
        for position in 2.. {
            committed(publisher.publish(&batch(vec![]), &progress(position)).await);
        }
    });
    let mut last = 0;
    for _ in 0..5 {
        let look = place.broker.look(&place.source, None);
        let found = tokio::time::timeout(SOON / 4, look).await.unwrap().unwrap();
        let position = found.record.unwrap().1.position;
        assert!(position > last, "{position} after {last}");
        last = position;
    }
    publishing.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_go_where_the_java_producer_puts_them() {
    let kafka = kafka::shared().unwrap();
    let bootstrap = kafka.bootstrap();
    let place = Place::new(&bootstrap, 7).await;
    let keys: Vec<String> = (0..40)
        .map(|n| format!("ключ-{}", "order".repeat(n % 5) + &n.to_string()))
        .collect();
    let mut java = Distribution::find_or_fetch()
        .unwrap()
        .command("org.apache.kafka.tools.ConsoleProducer", 128)
        .args(["--bootstrap-server", &bootstrap, "--topic", &place.topic])
        .args(["--reader-property", "parse.key=true"])
        .args(["--reader-property", "key.separator=|"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let lines: String = keys.iter().map(|key| format!("{key}|{key}\n")).collect();
    java.stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    assert!(java.wait().unwrap().success());
    let mut seen = 0;
    for partition in 0..7 {
        for key in read_partition(&bootstrap, &place.topic, partition, "read_committed") {
            assert_eq!(partition_for(key.as_bytes(), 7), partition, "{key}");
            seen += 1;
        }
    }
    assert_eq!(seen, keys.len());
}
