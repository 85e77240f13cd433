//! Rows to records: partition, headers, positions, and the progress that travels with them.

use std::collections::HashMap;
use std::sync::Arc;

use onceward::publisher::Records;
use onceward::source::{Batch, OutboxRow};
use onceward::{
    Cursor, IdSum, LastRow, Micros, ProgressRecord, SourceName, breach, is_topic_name,
    partition_for,
};

use super::headers::HeaderForm;
use super::topics::Topics;

/// Records of one Kafka transaction, with the progress that passes them.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) records: Arc<Records>,
    /// Index of each record's row in the slice it was made of.
    pub(super) row_of: Vec<usize>,
    pub(super) progress: ProgressRecord,
}

/// What records were made on: they are good for as long as this is so.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Base {
    position: i64,
    passed: i64,
    id_sum: IdSum,
    topics: u64,
}

impl Base {
    pub(super) fn of(standing: &ProgressRecord, topics: &Topics) -> Self {
        Self {
            position: standing.position,
            passed: standing.passed,
            id_sum: standing.id_sum,
            topics: topics.version(),
        }
    }
}

/// A whole batch made ready before its turn.
#[derive(Debug)]
pub(super) struct Ahead {
    pub(super) base: Base,
    pub(super) prepared: Prepared,
}

impl Ahead {
    /// Makes a batch ready to follow `standing`, which need not be committed yet. `None` where
    /// something about it must be looked at when its turn comes.
    pub(super) fn of(
        source: &SourceName,
        standing: &ProgressRecord,
        batch: &Batch,
        topics: &Topics,
        now: Micros,
    ) -> Option<Self> {
        if nameless(&batch.rows, |_| true).is_some() {
            return None;
        }
        let mut prepared = prepare(source, standing, &batch.rows, |_| true, topics, now).ok()?;
        pass(&mut prepared.progress, &batch.rows, batch.next());
        Some(Self {
            base: Base::of(standing, topics),
            prepared,
        })
    }
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
///
/// This runs for each row of a backlog: it allocates nothing per row, and what rows have in common
/// (their topic's place, the headers of the source) is looked up or encoded once.
pub(super) fn prepare(
    source: &SourceName,
    standing: &ProgressRecord,
    rows: &[OutboxRow],
    goes_out: impl Fn(&OutboxRow) -> bool,
    topics: &Topics,
    now: Micros,
) -> Result<Prepared, Unready> {
    let mut progress = standing.clone();
    // A replay's clean-up is done before anything else is published (see `replay`), so only its own
    // transactions need to tell of it.
    progress.replay = None;
    let mut records = Records::new(now.div_euclid(1000));
    let payload_bytes: usize = rows.iter().map(|row| row.payload().len()).sum();
    records.reserve(rows.len(), payload_bytes + rows.len() * HEADER_BYTES);
    let mut row_of = Vec::with_capacity(rows.len());
    let mut form = HeaderForm::of(source);
    let mut routes = Routes::default();
    for (index, row) in rows.iter().enumerate() {
        if !goes_out(row) {
            continue;
        }
        let route = routes
            .of(row.topic(), topics)
            .ok_or_else(|| Unready::UnknownTopic {
                index,
                topic: row.topic().to_owned(),
            })?;
        progress.position += 1;
        let partition = match row.message_key() {
            Some(key) => {
                route.pin_count(&mut progress)?;
                partition_for(key.as_bytes(), route.count)
            }
            // Without a key there is no order to keep: deal them out evenly.
            None => {
                i32::try_from(progress.position % i64::from(route.count.max(1))).unwrap_or_default()
            }
        };
        let place = route.place(partition, &progress, &mut records);
        let previous = std::mem::replace(&mut place.last_position, progress.position);
        let key = row.message_key().map(str::as_bytes);
        let position = progress.position;
        records.push(place.destination, key, row.payload(), |headers| {
            form.write(headers, row, position, previous);
        });
        row_of.push(index);
    }
    routes.store(&mut progress);
    Ok(Prepared {
        records: Arc::new(records),
        row_of,
        progress,
    })
}

/// What a record's key and headers take, about; a wrong guess costs one move of the arena.
const HEADER_BYTES: usize = 480;

/// Where the rows of a batch go: each topic looked up once.
#[derive(Default)]
struct Routes<'a> {
    routes: Vec<Route>,
    by_topic: HashMap<&'a str, usize>,
    /// Rows of one topic come in runs.
    latest: Option<(&'a str, usize)>,
}

/// A topic of the batch.
struct Route {
    topic: Arc<str>,
    count: i32,
    pinned: bool,
    /// By partition.
    places: Vec<Option<Place>>,
}

/// A partition of the batch.
struct Place {
    /// Its number in the records.
    destination: usize,
    /// Position of the last record there, 0 for none.
    last_position: i64,
}

impl<'a> Routes<'a> {
    /// `None` if the topic does not exist.
    fn of(&mut self, topic: &'a str, topics: &Topics) -> Option<&mut Route> {
        let index = match self.latest {
            Some((latest, index)) if latest == topic => index,
            _ => match self.by_topic.get(topic) {
                Some(index) => *index,
                None => {
                    let (name, count) = topics.get(topic)?;
                    self.routes.push(Route {
                        topic: name,
                        count,
                        pinned: false,
                        places: Vec::new(),
                    });
                    let index = self.routes.len() - 1;
                    self.by_topic.insert(topic, index);
                    index
                }
            },
        };
        self.latest = Some((topic, index));
        self.routes.get_mut(index)
    }

