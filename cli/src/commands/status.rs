//! `onceward status`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde::Serialize;
use serde_json::Value;

use super::cursor;
use crate::World;
use crate::database::{self, Reading, on};
use crate::kafka::{self, Look};
use crate::locate::Place;
use crate::outcome::{Exit, Outcome};
use crate::render::{age, or_dash, short, table};

#[derive(Debug, Serialize)]
struct Status {
    kafka: KafkaStatus,
    sources: Vec<SourceStatus>,
    consumers: Vec<ConsumerStatus>,
    unreadable: Vec<database::Unreadable>,
}

#[derive(Debug, Serialize)]
struct KafkaStatus {
    address: Option<String>,
    reachable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct SourceStatus {
    source: String,
    unpublished: i64,
    oldest_age_us: Option<i64>,
    /// Rows published so far.
    position: i64,
    /// `kafka`, or `mirror` (at most a second behind) when Kafka is not reachable.
    position_from: &'static str,
    cursor: Value,
    owner: Option<String>,
    lease_until: i64,
    parked_keys: i64,
    parked: i64,
    open_requests: i64,
}

#[derive(Debug, Default, Serialize)]
struct ConsumerStatus {
    consumer: String,
    source: String,
    partitions: i64,
    /// Offsets between the next one and the end of each partition; markers count until passed.
    lag: Option<i64>,
    waiting: i64,
    dead: i64,
    owners: BTreeSet<String>,
    stopped: Vec<StoppedPartition>,
}

#[derive(Debug, Serialize)]
struct StoppedPartition {
    partition: String,
    why: String,
}

/// Collects and prints the state of everything.
pub(crate) async fn status(place: &Place, world: &World<'_>) -> Result<Outcome> {
    let (mut open, unreadable) = database::open_all(place, None).await?;
    let mut offsets: Vec<Vec<OffsetRow>> = vec![];
    for reading in &mut open {
        offsets.push(offset_rows(reading).await?);
    }
    let names = open.iter().map(|r| r.source.name.clone()).collect();
    let partitions = offsets
        .iter()
        .flatten()
        .map(|o| (o.topic.clone(), o.partition));
    let (look, why) = match kafka::look(place, names, partitions.collect()).await {
        Ok(look) => (Some(look), None),
        Err(why) => (None, Some(why)),
    };
    let (mut sources, mut consumers) = (vec![], vec![]);
    for (reading, offsets) in open.iter_mut().zip(offsets) {
        sources.push(source(reading, look.as_ref(), world).await?);
        consumers.extend(consumers_of(reading, offsets, look.as_ref()).await?);
    }
    let found = Status {
        kafka: KafkaStatus {
            address: place.kafka.as_ref().map(|k| k.bootstrap_servers.clone()),
            reachable: look.is_some(),
            why,
        },
        sources,
        consumers,
        unreadable,
    };
    let mut notes = database::talk(&found.unreadable);
    if let Some(why) = &found.kafka.why {
        notes.push(format!(
            "note: Kafka is not reachable ({why}); the databases alone are shown"
        ));
    }
    let all_down = found.sources.is_empty() && !found.unreadable.is_empty();
    let exit = if all_down {
        Exit::Unreachable
    } else {
        Exit::Done
    };
    Ok(Outcome::new(text(&found, world), &found)?
        .with_notes(notes)
        .ending(exit))
}

async fn source(
    reading: &mut Reading<'_>,
    look: Option<&Look>,
    world: &World<'_>,
) -> Result<SourceStatus> {
    const OWNER: &str = "select owner, lease_until from outbox_source where id = 1";
    const PARKED: &str = "select (select count(*) from outbox_parked_key), \
         (select count(*) from outbox_dead_letter where state = 'parked'), \
         (select count(*) from outbox_dead_letter_request where state in ('requested', 'running'))";
    let name = reading.source.name.clone();
    let connection = &mut reading.connection;
    let lease: Option<(Option<String>, i64)> =
        on!(connection, c => sqlx::query_as(OWNER).fetch_optional(&mut *c).await)?;
    let (owner, lease_until) = lease.unwrap_or_default();
    let (parked_keys, parked, open_requests): (i64, i64, i64) =
        on!(connection, c => sqlx::query_as(PARKED).fetch_one(&mut *c).await)?;
    let mirror = cursor::mirror(connection).await?.unwrap_or_default();
    let progress = look.and_then(|l| l.progress.get(&name));
    let (cursor, position, position_from) = match progress {
        Some(progress) => (progress.cursor.clone(), progress.position, "kafka"),
        None => (mirror.cursor, mirror.position, "mirror"),
    };
    let (unpublished, oldest) = cursor::unpublished(connection, &cursor).await?;
    Ok(SourceStatus {
        source: name,
        unpublished,
        oldest_age_us: oldest.map(|at| (world.clock.now() - at).max(0)),
        position,
        position_from,
        cursor,
        owner,
        lease_until,
        parked_keys,
        parked,
        open_requests,
    })
}

#[derive(Debug)]
struct OffsetRow {
    consumer: String,
    topic: String,
    partition: i32,
    next_offset: i64,
    owner: Option<String>,
    stopped: Option<String>,
}

type OffsetTuple = (String, String, i32, i64, Option<String>, Option<String>);

async fn offset_rows(reading: &mut Reading<'_>) -> Result<Vec<OffsetRow>> {
    const SQL: &str = "select consumer, topic, partition, next_offset, owner, stopped \
         from consumer_offset order by consumer, topic, partition";
    let rows: Vec<OffsetTuple> =
        on!(&mut reading.connection, c => sqlx::query_as(SQL).fetch_all(&mut *c).await)?;
    let made = rows.into_iter().map(
        |(consumer, topic, partition, next_offset, owner, stopped)| OffsetRow {
            consumer,
            topic,
            partition,
            next_offset,
            owner,
            stopped,
        },
    );
    Ok(made.collect())
}

async fn consumers_of(
    reading: &mut Reading<'_>,
    offsets: Vec<OffsetRow>,
    look: Option<&Look>,
) -> Result<Vec<ConsumerStatus>> {
    const COUNTS: &str = "select consumer, count(*), 0 from inbox_waiting group by consumer \
         union all \
         select consumer, 0, count(*) from inbox_dead_letter where state = 'dead' group by consumer";
    let source = reading.source.name.clone();
    let mut by_name: BTreeMap<String, ConsumerStatus> = BTreeMap::new();
    for row in offsets {
        let status = by_name.entry(row.consumer.clone()).or_default();
        status.partitions += 1;
        status.owners.extend(row.owner);
        if let Some(why) = row.stopped {
            let partition = format!("{}/{}", row.topic, row.partition);
            status.stopped.push(StoppedPartition { partition, why });
        }
        if let Some(look) = look {
            let high = look.bounds.get(&(row.topic, row.partition)).map(|b| b.high);
            let behind = high.map_or(0, |high| (high - row.next_offset).max(0));
            status.lag = Some(status.lag.unwrap_or(0) + behind);
        }
    }
    let counts: Vec<(String, i64, i64)> =
        on!(&mut reading.connection, c => sqlx::query_as(COUNTS).fetch_all(&mut *c).await)?;
    for (consumer, waiting, dead) in counts {
        let status = by_name.entry(consumer).or_default();
        status.waiting += waiting;
        status.dead += dead;
    }
    let named = by_name
        .into_iter()
        .map(|(consumer, status)| ConsumerStatus {
            consumer,
            source: source.clone(),
            ..status
        });
    Ok(named.collect())
}

fn text(found: &Status, world: &World<'_>) -> String {
    let sources = found.sources.iter().map(|s| {
        let owner = match &s.owner {
            Some(owner) if s.lease_until < world.clock.now() => format!("{owner} (expired)"),
            Some(owner) => owner.clone(),
            None => "-".to_owned(),
        };
        vec![
            s.source.clone(),
            s.unpublished.to_string(),
            or_dash(s.oldest_age_us.map(age)),
            s.position.to_string(),
            short(&cursor::said(&s.cursor), 40),
            owner,
            s.parked.to_string(),
        ]
    });
    let headings = [
        "SOURCE",
        "UNPUBLISHED",
        "OLDEST",
        "POSITION",
        "CURSOR",
        "OWNER",
        "PARKED",
    ];
    let mut text = table(&headings, sources.collect());
    if !found.consumers.is_empty() {
        let consumers = found.consumers.iter().map(|c| {
            let stopped: Vec<&str> = c.stopped.iter().map(|s| s.partition.as_str()).collect();
            vec![
                c.consumer.clone(),
                or_dash(c.lag),
                c.waiting.to_string(),
                c.dead.to_string(),
                c.partitions.to_string(),
                if stopped.is_empty() {
                    "-".to_owned()
                } else {
                    stopped.join(", ")
                },
            ]
        });
        let headings = [
            "CONSUMER",
            "LAG",
            "WAITING",
            "DEAD",
            "PARTITIONS",
            "STOPPED",
        ];
        text.push_str("\n\n");
        text.push_str(&table(&headings, consumers.collect()));
        for stopped in found.consumers.iter().flat_map(|c| &c.stopped) {
            text.push_str(&format!("\n  {}: {}", stopped.partition, stopped.why));
        }
    }
    text
}
