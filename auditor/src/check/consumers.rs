//! Is each record below a consumer's next offset handled, waiting or dead, and nothing else?

use std::collections::BTreeMap;

use super::{ConsumerState, Evidence, InboxState, SourceState, about, place};
use crate::{
    ConsumerWindow, DatabaseEvidence, Finding, FindingKind, OffsetRow, PartitionRange, Record,
    Report, Symbol,
};

pub(super) fn check(
    evidence: &Evidence,
    source: &SourceState,
    database: &DatabaseEvidence,
    out: &mut Report,
) {
    for (consumer, state, id, at) in &database.copies_missing {
        out.find(Finding {
            kind: FindingKind::CopyMissing,
            who: consumer.clone(),
            message_id: Some(id.clone()),
            at: Some(at.clone()),
            text: format!("the inbox says {state}, but the message itself is not kept"),
        });
    }
    let mut by_consumer: BTreeMap<&str, Vec<&OffsetRow>> = BTreeMap::new();
    for row in &database.offsets {
        by_consumer.entry(&row.consumer).or_default().push(row);
    }
    for (consumer, offsets) in by_consumer {
        let mut window = ConsumerWindow {
            consumer: consumer.to_owned(),
            ..ConsumerWindow::default()
        };
        let topics: std::collections::BTreeSet<Symbol> = offsets.iter().map(|o| o.topic).collect();
        window.topics = topics.len() as u64;
        if evidence.kafka_was_read {
            for row in &offsets {
                partition(evidence, source, database, row, &mut window, out);
            }
            without_record(evidence, database, consumer, &offsets, out);
        } else {
            count_states(database, consumer, &mut window);
        }
        out.consumers.push(window);
    }
}

/// Without Kafka the inbox alone is counted.
fn count_states(database: &DatabaseEvidence, consumer: &str, window: &mut ConsumerWindow) {
    for row in rows_of(database, consumer) {
        window.records += 1;
        count(row.state, window);
    }
}

/// All inbox rows of a consumer.
fn rows_of<'d>(
    database: &'d DatabaseEvidence,
    consumer: &str,
) -> impl Iterator<Item = &'d InboxState> {
    let by_id = database.inbox.get(consumer).into_iter();
    let by_place = database.inbox_by_place.get(consumer).into_iter();
    let by_id = by_id.flat_map(|rows| rows.values());
    by_id.chain(by_place.flat_map(|rows| rows.values()))
}

fn count(state: ConsumerState, window: &mut ConsumerWindow) {
    match state {
        ConsumerState::Handled => window.handled += 1,
        ConsumerState::Waiting => window.waiting += 1,
        ConsumerState::Dead => window.dead += 1,
        ConsumerState::Discarded => window.discarded += 1,
    }
}

fn partition(
    evidence: &Evidence,
    source: &SourceState,
    database: &DatabaseEvidence,
    row: &OffsetRow,
    window: &mut ConsumerWindow,
    out: &mut Report,
) {
    let topic = evidence.names.name(row.topic);
    let Some(range) = evidence.partitions.get(&(row.topic, row.partition)) else {
        out.find(Finding {
            kind: FindingKind::BeyondEnd,
            who: row.consumer.clone(),
            message_id: None,
            at: Some(format!("{topic}/{}@{}", row.partition, row.next_offset)),
            text: format!("{topic}/{} does not exist any more", row.partition),
        });
        return;
    };
    if row.next_offset > range.high {
        out.find(Finding {
            kind: FindingKind::BeyondEnd,
            who: row.consumer.clone(),
            message_id: None,
            at: Some(format!("{topic}/{}@{}", row.partition, row.next_offset)),
            text: format!(
                "next offset {} is beyond the end {}: the topic was made anew or lost records",
                row.next_offset, range.high
            ),
        });
    }
    for record in records_of(evidence, row.topic, row.partition) {
        if record.offset >= row.next_offset {
            window.ahead += 1;
        } else if record.offset < row.floor_offset {
            window.below_floor += 1;
        } else {
            window.records += 1;
            match state_of(database, &row.consumer, record) {
                Some(found) if found.offset == record.offset && found.topic == record.topic => {
                    count(found.state, window);
                }
                Some(_) => window.repeated += 1,
                None => {
                    let text = format!(
                        "{} is below next offset {} of {}, but has no inbox row in the database \
                         of {}",
                        place(evidence, record),
                        row.next_offset,
                        row.consumer,
                        source.name
                    );
                    let kind = FindingKind::Unhandled;
                    out.find(about(evidence, kind, &row.consumer, record, text));
                }
            }
        }
    }
}

fn state_of<'d>(
    database: &'d DatabaseEvidence,
    consumer: &str,
    record: &Record,
) -> Option<&'d InboxState> {
    let by_id = record
        .identity
        .and_then(|identity| database.inbox.get(consumer)?.get(&identity));
    by_id.or_else(|| {
        let place = (record.topic, record.partition, record.offset);
        database.inbox_by_place.get(consumer)?.get(&place)
    })
}

/// The records of one partition, by binary search in the sorted whole.
fn records_of(evidence: &Evidence, topic: Symbol, partition: i32) -> &[Record] {
    let all = &evidence.records;
    let from = all.partition_point(|r| (r.topic, r.partition) < (topic, partition));
    let to = all.partition_point(|r| (r.topic, r.partition) <= (topic, partition));
    all.get(from..to).unwrap_or_default()
}

/// An effect without a cause: an inbox row within the window whose record is not there.
fn without_record(
    evidence: &Evidence,
    database: &DatabaseEvidence,
    consumer: &str,
    offsets: &[&OffsetRow],
    out: &mut Report,
) {
    for row in rows_of(database, consumer) {
        let Some(offset) = offsets
            .iter()
            .find(|o| o.topic == row.topic && o.partition == row.partition)
        else {
            continue;
        };
        let Some(range) = evidence.partitions.get(&(row.topic, row.partition)) else {
            continue;
        };
        if !within(row.offset, offset, range) {
            continue;
        }
        let records = records_of(evidence, row.topic, row.partition);
        if records
            .binary_search_by_key(&row.offset, |r| r.offset)
            .is_err()
        {
            let topic = evidence.names.name(row.topic);
            let at = format!("{topic}/{}@{}", row.partition, row.offset);
            out.find(Finding {
                kind: FindingKind::WithoutRecord,
                who: consumer.to_owned(),
                message_id: None,
                text: format!("the inbox has a row for {at}, where no committed record is"),
                at: Some(at),
            });
        }
    }
}

fn within(offset: i64, row: &OffsetRow, range: &PartitionRange) -> bool {
    let lower = range.low.max(row.floor_offset);
    let upper = range.end.min(row.next_offset);
    (lower..upper).contains(&offset)
}
