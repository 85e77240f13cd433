//! Which of the two producers publishes: chosen by what the cluster can do, unless a setting says.

use std::sync::Arc;

use onceward::publisher::{BrokerError, PublishOutcome, Publisher, Records};
use onceward::{ProgressRecord, SourceName};

use crate::broker::blocking;
use crate::fault::config_error;
use crate::publisher::RdKafkaPublisher;
use crate::trouble::Trouble;
use crate::v2::{self, Compression, OpenError, V2Publisher};
use crate::watch::why_unreachable;
use crate::{ConfigProblems, KafkaConfig};

/// Which producer publishes.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum PublisherKind {
    /// `Native` where the cluster has transactions V2 and the settings allow, else `RdKafka`.
    #[default]
    Auto,
    /// Our own, for clusters whose feature `transaction.version` is 2 (KIP-890; the default from Kafka
    /// 4.0 on). An error where it can't be used.
    Native,
    /// librdkafka's, for every cluster.
    RdKafka,
}

impl PublisherKind {
    /// Its name, as configuration files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::RdKafka => "rdkafka",
        }
    }
}

/// How a broker's publishers are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PublisherOptions {
    /// Which producer.
    pub kind: PublisherKind,
    /// How it compresses.
    pub compression: Compression,
}

/// A transactional producer of one source. See [`Publisher`].
#[derive(Debug)]
pub struct KafkaPublisher(Inner);

#[derive(Debug)]
enum Inner {
    V2(Box<V2Publisher>),
    RdKafka(RdKafkaPublisher),
}

impl KafkaPublisher {
    /// Which producer it is; never `Auto`.
    pub fn kind(&self) -> PublisherKind {
        match self.0 {
            Inner::V2(_) => PublisherKind::Native,
            Inner::RdKafka(_) => PublisherKind::RdKafka,
        }
    }

    /// Makes the producer, which fences all older ones of the source.
    pub(crate) async fn open(
        config: &KafkaConfig,
        options: PublisherOptions,
        source: &SourceName,
    ) -> Result<Self, BrokerError> {
        if options.kind != PublisherKind::RdKafka {
            match Box::pin(v2::open(config, options.compression, source)).await {
                Ok(publisher) => {
                    tracing::info!(source = %source, publisher = "native", "producer opened");
                    return Ok(Self(Inner::V2(Box::new(publisher))));
                }
                Err(OpenError::Unsupported(reason)) if options.kind == PublisherKind::Auto => {
                    tracing::info!(source = %source, reason, "transactions V2 can't be used");
                }
                Err(OpenError::Unsupported(reason)) => {
                    let text = format!("publisher native can't be used: {reason}");
                    return Err(BrokerError::Configuration(text));
                }
                Err(OpenError::Unclear(error)) => return Err(explained(config, error).await),
                Err(OpenError::Broker(error)) => return Err(error),
            }
        }
        let client = rdkafka_config(config, options).map_err(|problems| config_error(&problems))?;
        let publisher = RdKafkaPublisher::open(client, source).await?;
        tracing::info!(source = %source, publisher = "rdkafka", "producer opened");
        Ok(Self(Inner::RdKafka(publisher)))
    }
}

/// librdkafka's look at a connection that does not come about finds the words, so that both publishers
/// say the same. What it finds nothing wrong with keeps its own.
async fn explained(config: &KafkaConfig, error: BrokerError) -> BrokerError {
    let Ok(client) = config.client_config() else {
        return error;
    };
    match blocking(move || Ok(why_unreachable(&client))).await {
        Ok(Some(Trouble::Refused(cause))) => BrokerError::Configuration(cause),
        Ok(Some(Trouble::Perhaps(cause))) => BrokerError::Unavailable(cause),
        _ => error,
    }
}

fn rdkafka_config(
    config: &KafkaConfig,
    options: PublisherOptions,
) -> Result<rdkafka::ClientConfig, ConfigProblems> {
    let mut client = config.client_config()?;
    client.set("compression.type", options.compression.name());
    Ok(client)
}

impl Publisher for KafkaPublisher {
    async fn publish(
        &mut self,
        records: &Arc<Records>,
        progress: &ProgressRecord,
    ) -> PublishOutcome {
        match &mut self.0 {
            Inner::V2(publisher) => publisher.publish(records, progress).await,
            Inner::RdKafka(publisher) => publisher.publish(records, progress).await,
        }
    }

    async fn get_ready(&mut self) {
        match &mut self.0 {
            Inner::V2(publisher) => publisher.get_ready().await,
            Inner::RdKafka(publisher) => publisher.get_ready().await,
        }
    }
}
