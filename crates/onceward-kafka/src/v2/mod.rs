//! A transactional producer for transactions V2 (KIP-890, Kafka 4.0 and later), without librdkafka.
//!
//! Three things make it fast: Produce adds partitions to the transaction by itself, so that rows and
//! progress take one request a broker; it knows when the last transaction's markers are written, and
//! so never waits for them in the broker; batches are encoded once, into the request. And one
//! makes it safe: every EndTxn bumps the epoch, so that a late one can't end the next transaction.
//!
//! Depends on the rest of this crate in two places only: its configuration ([`settings`]) and the
//! transactions' time-out.

mod batch;
mod cluster;
mod codec;
mod connection;
mod fault;
mod message;
mod produce;
mod publisher;
mod settings;

use onceward::SourceName;
use onceward::publisher::BrokerError;

pub(crate) use publisher::{OpenError, V2Publisher};
pub use settings::Compression;
use settings::{Settings, Unusable};

use crate::KafkaConfig;

/// Reads the configuration's files, connects, and fences every older producer of the source.
pub(crate) async fn open(
    config: &KafkaConfig,
    compression: Compression,
    source: &SourceName,
) -> Result<V2Publisher, OpenError> {
    let settings = Settings::read(config, compression).map_err(|unusable| match unusable {
        Unusable::Here(reason) => OpenError::Unsupported(reason),
        Unusable::Anywhere(reason) => OpenError::Broker(BrokerError::Configuration(reason)),
    })?;
    V2Publisher::open(settings, source).await
}
