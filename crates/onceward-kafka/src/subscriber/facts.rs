//! What the cluster knows of a consumer's partitions, asked before they are assigned.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use onceward::consumer::{AssignedPartition, Retention, SubscriberError, TopicPartition};
use rdkafka::Offset;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;

use super::{ASK, Quiet, failed, list_of};
use crate::fault::{denied, is_denied};
use crate::ffi::{describe_settings, describe_topics};

/// What the cluster says of the partitions.
pub(super) fn facts(
    consumer: &BaseConsumer<Quiet>,
    group: &str,
    partitions: &[TopicPartition],
) -> Result<Vec<AssignedPartition>, NoFacts> {
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let names: BTreeSet<&str> = partitions.iter().map(|at| &*at.topic).collect();
    let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    let mut ids = BTreeMap::new();
    for (name, described) in
        describe_topics(consumer.client(), &names, ASK).map_err(no_facts("topic lookup"))?
    {
        let described = described.map_err(|code| {
            let need = format!("DESCRIBE on topic {name}");
            needing("topic lookup", code, &need)
        })?;
        ids.insert(name, described.id);
    }
    let committed = consumer
        .committed_offsets(list_of(partitions), ASK)
        .map_err(|error| {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
            needing(
                "committed offset lookup",
                code,
                &format!("READ on group {group}"),
            )
        })?;
    let retentions = retentions(consumer, &names);
    let mut facts = Vec::with_capacity(partitions.len());
    for at in partitions {
        let (log_start, log_end) = consumer
            .fetch_watermarks(&at.topic, at.partition, ASK)
            .map_err(no_facts("offset lookup"))?;
        let metadata = committed
            .find_partition(&at.topic, at.partition)
            .filter(|element| matches!(element.offset(), Offset::Offset(_)))
            .map(|element| element.metadata().to_owned());
        facts.push(AssignedPartition {
            at: at.clone(),
            topic_id: ids.get(&*at.topic).cloned().unwrap_or_default(),
            log_start,
            log_end,
            committed_metadata: metadata,
            retention: retentions
                .get(&*at.topic)
                .copied()
                .unwrap_or(Retention::Unknown),
        });
    }
    Ok(facts)
}

/// The topics' retention. One that can't be asked (no right to describe configs) is left out: then
/// nothing is purged.
fn retentions(consumer: &BaseConsumer<Quiet>, topics: &[String]) -> BTreeMap<String, Retention> {
    let answers = describe_settings(consumer.client(), topics, ASK).unwrap_or_default();
    let told = answers.into_iter().filter_map(|(topic, settings)| {
        let settings = settings.inspect_err(|code| {
            if is_denied(*code) {
                tracing::warn!(
                    topic,
                    "without the right DESCRIBE_CONFIGS on this topic its retention is unknown: its \
                     inbox rows are never purged"
                );
            }
        });
        let settings = settings.ok()?;
        let value = |name: &str| settings.get(name).cloned();
        Some((
            topic,
            retention(value("cleanup.policy"), value("retention.ms")),
        ))
    });
    told.collect()
}

fn retention(policy: Option<String>, milliseconds: Option<String>) -> Retention {
    let (Some(policy), Some(milliseconds)) = (policy, milliseconds) else {
        return Retention::Unknown;
    };
    match milliseconds.parse::<i64>().map(u64::try_from) {
        _ if policy.contains("compact") => Retention::Unlimited,
        Ok(Ok(kept)) => Retention::Time(Duration::from_millis(kept)),
        Ok(Err(_)) => Retention::Unlimited,
        Err(_) => Retention::Unknown,
    }
}

/// The cluster did not tell what it knows of the partitions.
pub(super) struct NoFacts {
    pub(super) error: SubscriberError,
    /// A right is missing.
    pub(super) is_denied: bool,
}

/// Names the right that the question needs if that is what is missing.
fn needing(doing: &'static str, code: RDKafkaErrorCode, need: &str) -> NoFacts {
    let is_denied = is_denied(code);
    let reason = match is_denied {
        true => denied(doing, need),
        false => code.to_string(),
    };
    NoFacts {
        error: SubscriberError { doing, reason },
        is_denied,
    }
}

/// For `map_err`.
fn no_facts<E: std::fmt::Display>(doing: &'static str) -> impl Fn(E) -> NoFacts {
    move |error| NoFacts {
        error: failed(doing)(error),
        is_denied: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_topic_with_a_time_limit_lets_its_inbox_rows_go() {
        let ask = |policy: &str, ms: &str| retention(Some(policy.into()), Some(ms.into()));
        assert_eq!(
            ask("delete", "1000"),
            Retention::Time(Duration::from_secs(1))
        );
        assert_eq!(ask("delete", "-1"), Retention::Unlimited);
        assert_eq!(ask("compact", "1000"), Retention::Unlimited);
        assert_eq!(ask("compact,delete", "1000"), Retention::Unlimited);
        assert_eq!(retention(None, Some("1".into())), Retention::Unknown);
    }
}
