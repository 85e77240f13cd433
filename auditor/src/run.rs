//! Reads everything in the order that makes the judgement hold, then judges.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::Result;

use crate::check::{Evidence, PartitionRange, SourceState, check};
use crate::{KafkaReader, Report, Symbol, read_database};

/// A database with its source name.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    /// Source name, as in `outbox.progress.<name>`.
    pub name: String,
    /// `sqlite:…` or `postgres:…`.
    pub url: String,
}

/// Without the URL: it may hold a password.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.name).finish()
    }
}

/// What to audit.
#[derive(Clone, Default)]
pub struct Audit {
    /// Kafka client settings, at least `bootstrap.servers`; empty = the databases alone.
    pub kafka: Vec<(String, String)>,
    /// The databases.
    pub sources: Vec<Source>,
    /// Better words than the driver's for why the database of this URL can't be read.
    pub explain: Option<Explain>,
}

/// See [`Audit::explain`].
pub type Explain = fn(&str, anyhow::Error) -> anyhow::Error;

/// Without the settings' values: they hold the password.
impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kafka: Vec<&str> = self.kafka.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Audit")
            .field("kafka", &kafka)
            .field("sources", &self.sources)
            .finish()
    }
}

impl Audit {
    /// An audit of these databases against the Kafka at `host:port`.
    pub fn new(bootstrap: &str, sources: impl IntoIterator<Item = Source>) -> Self {
        Self {
            kafka: vec![("bootstrap.servers".to_owned(), bootstrap.to_owned())],
            sources: sources.into_iter().collect(),
            explain: None,
        }
    }
}

/// Reads and judges. What can't be read is named in the report, never an error: the rest is still
/// judged. Takes about 100 bytes of memory per record, row and inbox row.
pub async fn audit(audit: &Audit) -> Result<Report> {
    let mut evidence = Evidence::default();
    let settings = audit.kafka.clone();
    let names: Vec<String> = audit.sources.iter().map(|s| s.name.clone()).collect();
    let first = tokio::task::spawn_blocking(move || first_look(&settings, &names)).await?;
    let (reader, progress) = match first {
        Ok((reader, progress)) => (Some(reader), progress),
        Err(error) => {
            evidence.unreadable.push(format!("Kafka: {error:#}"));
            (None, vec![None; audit.sources.len()])
        }
    };
    for (source, progress) in audit.sources.iter().zip(progress) {
        let read = read_database(&source.url, progress.as_ref(), &mut evidence.names).await;
        let database = match read {
            Ok(database) => Some(database),
            Err(error) => {
                let error = match audit.explain {
                    Some(explain) => explain(&source.url, error),
                    None => error,
                };
                let what = format!("database of {}: {error:#}", source.name);
                evidence.unreadable.push(what);
                None
            }
        };
        evidence.sources.push(SourceState {
            name: source.name.clone(),
            last_position: progress.as_ref().map_or(0, |p| p.position),
            progress,
            database,
        });
    }
    if let Some(reader) = reader {
        evidence = tokio::task::spawn_blocking(move || {
            if let Err(error) = read_topics(&reader, &mut evidence) {
                evidence.unreadable.push(format!("Kafka: {error:#}"));
                evidence.kafka_was_read = false;
            }
            evidence
        })
        .await?;
    }
    Ok(tokio::task::spawn_blocking(move || check(evidence)).await?)
}

type FirstLook = (KafkaReader, Vec<Option<crate::ProgressView>>);

fn first_look(settings: &[(String, String)], names: &[String]) -> Result<FirstLook> {
    anyhow::ensure!(!settings.is_empty(), "no brokers given");
    let reader = KafkaReader::connect(settings)?;
    let progress = names.iter().map(|name| reader.progress(name));
    let progress = progress.collect::<Result<Vec<_>>>()?;
    Ok((reader, progress))
}

fn read_topics(reader: &KafkaReader, evidence: &mut Evidence) -> Result<()> {
    let mut topics: BTreeSet<Symbol> = BTreeSet::new();
    for source in &evidence.sources {
        if let Some(database) = &source.database {
            topics.extend(database.rows.iter().map(|r| r.topic));
            topics.extend(database.offsets.iter().map(|o| o.topic));
        }
        for topic in source.progress.iter().flat_map(|p| p.partitions.keys()) {
            topics.insert(evidence.names.intern(topic));
        }
    }
    // All marks first, so that they are one moment as nearly as may be.
    let mut bounds = vec![];
    for topic in topics {
        let name = evidence.names.name(topic).to_owned();
        for partition in 0..reader.partition_count(&name)? {
            bounds.push((
                topic,
                name.clone(),
                partition,
                reader.bounds(&name, partition)?,
            ));
        }
    }
    for (topic, name, partition, bound) in bounds {
        let end = reader.records(
            &name,
            partition,
            bound,
            &mut evidence.names,
            &mut evidence.records,
        )?;
        let range = PartitionRange {
            low: bound.low,
            end,
            high: bound.high,
        };
        evidence.partitions.insert((topic, partition), range);
    }
    for source in &mut evidence.sources {
        if let Some(progress) = reader.progress(&source.name)? {
            source.last_position = source.last_position.max(progress.position);
        }
    }
    evidence.kafka_was_read = true;
    Ok(())
}
