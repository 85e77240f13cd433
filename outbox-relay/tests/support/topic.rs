//! Topics, and what a plain consumer sees in them: its own decoding, none of ours.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::source::rand_u32;
use super::until;

/// A record as read.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<String>,
    pub payload: String,
    pub headers: BTreeMap<String, String>,
}

impl Seen {
    pub fn header_number(&self, name: &str) -> i64 {
        self.headers[name].parse().unwrap()
    }
}

pub struct Topic {
    pub name: String,
    pub kafka: String,
    pub partitions: i32,
}

fn admin(kafka: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .create()
        .unwrap()
}

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

impl Topic {
    pub fn new(kafka: &str, test: &str, partitions: i32) -> Self {
        Self::with(kafka, test, partitions, &[])
    }

    pub fn with(kafka: &str, test: &str, partitions: i32, config: &[(&str, &str)]) -> Self {
        let topic = Self::named(test, kafka, partitions);
        topic.create(config);
        topic
    }

    /// One that does not exist yet.
    pub fn named(test: &str, kafka: &str, partitions: i32) -> Self {
        Self {
            name: format!("{test}-{:08x}", rand_u32()),
            kafka: kafka.into(),
            partitions,
        }
    }

    /// The progress topic of a source.
    pub fn of_progress(kafka: &str, source: &onceward::SourceName) -> Self {
        Self {
            name: source.progress_topic(),
            kafka: kafka.into(),
            partitions: 1,
        }
    }

    pub fn create(&self, config: &[(&str, &str)]) {
        let new = NewTopic {
            name: &self.name,
            num_partitions: self.partitions,
            replication: TopicReplication::Fixed(1),
            config: config.to_vec(),
        };
        block(admin(&self.kafka).create_topics([&new], &AdminOptions::new())).unwrap()[0]
            .as_ref()
            .unwrap();
    }

    /// Sets one setting, and waits until the broker goes by it.
    pub fn alter(&self, name: &str, value: &str) {
        use rdkafka::admin::{AlterConfig, ResourceSpecifier};
        let resource = ResourceSpecifier::Topic(&self.name);
        let (admin, options) = (admin(&self.kafka), AdminOptions::new());
        let change = AlterConfig::new(resource).set(name, value);
        block(admin.alter_configs([&change], &options)).unwrap()[0]
            .as_ref()
            .unwrap();
        until("the setting", || {
            let told = block(admin.describe_configs([&resource], &options)).unwrap();
            let told = told.first().and_then(|topic| topic.as_ref().ok());
            let entry = told.and_then(|topic| topic.get(name));
            Ok(entry
                .filter(|entry| entry.value.as_deref() == Some(value))
                .map(drop))
        });
        // It shows a setting a moment before.
        std::thread::sleep(Duration::from_millis(200));
    }

    pub fn grow(&mut self, partitions: i32) {
        use rdkafka::admin::NewPartitions;
        self.partitions = partitions;
        let more = NewPartitions::new(&self.name, usize::try_from(partitions).unwrap());
        block(admin(&self.kafka).create_partitions([&more], &AdminOptions::new())).unwrap()[0]
            .as_ref()
            .unwrap();
    }

    /// Everything `read_committed` readers see now.
    pub fn read(&self) -> Vec<Seen> {
        self.read_as("read_committed")
    }

    pub fn read_as(&self, isolation: &str) -> Vec<Seen> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.kafka)
            .set("group.id", "plain")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", isolation)
            .create()
            .unwrap();
        let mut assignment = TopicPartitionList::new();
        for partition in 0..self.partitions {
            assignment
                .add_partition_offset(&self.name, partition, Offset::Beginning)
                .unwrap();
        }
        consumer.assign(&assignment).unwrap();
        let (mut seen, mut ended) = (Vec::new(), 0);
        let deadline = Instant::now() + super::PATIENCE;
        while ended < self.partitions {
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(record)) => seen.push(Seen {
                    partition: record.partition(),
                    offset: record.offset(),
                    key: record.key().map(|k| String::from_utf8(k.into()).unwrap()),
                    payload: String::from_utf8(record.payload().unwrap().into()).unwrap(),
                    headers: record
                        .headers()
                        .into_iter()
                        .flat_map(|headers| headers.iter())
                        .map(|h| {
                            let value = String::from_utf8(h.value.unwrap_or_default().into());
                            (h.key.to_owned(), value.unwrap())
                        })
                        .collect(),
                }),
                Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => ended += 1,
                // A Kafka that was killed or frozen a moment ago: the client connects again.
                Some(Err(_)) | None if Instant::now() < deadline => {}
                Some(Err(error)) => panic!("{}: {error}", self.name),
                None => panic!("{}: Kafka gives no records", self.name),
            }
        }
        seen
    }

    /// Waits until `count` records are visible, and gives all that are.
    #[track_caller]
    pub fn wait_for(&self, count: usize, log: impl Fn() -> String) -> Vec<Seen> {
        let mut last = 0;
        let outcome = onceward_testkit::wait::until("records", super::PATIENCE, || {
            let seen = self.read();
            last = seen.len();
            Ok((seen.len() >= count).then_some(seen))
        });
        match outcome {
            Ok(seen) => seen,
            Err(error) => panic!("{last} of {count} records: {error:#}\n{}", log()),
        }
    }

    #[track_caller]
    pub fn wait_for_key(&self, key: &str, count: usize) -> Vec<String> {
        until(&format!("{count} records of {key}"), || {
            let found = of_key(&self.read(), key);
            Ok((found.len() >= count).then_some(found))
        })
    }
}

pub fn delete_topic(kafka: &str, name: &str) {
    block(admin(kafka).delete_topics(&[name], &AdminOptions::new())).unwrap()[0]
        .as_ref()
        .unwrap();
}

/// Payloads of one key in the order of their partition.
pub fn of_key(seen: &[Seen], key: &str) -> Vec<String> {
    seen.iter()
        .filter(|record| record.key.as_deref() == Some(key))
        .map(|record| record.payload.clone())
        .collect()
}

/// `key:0` … as [`super::source::Source::write_key`] wrote them.
pub fn numbered(key: &str, numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| format!("{key}:{number}")).collect()
}

/// Each key's rows once and in order, and no other record; positions without gap, each partition's
/// records linked.
#[track_caller]
pub fn assert_exactly_once(seen: &[Seen], keys: &[(&str, u32)]) {
    for (key, count) in keys {
        assert_eq!(of_key(seen, key), numbered(key, 0..*count), "key {key}");
    }
    let total: u32 = keys.iter().map(|(_, count)| count).sum();
    assert_eq!(seen.len(), usize::try_from(total).unwrap(), "records");
    let mut positions: Vec<i64> = seen
        .iter()
        .map(|record| record.header_number("onceward-position"))
        .collect();
    positions.sort_unstable();
    let expected: Vec<i64> = (1..=i64::from(total)).collect();
    assert_eq!(positions, expected, "positions");
    let mut last: BTreeMap<i32, i64> = BTreeMap::new();
    for record in seen {
        let previous = record.header_number("onceward-previous-position");
        assert_eq!(previous, last.get(&record.partition).copied().unwrap_or(0));
        last.insert(record.partition, record.header_number("onceward-position"));
    }
}
