//! Kafka for Onceward, by librdkafka: the relay's publisher and progress, the consumer's subscriber, topics
//! and their checks, and the one configuration that relay, services and tools share.
#![deny(missing_docs)]

mod admin;
mod broker;
mod check;
mod config;
mod events;
mod fault;
mod native;
mod progress;
mod publisher;
mod subscriber;
mod transaction;
mod watch;

pub use admin::TopicMade;
pub use broker::RdKafkaBroker;
pub use check::{Finding, Severity};
pub use config::{
    ConfigProblems, KafkaConfig, Properties, SaslMechanism, Secret, SecurityProtocol,
};
pub use publisher::{RdKafkaPublisher, TRANSACTION_TIMEOUT};
pub use subscriber::KafkaSubscriber;
