//! `onceward topic plan` and `apply`: topics as a file says.

use anyhow::Result;
use onceward_kafka::{KafkaBroker, KafkaConfig, TopicChange};
use serde::Serialize;

use crate::args::TopicWish;
use crate::outcome::{Exit, Outcome};
use crate::topic_file;

/// What would change, or has changed.
#[derive(Debug, Serialize)]
struct Told {
    changes: Vec<Change>,
    /// Topics that are as the file says.
    unchanged: usize,
}

#[derive(Debug, Serialize)]
struct Change {
    topic: String,
    /// `make`, `set`, `grow` or `refused`.
    action: &'static str,
    text: String,
}

impl From<&TopicChange> for Change {
    fn from(change: &TopicChange) -> Self {
        let (action, text) = match change {
            TopicChange::Make {
                partitions,
                copies,
                settings,
                ..
            } => {
                let settings: Vec<String> = settings
                    .iter()
                    .map(|(name, value)| format!("{name}={value}"))
                    .collect();
                let settings = settings.join(", ");
                (
                    "make",
                    format!("partitions={partitions}, copies={copies}, {settings}"),
                )
            }
            TopicChange::Set {
                setting, from, to, ..
            } => ("set", format!("{setting}={to} (was {from})")),
            TopicChange::Grow {
                from, to, keyed, ..
            } => {
                let after = if *keyed {
                    "; start the relays of its sources once with --accept-repartitioned"
                } else {
                    ""
                };
                ("grow", format!("{to} partitions (were {from}){after}"))
            }
            TopicChange::Refused { why, .. } => ("refused", why.clone()),
        };
        Self {
            topic: change.topic().to_owned(),
            action,
            text,
        }
    }
}

/// `topic plan`.
pub(crate) async fn plan(kafka: KafkaConfig, wish: &TopicWish) -> Result<Outcome> {
    let (_, changes, topics) = look(kafka, wish).await?;
    let exit = if changes.is_empty() {
        Exit::Done
    } else {
        Exit::Broken
    };
    let outcome = told(&changes, topics, "would change")?.ending(exit);
    Ok(outcome.with_notes(if exit == Exit::Done {
        vec![]
    } else {
        vec!["nothing was changed; onceward topic apply does it".to_owned()]
    }))
}

/// `topic apply`: all of it, or nothing if a part is refused.
pub(crate) async fn apply(kafka: KafkaConfig, wish: &TopicWish) -> Result<Outcome> {
    let (broker, changes, topics) = look(kafka, wish).await?;
    let is_refused = |change: &TopicChange| matches!(change, TopicChange::Refused { .. });
    if changes.iter().any(is_refused) {
        let outcome = told(&changes, topics, "would change")?.ending(Exit::Broken);
        let note = "nothing was changed, because not all of it can be".to_owned();
        return Ok(outcome.with_notes(vec![note]));
    }
    broker.apply_topics(changes.clone()).await?;
    told(&changes, topics, "changed")
}

async fn look(
    kafka: KafkaConfig,
    wish: &TopicWish,
) -> Result<(KafkaBroker, Vec<TopicChange>, usize)> {
    let wanted = topic_file::read(&wish.file)?;
    let (broker, topics) = (KafkaBroker::new(kafka)?, wanted.len());
    let changes = broker.plan_topics(wanted, wish.drained.clone()).await?;
    Ok((broker, changes, topics))
}

fn told(changes: &[TopicChange], topics: usize, done: &str) -> Result<Outcome> {
    let changes: Vec<Change> = changes.iter().map(Change::from).collect();
    let mut names: Vec<&str> = changes.iter().map(|change| change.topic.as_str()).collect();
    // One after the other, as they stand in the file.
    names.dedup();
    let unchanged = topics - names.len();
    let mut lines: Vec<String> = changes
        .iter()
        .map(|change| format!("{} {}: {}", change.action, change.topic, change.text))
        .collect();
    lines.push(format!(
        "{} of {topics} topics {done}, {unchanged} are as the file says",
        names.len()
    ));
    Outcome::new(lines.join("\n"), &Told { changes, unchanged })
}
