//! Kafka for Onceward, by librdkafka: the relay's publisher and progress, topics and their checks,
//! and the one configuration that relay, services and tools share.
#![deny(missing_docs)]

mod config;

pub use config::{
    ConfigProblems, KafkaConfig, Properties, SaslMechanism, Secret, SecurityProtocol,
};
