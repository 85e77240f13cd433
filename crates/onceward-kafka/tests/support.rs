//! What the tests share: sources and topics of their own on one broker, and a reader of topics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use onceward::publisher::{Broker, PublishOutcome, Records};
use onceward::{Clock, Cursor, ProgressRecord, SourceId, SourceName, SqliteCursor, SystemClock};
use onceward_kafka::{KafkaBroker, KafkaConfig, PublisherKind, PublisherOptions};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};

/// A source and a topic that no other test uses.
pub struct Place {
    pub source: SourceName,
    pub topic: Arc<str>,
    pub broker: KafkaBroker,
}

pub fn broker_at(bootstrap: &str) -> KafkaBroker {
    broker_with(bootstrap, PublisherKind::Auto)
}

pub fn broker_with(bootstrap: &str, kind: PublisherKind) -> KafkaBroker {
    let options = PublisherOptions {
        kind,
        ..PublisherOptions::default()
    };
    KafkaBroker::new(KafkaConfig::plaintext(bootstrap))
        .unwrap()
        .with_publisher(options)
}

/// Makes two tests of each sentence, one a publisher.
macro_rules! with_both_publishers {
    ($($sentence:ident),* $(,)?) => {
        mod by_native {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $sentence() {
                    super::$sentence(onceward_kafka::PublisherKind::Native).await;
                }
            )*
        }
        mod by_rdkafka {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $sentence() {
                    super::$sentence(onceward_kafka::PublisherKind::RdKafka).await;
                }
            )*
        }
    };
}
pub(crate) use with_both_publishers;

impl Place {
    /// With its progress topic and a data topic of `partitions`.
    pub async fn new(bootstrap: &str, partitions: i32) -> Self {
        Self::with(bootstrap, partitions, PublisherKind::Auto).await
    }

    /// The same, for one of the publishers.
    pub async fn with(bootstrap: &str, partitions: i32, kind: PublisherKind) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let place = Self {
            source: SourceName::new(format!("source{number}")).unwrap(),
            topic: format!("topic{number}").into(),
            broker: broker_with(bootstrap, kind),
        };
        place
            .broker
            .ensure_progress_topic(&place.source)
            .await
            .unwrap();
        place
            .broker
            .make_topics(vec![place.topic.to_string()], partitions, 1)
            .await
            .unwrap();
        place
    }

    pub fn record(&self, payload: impl Into<Vec<u8>>) -> Row {
        Row {
            topic: self.topic.clone(),
            partition: 0,
            payload: payload.into(),
        }
    }

    /// The committed progress's position, read to the high watermark.
    pub async fn position(&self) -> Option<i64> {
        let progress = self.broker.read_progress(&self.source, None).await.unwrap();
        progress.record.map(|(_, record)| record.position)
    }
}

/// A record to publish.
#[derive(Clone)]
pub struct Row {
    pub topic: Arc<str>,
    pub partition: i32,
    pub payload: Vec<u8>,
}

/// Rows as they are handed to a publisher.
pub fn batch(rows: impl IntoIterator<Item = Row>) -> Arc<Records> {
    // Not a fixed time: Kafka deletes by the records' own.
    let mut records = Records::new(SystemClock.now() / 1_000);
    for row in rows {
        let known = records
            .destinations()
            .iter()
            .position(|to| to.topic == row.topic && to.partition == row.partition);
        let to = known.unwrap_or_else(|| records.add_destination(row.topic, row.partition));
        records.push(to, Some(b"key"), &row.payload, |headers| {
            headers.add("ce_id", b"1");
        });
    }
    Arc::new(records)
}

pub fn progress(position: i64) -> ProgressRecord {
    let mut record = ProgressRecord::genesis(
        SourceId(uuid::Uuid::nil()),
        1,
        Cursor::Sqlite(SqliteCursor { seq: position }),
    );
    record.position = position;
    record
}

#[track_caller]
pub fn committed(outcome: PublishOutcome) -> i64 {
    match outcome {
        PublishOutcome::Committed {
            progress_offset, ..
        } => progress_offset,
        other => panic!("not committed: {other:?}"),
    }
}

/// The payloads of partition 0 that a reader of this isolation sees, up to its end.
pub fn read_topic(bootstrap: &str, topic: &str, isolation: &str) -> Vec<String> {
    read_partition(bootstrap, topic, 0, isolation)
}

/// The payloads of one partition that a reader of this isolation sees, up to its end.
pub fn read_partition(
    bootstrap: &str,
    topic: &str,
    partition: i32,
    isolation: &str,
) -> Vec<String> {
    let consumer: BaseConsumer = KafkaConfig::plaintext(bootstrap)
        .client_config()
        .unwrap()
        .set("group.id", "reader")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", isolation)
        .create()
        .unwrap();
    let mut assignment = TopicPartitionList::new();
    assignment
        .add_partition_offset(topic, partition, Offset::Beginning)
        .unwrap();
    consumer.assign(&assignment).unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut found = Vec::new();
    while Instant::now() < deadline {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let payload = message.payload().unwrap_or_default();
                found.push(String::from_utf8_lossy(payload).into_owned());
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return found,
            _ => {}
        }
    }
    panic!("{topic} was not read to its end in 30 s");
}

/// What `read_committed` readers see.
pub fn read_committed(bootstrap: &str, topic: &str) -> Vec<String> {
    read_topic(bootstrap, topic, "read_committed")
}

/// A transactional producer without any of our rules.
pub fn raw_producer(bootstrap: &str, transactional_id: &str) -> BaseProducer {
    KafkaConfig::plaintext(bootstrap)
        .client_config()
        .unwrap()
        .set("transactional.id", transactional_id)
        .set("transaction.timeout.ms", "10000")
        .set("linger.ms", "0")
        .create()
        .unwrap()
}

/// Waits until `read_committed` readers see exactly this: a commit is answered before its markers are
/// written to every partition.
#[track_caller]
pub fn sees<T: AsRef<str>>(bootstrap: &str, topic: &str, expected: &[T]) {
    let expected: Vec<&str> = expected.iter().map(AsRef::as_ref).collect();
    let mut seen = Vec::new();
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        seen = read_committed(bootstrap, topic);
        if seen == expected {
            return;
        }
    }
    assert_eq!(seen, expected, "in {topic}");
}

/// How long a test waits for what must come.
pub const SOON: Duration = Duration::from_secs(60);

/// One record in an open transaction, acknowledged.
pub fn deliver(producer: &BaseProducer, topic: &str, payload: &str) {
    let record = BaseRecord::<str, str>::to(topic)
        .partition(0)
        .key("key")
        .payload(payload);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    let deadline = Instant::now() + SOON;
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(1));
        assert!(Instant::now() < deadline, "{topic}: no acknowledgement");
    }
}

/// One committed record.
pub fn send_in_transaction(producer: &BaseProducer, topic: &str, payload: &str) {
    producer.begin_transaction().unwrap();
    deliver(producer, topic, payload);
    producer.commit_transaction(SOON).unwrap();
}
