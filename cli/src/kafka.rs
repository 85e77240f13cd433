//! Kafka, if it answers, for the commands that can do without it.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use anyhow::{Result, bail};
use auditor::{KafkaReader, PartitionEnd, ProgressView};
use onceward::PartitionPositions;
use onceward::header::{CE_ID, CE_SOURCE, POSITION};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use uuid::Uuid;

use crate::locate::Place;

/// Client settings of a place.
pub(crate) fn settings(place: &Place) -> Result<Vec<(String, String)>> {
    let Some(config) = &place.kafka else {
        bail!("no address is known, see --kafka HOST:PORT");
    };
    let client = config.client_config()?;
    // Its map has a placeholder where a password is; one by one they come as they are.
    let names = client.config_map().into_keys();
    let pairs = names.filter_map(|name| Some((name.to_owned(), client.get(name)?.to_owned())));
    Ok(pairs.collect())
}

/// A glance does not wait for a transaction that hangs.
const PATIENCE: Duration = Duration::from_millis(500);

/// What Kafka says of these sources and partitions in one go.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// Source → its committed progress.
    pub progress: BTreeMap<String, ProgressView>,
    /// (topic, partition) → bounds.
    pub bounds: BTreeMap<(String, i32), PartitionEnd>,
}

/// Asks; on failure says why.
async fn ask<T: Send + 'static>(
    place: &Place,
    question: impl FnOnce(&KafkaReader) -> Result<T> + Send + 'static,
) -> Result<T, String> {
    let settings = settings(place).map_err(|e| format!("{e:#}"))?;
    let asking = move || question(&KafkaReader::connect(&settings)?.with_patience(PATIENCE));
    match tokio::task::spawn_blocking(asking).await {
        Ok(answer) => answer.map_err(|error| format!("{error:#}")),
        Err(panicked) => Err(panicked.to_string()),
    }
}

/// Looks at sources and partitions; on failure says why.
pub(crate) async fn look(
    place: &Place,
    sources: Vec<String>,
    partitions: Vec<(String, i32)>,
) -> Result<Look, String> {
    ask(place, move |reader| {
        let mut look = Look::default();
        for source in sources {
            if let Some(progress) = reader.progress(&source)? {
                look.progress.insert(source, progress);
            }
        }
        for (topic, partition) in partitions {
            if let Ok(bounds) = reader.bounds(&topic, partition) {
                look.bounds.insert((topic, partition), bounds);
            }
        }
        Ok(look)
    })
    .await
}

/// A record to look for.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub message_id: Uuid,
    pub topic: String,
    pub key: Option<String>,
    /// Microseconds.
    pub occurred_at: i64,
}

/// Records to look at per partition before giving up: a few seconds' work.
const LOOK_AT_MOST: i64 = 100_000;

/// Finds records by their `ce_id`, from a second before they were written on.
pub(crate) async fn find(
    place: &Place,
    wanted: Vec<Wanted>,
) -> Result<Vec<(Uuid, String)>, String> {
    if wanted.is_empty() {
        return Ok(vec![]);
    }
    ask(place, move |reader| {
        let mut found = vec![];
        for (topic, partition, ids, since) in by_partition(reader, &wanted)? {
            let Some(from) = reader.offset_at(&topic, partition, since / 1000 - 1000)? else {
                continue;
            };
            let high = reader.bounds(&topic, partition)?.high;
            let end = high.min(from.saturating_add(LOOK_AT_MOST));
            reader.read(&topic, partition, from, end, |message| {
                if let Some(id) = ce_id(message).filter(|id| ids.contains(id)) {
                    found.push((id, format!("{topic}/{partition}@{}", message.offset())));
                }
                Ok(())
            })?;
        }
        Ok(found)
    })
    .await
}

/// A partition to look into: topic, partition, ids that may be there, time of the oldest.
type Search = (String, i32, HashSet<Uuid>, i64);

fn by_partition(reader: &KafkaReader, wanted: &[Wanted]) -> Result<Vec<Search>> {
    let mut searches: BTreeMap<(String, i32), (HashSet<Uuid>, i64)> = BTreeMap::new();
    for one in wanted {
        let count = reader.partition_count(&one.topic)?;
        // Without a key it may be anywhere.
        let partitions = match &one.key {
            Some(key) if count > 0 => {
                let partition = onceward::partition_for(key.as_bytes(), count);
                partition..partition + 1
            }
            _ => 0..count,
        };
        for partition in partitions {
            let search = searches
                .entry((one.topic.clone(), partition))
                .or_insert_with(|| (HashSet::new(), one.occurred_at));
            search.0.insert(one.message_id);
            search.1 = search.1.min(one.occurred_at);
        }
    }
    let flat = searches
        .into_iter()
        .map(|((t, p), (ids, since))| (t, p, ids, since));
    Ok(flat.collect())
}

/// What the records of a source say of it, where its progress is gone.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// The highest position.
    pub position: i64,
    /// That of the last record in each partition.
    pub partitions: PartitionPositions,
    /// How many partitions each topic has.
    pub partition_counts: BTreeMap<String, i32>,
}

/// Records to read at first from the end of a partition; ten times as many each time that none is the
/// source's.
const FIRST_STRETCH: i64 = 1_000;

/// Looks for the last record of a source in each partition of these topics, those that exist.
pub(crate) async fn ends(place: &Place, source: &str, topics: Vec<String>) -> Result<Ends, String> {
    let source = source.to_owned();
    ask(place, move |reader| {
        let mut ends = Ends::default();
        for topic in topics {
            let count = reader.partition_count(&topic)?;
            for partition in 0..count {
                if let Some(last) = last_position(reader, &source, &topic, partition)? {
                    let positions = ends.partitions.entry(topic.clone()).or_default();
                    positions.insert(partition, last);
                    ends.position = ends.position.max(last);
                }
            }
            if ends.partitions.contains_key(&topic) {
                ends.partition_counts.insert(topic, count);
            }
        }
        Ok(ends)
    })
    .await
}

fn last_position(
    reader: &KafkaReader,
    source: &str,
    topic: &str,
    partition: i32,
) -> Result<Option<i64>> {
    let PartitionEnd { low, high } = reader.bounds(topic, partition)?;
    let (mut end, mut stretch) = (high, FIRST_STRETCH);
    while end > low {
        let from = end.saturating_sub(stretch).max(low);
        let mut last = None;
        let came = reader.read(topic, partition, from, end, |message| {
            if header(message, CE_SOURCE) == Some(source) {
                last = header(message, POSITION).and_then(|position| position.parse().ok());
            }
            Ok(())
        })?;
        if came < end {
            bail!("a transaction is open in {topic}/{partition}; run this again");
        }
        if last.is_some() {
            return Ok(last);
        }
        (end, stretch) = (from, stretch.saturating_mul(10));
    }
    Ok(None)
}

fn ce_id(message: &BorrowedMessage<'_>) -> Option<Uuid> {
    header(message, CE_ID)?.parse().ok()
}

fn header<'m>(message: &'m BorrowedMessage<'_>, name: &str) -> Option<&'m str> {
    let headers = message.headers()?;
    let found = headers.iter().find(|header| header.key == name)?;
    std::str::from_utf8(found.value?).ok()
}
