//! Rows to records: partition, headers, positions, and the progress that travels with them.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use onceward::publisher::OutgoingRecord;
use onceward::source::OutboxRow;
use onceward::{Cursor, LastRow, Micros, ProgressRecord, SourceName, header, partition_for};

use super::topics::Topics;

/// Records of one Kafka transaction, with the progress that passes them.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) records: Vec<OutgoingRecord>,
    /// Index of each record's row in the slice it was made of.
    pub(super) row_of: Vec<usize>,
    pub(super) progress: ProgressRecord,
}

/// Why rows can't become records.
#[derive(Debug)]
pub(super) enum Unready {
    /// The topic of row `index` does not exist. Rows before it could go.
    UnknownTopic { index: usize, topic: String },
    /// A keyed topic has another partition count than when it was first published to.
    Repartitioned {
        topic: String,
        before: i32,
        now: i32,
    },
}

/// Makes records of the rows that `goes_out` says yes to, dated `now`: were they dated by
/// `occurred_at` (which travels as `ce_time`), retention would delete a row that is published late, and
/// `message.timestamp.before.max.ms` would refuse it.
pub(super) fn prepare<'a>(
    source: &SourceName,
    standing: &ProgressRecord,
    rows: impl Iterator<Item = &'a OutboxRow>,
    goes_out: impl Fn(&OutboxRow) -> bool,
    topics: &Topics,
    now: Micros,
) -> Result<Prepared, Unready> {
    let mut progress = standing.clone();
    // A replay's clean-up is done before anything else is published (see `replay`), so only its own
    // transactions need to tell of it.
    progress.replay = None;
    let mut records = Vec::new();
    let mut row_of = Vec::new();
    let source_value = Bytes::copy_from_slice(source.as_str().as_bytes());
    for (index, row) in rows.enumerate() {
        if !goes_out(row) {
            continue;
        }
        let Some((topic, count)) = topics.get(&row.topic) else {
            return Err(Unready::UnknownTopic {
                index,
                topic: row.topic.clone(),
            });
        };
        progress.position += 1;
        let partition = match &row.message_key {
            Some(key) => {
                pin_count(&mut progress, &topic, count)?;
                partition_for(key.as_bytes(), count)
            }
            // Without a key there is no order to keep: deal them out evenly.
            None => i32::try_from(progress.position % i64::from(count.max(1))).unwrap_or_default(),
        };
        let previous = last_position(&mut progress, &topic, partition);
        records.push(OutgoingRecord {
            headers: headers(row, &source_value, progress.position, previous),
            topic,
            partition,
            key: row
                .message_key
                .as_ref()
                .map(|key| Bytes::copy_from_slice(key.as_bytes())),
            payload: Bytes::copy_from_slice(&row.payload),
            timestamp_ms: now.div_euclid(1000),
        });
        row_of.push(index);
    }
    Ok(Prepared {
        records,
        row_of,
        progress,
    })
}

/// Why a row is parked that [`is_topic_name`] says no to.
pub(super) const NO_TOPIC_NAME: &str = "Kafka allows no topic of that name";

/// Whether Kafka would allow a topic of this name.
pub(super) fn is_topic_name(name: &str) -> bool {
    (1..=249).contains(&name.len())
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Lets the progress pass `rows`, to `cursor`.
pub(super) fn pass<'a>(
    progress: &mut ProgressRecord,
    rows: impl Iterator<Item = &'a OutboxRow>,
    cursor: Cursor,
) {
    for row in rows {
        progress.passed += 1;
        progress.id_sum.add(row.message_id);
        progress.last = Some(LastRow {
            seq: row.seq,
            message_id: row.message_id,
        });
    }
    progress.cursor = cursor;
}

/// The count a keyed topic had first; another one now would send keys elsewhere.
fn pin_count(progress: &mut ProgressRecord, topic: &Arc<str>, now: i32) -> Result<(), Unready> {
    match progress.partition_counts.get(&**topic) {
        Some(before) if *before != now => Err(Unready::Repartitioned {
            topic: topic.to_string(),
            before: *before,
            now,
        }),
        Some(_) => Ok(()),
        None => {
            progress.partition_counts.insert(topic.to_string(), now);
            Ok(())
        }
    }
}

