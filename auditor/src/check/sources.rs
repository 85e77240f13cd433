//! Is each row published exactly once, in order, unchanged, and nothing else?

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Evidence, SourceState, about, place};
use crate::{
    DatabaseEvidence, Finding, FindingKind, Identity, OutboxRow, ProgressView, Record, Report,
    SourceWindow, Symbol,
};

type Index = HashMap<Identity, Vec<u32>>;

pub(super) fn check(evidence: &Evidence, source: &SourceState, index: &Index, out: &mut Report) {
    let mut window = SourceWindow {
        source: source.name.clone(),
        ..SourceWindow::default()
    };
    let name = source.name.as_str();
    let own: Vec<&Record> = evidence
        .records
        .iter()
        .filter(|r| r.source.is_some_and(|s| evidence.names.name(s) == name))
        .collect();
    window.records = own.len() as u64;
    let upper = source.progress.as_ref().map_or(0, |p| p.position);
    window.position = upper;
    if evidence.kafka_was_read {
        let lower = lower_position(evidence, source.progress.as_ref(), &own);
        window.lower_position = lower;
        positions(evidence, name, &own, lower, upper, out);
        chain(evidence, name, &own, out);
        doubled(evidence, name, &own, index, out);
    }
    if let Some(database) = &source.database {
        let mirrored = database
            .mirror
            .as_ref()
            .map_or(0, |(_, position)| *position);
        if evidence.kafka_was_read {
            identity(source, database, mirrored, out);
        } else {
            window.position = mirrored;
        }
        window.floor_seq = database.floor_seq;
        window.rows = database.rows.len() as u64;
        window.discarded = database.parked.values().filter(|d| **d).count() as u64;
        window.parked = database.parked.len() as u64 - window.discarded;
        rows(evidence, source, database, index, &mut window, out);
        if evidence.kafka_was_read {
            foreign(evidence, source, database, &own, &mut window, out);
            key_order(evidence, name, database, index, out);
        }
    }
    out.sources.push(window);
}

/// Progress and database must speak of the same outbox.
fn identity(source: &SourceState, database: &DatabaseEvidence, mirrored: i64, out: &mut Report) {
    let mut find = |text: String| {
        out.find(Finding {
            kind: FindingKind::Identity,
            who: source.name.clone(),
            message_id: None,
            at: None,
            text,
        });
    };
    if database.source_name != source.name {
        find(format!(
            "this database is source {:?}",
            database.source_name
        ));
    }
    // As it was read after the database: meanwhile a relay has moved both on.
    let position = source.last_position;
    if position < mirrored {
        find(format!(
            "progress in Kafka stands at position {position}, the database knows of {mirrored}: \
             Kafka lost it, or is another cluster"
        ));
    }
    if let Some(progress) = &source.progress {
        if database.source_id != Some(progress.source_id) {
            find(format!(
                "progress in Kafka belongs to outbox {}, this database is {}",
                progress.source_id,
                database.source_id.unwrap_or_default()
            ));
        }
        if database.epoch != progress.epoch {
            find(format!(
                "progress in Kafka has epoch {}, the database {}: a reset is unfinished, or the \
                 database was restored",
                progress.epoch, database.epoch
            ));
        }
    }
}

/// Highest position that log retention may have taken.
fn lower_position(evidence: &Evidence, progress: Option<&ProgressView>, own: &[&Record]) -> i64 {
    let mut lower = 0;
    for ((topic, partition), range) in &evidence.partitions {
        if range.low == 0 {
            continue;
        }
        let first = own
            .iter()
            .find(|r| r.topic == *topic && r.partition == *partition);
        let taken = match first {
            Some(record) => record.previous.unwrap_or(0),
            None => progress
                .and_then(|p| {
                    p.partitions
                        .get(evidence.names.name(*topic))?
                        .get(partition)
                })
                .copied()
                .unwrap_or(0),
        };
        lower = lower.max(taken);
    }
    lower
}