    /// Writes the last positions into the progress.
    fn store(self, progress: &mut ProgressRecord) {
        for route in self.routes {
            let positions = progress
                .partitions
                .entry(route.topic.to_string())
                .or_default();
            for (partition, place) in (0..).zip(route.places) {
                if let Some(place) = place {
                    positions.insert(partition, place.last_position);
                }
            }
        }
    }
}

impl Route {
    /// The count a keyed topic had first; another one now would send keys elsewhere.
    fn pin_count(&mut self, progress: &mut ProgressRecord) -> Result<(), Unready> {
        if self.pinned {
            return Ok(());
        }
        let now = self.count;
        match progress.partition_counts.get(&*self.topic) {
            Some(before) if *before != now && !breach::is_broken(breach::PARTITIONS_ARE_KEPT) => {
                return Err(Unready::Repartitioned {
                    topic: self.topic.to_string(),
                    before: *before,
                    now,
                });
            }
            Some(_) => {}
            None => {
                progress
                    .partition_counts
                    .insert(self.topic.to_string(), now);
            }
        }
        self.pinned = true;
        Ok(())
    }

    fn place(
        &mut self,
        partition: i32,
        progress: &ProgressRecord,
        records: &mut Records,
    ) -> &mut Place {
        let topic = &self.topic;
        let index = usize::try_from(partition).unwrap_or_default();
        if self.places.len() <= index {
            self.places.resize_with(index + 1, || None);
        }
        self.places[index].get_or_insert_with(|| {
            let known = progress.partitions.get(&**topic);
            Place {
                destination: records.add_destination(topic.clone(), partition),
                last_position: known
                    .and_then(|positions| positions.get(&partition))
                    .copied()
                    .unwrap_or(0),
            }
        })
    }
}

/// Why a row is parked whose topic [`onceward::is_topic_name`] says no to. `append` refuses it; a row
/// written by other means may have it.
pub(super) const NO_TOPIC_NAME: &str = "Kafka allows no topic of that name";

/// Index of the first row that goes out to a topic that can't exist.
pub(super) fn nameless(rows: &[OutboxRow], goes_out: impl Fn(&OutboxRow) -> bool) -> Option<usize> {
    let mut sound = None;
    rows.iter().position(|row| {
        let topic = row.topic();
        if sound == Some(topic) {
            return false;
        }
        if is_topic_name(topic) {
            sound = Some(topic);
            return false;
        }
        goes_out(row)
    })
}

/// Lets the progress pass `rows`, to `cursor`.
pub(super) fn pass(progress: &mut ProgressRecord, rows: &[OutboxRow], cursor: Cursor) {
    for row in rows {
        progress.passed += 1;
        progress.id_sum.add(row.message_id);
    }
    if let Some(row) = rows.last() {
        progress.last = Some(LastRow {
            seq: row.seq,
            message_id: row.message_id,
        });
    }
    progress.cursor = cursor;
}
