//! The judgement: pure functions over what was read.

mod consumers;
mod sources;

use std::collections::{BTreeMap, HashMap};

use crate::{
    DatabaseEvidence, Finding, FindingKind, Interner, ProgressView, Record, Report, Symbol,
    TopicWindow,
};

/// State of an inbox row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboxState {
    /// Topic of the record it was claimed for.
    pub topic: Symbol,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// What became of it.
    pub state: ConsumerState,
}

/// What became of a message in a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumerState {
    /// Its effect is applied.
    Handled,
    /// To be tried again, or queueing behind one that is.
    Waiting,
    /// Refused or out of attempts.
    Dead,
    /// Given up by an operator.
    Discarded,
}

impl std::str::FromStr for ConsumerState {
    type Err = anyhow::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "handled" => Ok(Self::Handled),
            "waiting" => Ok(Self::Waiting),
            "dead" => Ok(Self::Dead),
            "discarded" => Ok(Self::Discarded),
            other => anyhow::bail!("inbox state {other:?} is unknown"),
        }
    }
}

/// One source: its progress before and after the reading, and its database.
#[derive(Debug, Clone, Default)]
pub struct SourceState {
    /// Name it was given by.
    pub name: String,
    /// Progress read first: the upper bound. `None` before the first publication.
    pub progress: Option<ProgressView>,
    /// Progress position read last: no record can be above it.
    pub last_position: i64,
    /// The database; `None` if it could not be read.
    pub database: Option<DatabaseEvidence>,
}

/// A partition as far as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionRange {
    /// First offset there is; above 0 retention took records.
    pub low: i64,
    /// Read up to, exclusive.
    pub end: i64,
    /// High watermark at the time.
    pub high: i64,
}

/// All that was read.
#[derive(Debug, Default)]
pub struct Evidence {
    /// Names of topics and sources.
    pub names: Interner,
    /// The sources.
    pub sources: Vec<SourceState>,
    /// The partitions.
    pub partitions: BTreeMap<(Symbol, i32), PartitionRange>,
    /// Their committed records.
    pub records: Vec<Record>,
    /// Whether topics were read at all.
    pub kafka_was_read: bool,
    /// What could not be read.
    pub unreadable: Vec<String>,
}

/// Judges. Sorts the records by topic, partition and offset; needs no more memory than that and
/// one index of the records.
pub fn check(mut evidence: Evidence) -> Report {
    evidence
        .records
        .sort_unstable_by_key(|r| (r.topic, r.partition, r.offset));
    let mut report = Report {
        unreadable: std::mem::take(&mut evidence.unreadable),
        ..Report::default()
    };
    windows(&evidence, &mut report);
    let mut index: HashMap<_, Vec<u32>> = HashMap::with_capacity(evidence.records.len());
    for (number, record) in evidence.records.iter().enumerate() {
        if let (Some(identity), Ok(number)) = (record.identity, u32::try_from(number)) {
            index.entry(identity).or_default().push(number);
        }
    }
    let known: Vec<&str> = evidence.sources.iter().map(|s| s.name.as_str()).collect();
    for source in &evidence.sources {
        sources::check(&evidence, source, &index, &mut report);
        if let Some(database) = &source.database {
            consumers::check(&evidence, source, database, &mut report);
        }
    }
    strangers(&evidence, &known, &mut report);
    report.judged()
}

/// Notes records of nobody we know: allowed, but worth a look.
fn strangers(evidence: &Evidence, known: &[&str], report: &mut Report) {
    let mut by_topic: BTreeMap<Symbol, (u64, String)> = BTreeMap::new();
    for record in &evidence.records {
        let ours = record
            .source
            .is_some_and(|s| known.contains(&evidence.names.name(s)));
        if !ours {
            let place = place(evidence, record);
            by_topic.entry(record.topic).or_insert((0, place)).0 += 1;
        }
    }
    for (topic, (count, first)) in by_topic {
        report.notes.push(format!(
            "{count} records in {} come from no source named here, first {first}",
            evidence.names.name(topic)
        ));
    }
}

fn windows(evidence: &Evidence, report: &mut Report) {
    let mut counts: HashMap<(Symbol, i32), u64> = HashMap::new();
    for record in &evidence.records {
        *counts.entry((record.topic, record.partition)).or_default() += 1;
    }
    for ((topic, partition), range) in &evidence.partitions {
        let name = evidence.names.name(*topic);
        report.topics.push(TopicWindow {
            topic: name.to_owned(),
            partition: *partition,
            low: range.low,
            end: range.end,
            high: range.high,
            records: counts.get(&(*topic, *partition)).copied().unwrap_or(0),
        });
        if range.end < range.high {
            report.unreadable.push(format!(
                "{name}/{partition}: a transaction stays open at offset {}, {} offsets above it \
                 can't be read",
                range.end,
                range.high - range.end
            ));
        }
    }
    report
        .topics
        .sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
}

fn place(evidence: &Evidence, record: &Record) -> String {
    format!(
        "{}/{}@{}",
        evidence.names.name(record.topic),
        record.partition,
        record.offset
    )
}

/// A finding about a record.
fn about(
    evidence: &Evidence,
    kind: FindingKind,
    who: &str,
    record: &Record,
    text: String,
) -> Finding {
    Finding {
        kind,
        who: who.to_owned(),
        message_id: record.uuid.map(|id| id.to_string()),
        at: Some(place(evidence, record)),
        text,
    }
}