/// Every position in (lower, upper] belongs to exactly one record.
fn positions(
    evidence: &Evidence,
    name: &str,
    own: &[&Record],
    lower: i64,
    upper: i64,
    out: &mut Report,
) {
    let mut found: Vec<(i64, &Record)> = own
        .iter()
        .filter_map(|r| r.position.map(|p| (p, *r)))
        .filter(|(p, _)| *p > lower)
        .collect();
    found.sort_unstable_by_key(|(p, r)| (*p, r.topic, r.partition, r.offset));
    let gap = |from: i64, to: i64, out: &mut Report| {
        let range = if from == to {
            format!("position {from} belongs")
        } else {
            format!("positions {from} to {to} belong")
        };
        out.find(Finding {
            kind: FindingKind::PositionGap,
            who: name.to_owned(),
            message_id: None,
            at: None,
            text: format!("{range} to no record, though progress stands at {upper}"),
        });
    };
    let mut expected = lower + 1;
    let mut previous: Option<(i64, &Record)> = None;
    for (position, record) in found {
        if let Some((p, before)) = previous
            && p == position
        {
            let text = format!(
                "position {position} is claimed by {} and {}",
                place(evidence, before),
                place(evidence, record)
            );
            let kind = FindingKind::PositionDoubled;
            out.find(about(evidence, kind, name, record, text));
            continue;
        }
        if position <= upper && position > expected {
            gap(expected, position - 1, out);
        }
        if position <= upper {
            expected = position + 1;
        }
        previous = Some((position, record));
    }
    if expected <= upper {
        gap(expected, upper, out);
    }
}

/// Within a partition each record names the position of the one before it.
fn chain(evidence: &Evidence, name: &str, own: &[&Record], out: &mut Report) {
    let mut before: HashMap<(Symbol, i32), i64> = HashMap::new();
    for record in own {
        let Some(position) = record.position else {
            continue;
        };
        let partition = (record.topic, record.partition);
        let trimmed = evidence
            .partitions
            .get(&partition)
            .is_some_and(|r| r.low > 0);
        let expected = match before.insert(partition, position) {
            Some(p) => Some(p),
            None if trimmed => None,
            None => Some(0),
        };
        if let Some(expected) = expected {
            if position < expected {
                let text = format!(
                    "{} has position {position}, but stands behind position {expected}",
                    place(evidence, record)
                );
                out.find(about(evidence, FindingKind::Reordered, name, record, text));
            } else if let Some(previous) = record.previous
                && previous != expected
            {
                let text = format!(
                    "{} says the record before it has position {previous}, but that has {expected}",
                    place(evidence, record)
                );
                out.find(about(
                    evidence,
                    FindingKind::ChainBroken,
                    name,
                    record,
                    text,
                ));
            }
        }
    }
}

fn doubled(evidence: &Evidence, name: &str, own: &[&Record], index: &Index, out: &mut Report) {
    for record in own {
        let Some(places) = record.identity.and_then(|i| index.get(&i)) else {
            continue;
        };
        let at = |number: &u32| record_at(evidence, *number).map(|r| place(evidence, r));
        // Told once, at the last of them.
        if places.len() > 1 && places.last().and_then(at) == Some(place(evidence, record)) {
            let all: Vec<String> = places.iter().filter_map(at).collect();
            let text = format!("published {} times: {}", all.len(), all.join(", "));
            out.find(about(evidence, FindingKind::Doubled, name, record, text));
        }
    }
}

fn record_at(evidence: &Evidence, number: u32) -> Option<&Record> {
    evidence.records.get(usize::try_from(number).ok()?)
}

fn record_of<'e>(
    evidence: &'e Evidence,
    name: &str,
    index: &Index,
    row: &OutboxRow,
) -> Option<&'e Record> {
    let identity = Identity::new(name, &row.uuid.to_string());
    record_at(evidence, *index.get(&identity)?.first()?)
}

