//! librdkafka properties that a user adds, and those that are not theirs to set.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Properties handed to librdkafka as they are.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(pub BTreeMap<String, String>);

/// Of those that are ours to set, some would carry a secret: their values are not shown, although
/// they are about to be refused.
impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.shown()).finish()
    }
}

impl Serialize for Properties {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.shown())
    }
}

impl Properties {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn shown(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| match is_owned(name) {
            true => (name.as_str(), "***"),
            false => (name.as_str(), value.as_str()),
        })
    }
}

/// Never fails, because a command line would quote what it refuses: what is no NAME=VALUE is kept
/// without its text, and refused by [`crate::KafkaConfig::validate`].
impl std::str::FromStr for Properties {
    type Err = std::convert::Infallible;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pairs = text
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or_default());
        let pairs = pairs.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()));
        Ok(Self(pairs.collect()))
    }
}

impl<'de> Deserialize<'de> for Properties {
    /// Values may be text, numbers or true/false, as config files write them.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Scalar {
            Text(String),
            Whole(i64),
            Truth(bool),
        }
        let map = BTreeMap::<String, Scalar>::deserialize(deserializer)?;
        let text = |value| match value {
            Scalar::Text(text) => text,
            Scalar::Whole(number) => number.to_string(),
            Scalar::Truth(truth) => truth.to_string(),
        };
        Ok(Self(
            map.into_iter()
                .map(|(name, value)| (name, text(value)))
                .collect(),
        ))
    }
}

/// Exactly-once stands on these, or this struct has a field for them: nobody else sets them.
const OWNED: &[&str] = &[
    "acks",
    "request.required.acks",
    "allow.auto.create.topics",
    "auto.offset.reset",
    "batch.num.messages",
    "compression.codec",
    "compression.type",
    "bootstrap.servers",
    "delivery.report.only.error",
    "delivery.timeout.ms",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "linger.ms",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.send.max.retries",
    "message.timeout.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "partitioner",
    "queue.buffering.max.ms",
    "retries",
    "security.protocol",
    "statistics.interval.ms",
    "transaction.timeout.ms",
    "transactional.id",
];
/// Families that are ours whole, among them every one that would carry a secret as text.
const OWNED_FAMILIES: &[&str] = &[
    "sasl.",
    "ssl.ca.",
    "ssl.certificate.",
    "ssl.key.",
    "ssl.keystore.",
    "ssl_",
];

pub(super) fn is_owned(name: &str) -> bool {
    OWNED.contains(&name) || OWNED_FAMILIES.iter().any(|family| name.starts_with(family))
}
