//! What stands in a topic, as a consumer that trusts nobody reads it.

use std::collections::BTreeMap;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;

use crate::program::at_most;

#[derive(Debug)]
pub struct Record {
    pub key: Option<String>,
    pub headers: BTreeMap<String, String>,
    pub payload: Value,
}

/// The committed records of one source, partition by partition.
pub fn read(kafka: &str, topic: &str, source: &str) -> Vec<Record> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("group.id", "examples-test")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .create()
        .unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), at_most()).unwrap();
    let partitions = metadata.topics()[0].partitions().len();
    let mut assignment = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        assignment
            .add_partition_offset(topic, partition.id(), Offset::Beginning)
            .unwrap();
    }
    consumer.assign(&assignment).unwrap();
    let (mut records, mut ends) = (Vec::new(), 0);
    while ends < partitions {
        match consumer.poll(at_most()).expect("an answer of Kafka") {
            Ok(message) => records.push(record(&message.detach())),
            Err(rdkafka::error::KafkaError::PartitionEOF(_)) => ends += 1,
            Err(error) => panic!("{topic}: {error}"),
        }
    }
    records.retain(|record| record.headers["ce_source"] == source);
    records
}

/// Publishes one message about an order, as the shop does.
pub fn publish(kafka: &str, topic: &str, id: u32, payload: &Value) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .create()
        .unwrap();
    let (id, message_type) = (id.to_string(), format!("{topic}.v1"));
    let header = |key, value| Header {
        key,
        value: Some(value),
    };
    let headers = OwnedHeaders::new()
        .insert(header("ce_id", &id))
        .insert(header("ce_source", &"order".to_owned()))
        .insert(header("ce_type", &message_type));
    let (key, payload) = (payload["order_id"].to_string(), payload.to_string());
    let record = BaseRecord::to(topic).key(&key).payload(&payload);
    producer
        .send(record.headers(headers))
        .map_err(|(error, _)| error)
        .unwrap();
    producer.flush(at_most()).unwrap();
}

fn record(message: &rdkafka::message::OwnedMessage) -> Record {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = message.headers().expect("headers").iter();
    Record {
        key: message.key().map(text),
        headers: headers
            .map(|h| (h.key.to_owned(), h.value.map(text).unwrap_or_default()))
            .collect(),
        payload: serde_json::from_slice(message.payload().unwrap()).unwrap(),
    }
}