/// Each row is published exactly once, parked, or pending.
fn rows(
    evidence: &Evidence,
    source: &SourceState,
    database: &DatabaseEvidence,
    index: &Index,
    window: &mut SourceWindow,
    out: &mut Report,
) {
    let name = source.name.as_str();
    // (topic, key) with a record already: later rows of the key can't have been taken by
    // retention, because a key stays in one partition and in order.
    let mut seen: HashSet<(Symbol, u64)> = HashSet::new();
    for row in &database.rows {
        if !evidence.kafka_was_read {
            match (row.passed, database.parked.contains_key(&row.uuid)) {
                (false, _) => window.pending += 1,
                (true, false) => window.published += 1,
                (true, true) => {}
            }
            continue;
        }
        if let Some(record) = record_of(evidence, name, index, row) {
            window.published += 1;
            seen.insert((row.topic, row.key));
            unchanged(evidence, name, row, record, out);
        } else if database.parked.contains_key(&row.uuid) {
            // Counted with the dead letters.
        } else if !row.passed {
            window.pending += 1;
        } else if row.keyed && seen.contains(&(row.topic, row.key)) || untrimmed(evidence, row) {
            out.find(Finding {
                kind: FindingKind::Lost,
                who: name.to_owned(),
                message_id: Some(row.uuid.to_string()),
                at: None,
                text: format!(
                    "row {} for {} was passed by the relay, but its record is not there",
                    row.seq,
                    evidence.names.name(row.topic)
                ),
            });
        } else {
            window.trimmed += 1;
        }
    }
}

/// Whether the row's topic has all its records, and was read to its end.
fn untrimmed(evidence: &Evidence, row: &OutboxRow) -> bool {
    let first = (row.topic, i32::MIN);
    let last = (row.topic, i32::MAX);
    let mut partitions = evidence.partitions.range(first..=last);
    partitions.all(|(_, range)| range.low == 0 && range.end == range.high)
}

fn unchanged(evidence: &Evidence, name: &str, row: &OutboxRow, record: &Record, out: &mut Report) {
    let what = if record.topic != row.topic {
        "topic"
    } else if record.key != row.key {
        "key"
    } else if record.payload != row.payload {
        "payload"
    } else {
        return;
    };
    let text = format!(
        "the {what} of {} is not that of row {}",
        place(evidence, record),
        row.seq
    );
    out.find(about(evidence, FindingKind::Changed, name, record, text));
}

/// Each record of this source has its row, or is outside the window.
fn foreign(
    evidence: &Evidence,
    source: &SourceState,
    database: &DatabaseEvidence,
    own: &[&Record],
    window: &mut SourceWindow,
    out: &mut Report,
) {
    let name = source.name.as_str();
    let rows: HashSet<Identity> = database
        .rows
        .iter()
        .map(|row| row.uuid)
        .chain(database.parked.keys().copied())
        .map(|uuid| Identity::new(name, &uuid.to_string()))
        .collect();
    for record in own {
        if record.identity.is_some_and(|i| rows.contains(&i)) {
            continue;
        }
        let why = match record.position {
            None => "has no position",
            Some(p) if p < 1 => "has no possible position",
            Some(p) if p > source.last_position => "has a position that was never given",
            Some(p) if p > window.position => {
                window.newer += 1;
                continue;
            }
            Some(_) if database.floor_seq > 0 => {
                window.purged += 1;
                continue;
            }
            Some(_) => "has no row",
        };
        let text = format!(
            "{} claims to come from {name}, but {why} there",
            place(evidence, record)
        );
        out.find(about(evidence, FindingKind::Foreign, name, record, text));
    }
}

/// Records of one (topic, key) stand in one partition and in the order of their rows.
fn key_order(
    evidence: &Evidence,
    name: &str,
    database: &DatabaseEvidence,
    index: &Index,
    out: &mut Report,
) {
    let mut last: BTreeMap<(Symbol, u64), (i64, &Record)> = BTreeMap::new();
    for row in database.rows.iter().filter(|row| row.keyed) {
        let Some(record) = record_of(evidence, name, index, row) else {
            continue;
        };
        let Some((seq, before)) = last.insert((row.topic, row.key), (row.seq, record)) else {
            continue;
        };
        if before.partition != record.partition {
            let text = format!(
                "rows {seq} and {} have one key, but are in {} and {}",
                row.seq,
                place(evidence, before),
                place(evidence, record)
            );
            out.find(about(evidence, FindingKind::KeyMoved, name, record, text));
        } else if before.offset > record.offset {
            let text = format!(
                "rows {seq} and {} have one key, but stand at {} and {}",
                row.seq,
                place(evidence, before),
                place(evidence, record)
            );
            out.find(about(evidence, FindingKind::Reordered, name, record, text));
        }
    }
}
