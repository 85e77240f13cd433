//! Partition counts of the topics a source publishes to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use onceward::publisher::{Broker, BrokerError, TopicInfo};
use onceward::source::OutboxRow;

/// Cached partition counts. The names are kept once, so that each record shares its topic's name.
#[derive(Debug, Default, Clone)]
pub(super) struct Topics {
    known: BTreeMap<Arc<str>, i32>,
    /// Grows whenever `known` may have changed.
    version: u64,
    asked: Option<Instant>,
}

impl Topics {
    /// The shared name and the partition count of a topic, if it exists.
    pub(super) fn get(&self, topic: &str) -> Option<(Arc<str>, i32)> {
        self.known
            .get_key_value(topic)
            .map(|(name, count)| (name.clone(), *count))
    }

    /// Topics of `wanted` that are not known yet.
    pub(super) fn missing<'a>(&self, wanted: impl Iterator<Item = &'a OutboxRow>) -> Vec<String> {
        let mut missing = BTreeSet::new();
        // Rows of one topic come in runs: each run is looked up once.
        let mut before = None;
        for topic in wanted.map(OutboxRow::topic) {
            if before != Some(topic) && !self.known.contains_key(topic) {
                missing.insert(topic.to_owned());
            }
            before = Some(topic);
        }
        missing.into_iter().collect()
    }

    /// Whether the counts are older than `age`.
    pub(super) fn is_stale(&self, age: Duration) -> bool {
        !self.known.is_empty() && self.asked.is_none_or(|at| at.elapsed() >= age)
    }

    /// Asked in vain: not again before the next interval.
    pub(super) fn postpone(&mut self) {
        self.asked = Some(Instant::now());
    }

    /// Tells whether what was looked up before still holds.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Forgets a topic, so that the next batch asks anew.
    pub(super) fn forget(&mut self, topic: &str) {
        self.version += 1;
        self.known.remove(topic);
    }

    /// Asks Kafka for `wanted` and for everything known. Topics that are gone are forgotten.
    pub(super) async fn refresh<Br: Broker>(
        &mut self,
        broker: &Br,
        wanted: impl IntoIterator<Item = String>,
    ) -> Result<(), BrokerError> {
        let mut names: BTreeSet<String> = wanted.into_iter().collect();
        names.extend(self.known.keys().map(|name| name.to_string()));
        let found = broker.topics(names.into_iter().collect()).await?;
        self.known = found
            .into_iter()
            .map(|(name, TopicInfo { partition_count })| {
                let shared = self
                    .known
                    .get_key_value(name.as_str())
                    .map_or_else(|| Arc::from(name.as_str()), |(known, _)| known.clone());
                (shared, partition_count)
            })
            .collect();
        self.version += 1;
        self.asked = Some(Instant::now());
        Ok(())
    }
}
