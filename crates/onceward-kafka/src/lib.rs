//! Kafka for Onceward: the relay's publisher and progress, the consumer's subscriber, topics
//! and their checks, and the one configuration that relay, services and tools share.
#![deny(missing_docs)]

mod admin;
mod broker;
mod check;
mod choice;
mod config;
mod events;
mod fault;
mod ffi;
mod progress;
mod publisher;
mod subscriber;
mod transaction;
mod v2;
mod watch;

pub use admin::TopicMade;
pub use broker::RdKafkaBroker;
pub use check::{Finding, Severity};
pub use choice::{KafkaPublisher, PublisherKind, PublisherOptions};
pub use config::{
    ConfigProblems, KafkaConfig, Properties, SaslMechanism, Secret, SecurityProtocol,
};
pub use publisher::TRANSACTION_TIMEOUT;
pub use subscriber::KafkaSubscriber;
pub use v2::Compression;