/// Position of the last record in the partition (0 for none); the current one takes its place.
fn last_position(progress: &mut ProgressRecord, topic: &Arc<str>, partition: i32) -> i64 {
    let position = progress.position;
    if !progress.partitions.contains_key(&**topic) {
        progress
            .partitions
            .insert(topic.to_string(), BTreeMap::new());
    }
    progress
        .partitions
        .get_mut(&**topic)
        .and_then(|partitions| partitions.insert(partition, position))
        .unwrap_or(0)
}

struct Names {
    specversion: Arc<str>,
    id: Arc<str>,
    source: Arc<str>,
    message_type: Arc<str>,
    time: Arc<str>,
    subject: Arc<str>,
    aggregate_type: Arc<str>,
    format: Arc<str>,
    position: Arc<str>,
    previous: Arc<str>,
    stored: [Arc<str>; 6],
}

static NAMES: LazyLock<Names> = LazyLock::new(|| Names {
    specversion: header::CE_SPECVERSION.into(),
    id: header::CE_ID.into(),
    source: header::CE_SOURCE.into(),
    message_type: header::CE_TYPE.into(),
    time: header::CE_TIME.into(),
    subject: header::CE_SUBJECT.into(),
    aggregate_type: header::AGGREGATE_TYPE.into(),
    format: header::HEADER_FORMAT.into(),
    position: header::POSITION.into(),
    previous: header::PREVIOUS_POSITION.into(),
    stored: [
        header::CONTENT_TYPE.into(),
        header::KIND.into(),
        header::CORRELATION_ID.into(),
        header::CAUSATION_ID.into(),
        header::TRACEPARENT.into(),
        header::TRACESTATE.into(),
    ],
});

fn headers(
    row: &OutboxRow,
    source: &Bytes,
    position: i64,
    previous: i64,
) -> Vec<(Arc<str>, Bytes)> {
    let names = &*NAMES;
    let mut out = Vec::with_capacity(16);
    out.push((
        names.specversion.clone(),
        Bytes::from_static(header::CE_SPECVERSION_VALUE.as_bytes()),
    ));
    out.push((names.id.clone(), text(row.message_id.to_string())));
    out.push((names.source.clone(), source.clone()));
    out.push((names.message_type.clone(), text(row.message_type.clone())));
    if let Some(time) = rfc3339(row.occurred_at) {
        out.push((names.time.clone(), text(time)));
    }
    out.push((names.subject.clone(), text(row.aggregate_id.clone())));
    out.push((
        names.aggregate_type.clone(),
        text(row.aggregate_type.clone()),
    ));
    out.push((
        names.format.clone(),
        Bytes::from_static(header::FORMAT.as_bytes()),
    ));
    out.push((names.position.clone(), text(position.to_string())));
    out.push((names.previous.clone(), text(previous.to_string())));
    // Written by `append`, which refuses our names; a row somebody wrote by hand may hold anything,
    // and a header that can't be read is no reason to withhold the message.
    let stored: BTreeMap<String, String> = serde_json::from_str(&row.headers).unwrap_or_default();
    for (name, value) in stored {
        if name.starts_with("ce_") || (name.starts_with("onceward-") && name != header::KIND) {
            continue;
        }
        let shared = names.stored.iter().find(|known| ***known == *name);
        out.push((
            shared.cloned().unwrap_or_else(|| Arc::from(name)),
            text(value),
        ));
    }
    out
}

fn text(value: String) -> Bytes {
    Bytes::from(value.into_bytes())
}

/// `2026-01-31T12:00:00.000001Z`; `None` outside the years 0 to 9999.
fn rfc3339(at: Micros) -> Option<String> {
    let time = jiff::Timestamp::from_microsecond(at).ok()?;
    Some(format!("{time:.6}"))
}
