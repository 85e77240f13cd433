//! What `outbox-relay check` says of Kafka: findings in sentences, with their weight.

use std::fmt;

use onceward::SourceName;
use onceward::publisher::BrokerError;

use crate::admin::{Admin, loss_problems, progress_topic_problems};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Fine,
    /// Works, but something may be lost or slow under a failure.
    Warning,
    /// The relay can't work, or can't keep its promise.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fine => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One sentence about one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its weight.
    pub severity: Severity,
    /// What it is about: `Kafka`, or `topic NAME`.
    pub subject: String,
    /// The sentence.
    pub text: String,
}

impl Finding {
    pub(crate) fn error(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(Severity::Error, subject, text)
    }
    fn new(severity: Severity, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            severity,
            subject: subject.into(),
            text: text.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8} {}: {}", self.severity, self.subject, self.text)
    }
}

/// Everything at once; stops early only where nothing can be asked.
pub(crate) fn check(admin: &Admin, sources: &[SourceName], data_topics: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    match admin
        .cluster_id()
        .and_then(|id| Ok((id, admin.broker_count()?)))
    {
        Ok((id, brokers)) => findings.push(Finding::new(
            Severity::Fine,
            "Kafka",
            format!("cluster {id}, {brokers} broker(s)"),
        )),
        Err(error) => return vec![Finding::error("Kafka", error.to_string())],
    }
    for source in sources {
        let topic = source.progress_topic();
        findings.extend(of_topic(admin, &topic, true));
    }
    for topic in data_topics {
        findings.extend(of_topic(admin, topic, false));
    }
    findings
}

fn of_topic(admin: &Admin, topic: &str, holds_progress: bool) -> Vec<Finding> {
    let subject = format!("topic {topic}");
    // Asked one by one: a missing right on one must not hide what is wrong with the others.
    match look_at(admin, topic, holds_progress) {
        Ok(found) => found
            .into_iter()
            .map(|(severity, text)| Finding::new(severity, &subject, text))
            .collect(),
        Err(error) => vec![Finding::error(subject, error.to_string())],
    }
}

fn look_at(
    admin: &Admin,
    topic: &str,
    holds_progress: bool,
) -> Result<Vec<(Severity, String)>, BrokerError> {
    let names = [topic.to_owned()];
    let Some(description) = admin.describe(&names)?.remove(topic) else {
        return Ok(vec![if holds_progress {
            let text = "does not exist yet; the relay makes it at its first start";
            (Severity::Warning, text.to_owned())
        } else {
            (Severity::Error, "does not exist".to_owned())
        }]);
    };
    let settings = admin.settings(&names)?.remove(topic).unwrap_or_default();
    let mut found: Vec<(Severity, String)> = if holds_progress {
        progress_topic_problems(&description, &settings)
            .into_iter()
            .map(|text| (Severity::Error, text))
            .collect()
    } else {
        loss_problems(&description, &settings)
            .into_iter()
            .map(|text| (Severity::Warning, text))
            .collect()
    };
    let segment_bytes = settings.number("segment.bytes").unwrap_or(0);
    if holds_progress && segment_bytes > 64 * 1024 * 1024 {
        found.push((
            Severity::Warning,
            format!("segment.bytes is {segment_bytes}: taking over reads up to that much; 16 MiB is better"),
        ));
    }
    if !holds_progress && settings.text("cleanup.policy").contains("compact") {
        found.push((
            Severity::Warning,
            "is compacted: earlier messages of a key vanish before consumers read them".to_owned(),
        ));
    }
    for partition in &description.partitions {
        if partition.leader.is_none() {
            let text = format!("partition {} has no leader", partition.partition);
            found.push((Severity::Error, text));
        } else if partition.in_sync_count < partition.replica_count {
            let text = format!(
                "partition {}: {} of {} replicas in sync",
                partition.partition, partition.in_sync_count, partition.replica_count
            );
            found.push((Severity::Warning, text));
        }
    }
    let replication = description
        .partitions
        .iter()
        .map(|partition| partition.replica_count)
        .min()
        .unwrap_or(0);
    if replication < 2 {
        let text = "has one replica: a lost disk loses it".to_owned();
        found.push((Severity::Warning, text));
    }
    if found.is_empty() {
        let count = description.partitions.len();
        found.push((
            Severity::Fine,
            format!("{count} partition(s), {replication} replicas"),
        ));
    }
    Ok(found)
}
