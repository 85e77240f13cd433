//! Kafka for [`onceward`]: the relay's publisher and progress, the consumer's subscriber, topics
//! and their checks, and the one configuration that relay, services and tools share.
//!
//! [The tutorial of `onceward`](onceward) shows where these go:
//!
//! ```no_run
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! use onceward_kafka::{KafkaBroker, KafkaConfig, KafkaSubscriber, SaslMechanism, SecurityProtocol};
//!
//! let kafka = KafkaConfig {
//!     security_protocol: Some(SecurityProtocol::SaslSsl),
//!     sasl_mechanism: Some(SaslMechanism::ScramSha512),
//!     username: Some("shop".into()),
//!     password_file: Some("/run/secrets/kafka".into()),
//!     ..KafkaConfig::plaintext("kafka-1:9093,kafka-2:9093")
//! };
//!
//! // For `outbox_relay::Relay`, and to make topics that are missing: 6 partitions, 3 copies of each.
//! let broker = KafkaBroker::new(kafka.clone())?;
//! broker.make_topics(["order.placed"], 6, 3).await?;
//!
//! // For `onceward::consumer::Consumer`.
//! let subscriber = KafkaSubscriber::new(kafka);
//! # Ok(())
//! # }
//! ```
//!
//! * [`KafkaConfig`] is read from a config file (serde), a command line or the environment (clap); layers are merged by
//!   [`KafkaConfig::or`], and [`KafkaConfig::validate`] tells everything that is wrong at once.
//! * [`KafkaBroker::check`] holds a cluster and its topics against what exactly-once needs of them.
//! * What librdkafka may be told and what is ours: [`KafkaConfig::properties`] refuses those that the protocol needs
//!   (`isolation.level`, `enable.idempotence` …).
#![deny(missing_docs)]

mod admin;
mod broker;
mod check;
mod choice;
mod config;
mod credentials;
mod events;
mod fault;
mod ffi;
mod history;
mod progress;
mod publisher;
mod subscriber;
mod topics;
mod transaction;
mod trouble;
mod v2;
mod watch;

pub use admin::TopicMade;
pub use broker::KafkaBroker;
pub use check::{Finding, Severity};
pub use choice::{KafkaPublisher, PublisherKind, PublisherOptions};
pub use config::{
    ConfigProblems, KafkaConfig, Properties, SaslMechanism, Secret, SecurityProtocol,
};
pub use history::KafkaHistory;
pub use publisher::TRANSACTION_TIMEOUT;
pub use subscriber::KafkaSubscriber;
pub use topics::{TopicChange, WantedTopic};
pub use v2::Compression;
