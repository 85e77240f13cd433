//! `onceward inbox list`, and the inbox rows of given messages.

use std::collections::HashSet;

use anyhow::Result;
use serde::Serialize;
use sqlx::AssertSqlSafe;

use super::message::as_time;
use crate::args::InboxList;
use crate::database::{self, Reading, on};
use crate::locate::Place;
use crate::outcome::Outcome;
use crate::render::{key, or_dash, table, time};

/// One inbox row.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Received {
    pub consumer: String,
    pub ce_source: String,
    pub ce_id: String,
    pub message_type: Option<String>,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub message_key: Option<String>,
    /// `handled`, `waiting`, `dead` or `discarded`.
    pub state: String,
    #[serde(serialize_with = "as_time")]
    pub received_at: i64,
    #[serde(serialize_with = "maybe_time")]
    pub handled_at: Option<i64>,
}

fn maybe_time<S: serde::Serializer>(at: &Option<i64>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => as_time(at, serializer),
        None => serializer.serialize_none(),
    }
}

impl Received {
    pub fn place(&self) -> String {
        format!("{}/{}@{}", self.topic, self.partition, self.offset)
    }

    pub fn line(&self) -> String {
        let at = time(self.handled_at.unwrap_or(self.received_at));
        format!(
            "{} {} at {at} ({})",
            self.consumer,
            self.state,
            self.place()
        )
    }
}

type Row = (
    String,
    String,
    String,
    Option<String>,
    String,
    i32,
    i64,
    Option<Vec<u8>>,
    String,
    i64,
    Option<i64>,
);

fn received(row: Row) -> Received {
    let (
        consumer,
        ce_source,
        ce_id,
        message_type,
        topic,
        partition,
        offset,
        bytes,
        state,
        received_at,
        handled_at,
    ) = row;
    Received {
        consumer,
        ce_source,
        ce_id,
        message_type,
        topic,
        partition,
        offset,
        message_key: key(bytes),
        state,
        received_at,
        handled_at,
    }
}

const COLUMNS: &str = "consumer, ce_source, ce_id, message_type, topic, partition, record_offset, \
     message_key, state, received_at, handled_at";

/// Inbox rows of these message ids of the place's sources, by the inbox' primary key.
pub(super) async fn of_messages(
    reading: &mut Reading<'_>,
    place: &Place,
    ids: &HashSet<String>,
) -> Result<Vec<Received>> {
    let mut found = vec![];
    let sources: Vec<&str> = place.sources.iter().map(|s| s.name.as_str()).collect();
    let wanted: Vec<&str> = ids.iter().map(String::as_str).collect();
    for chunk in wanted.chunks(100) {
        let all = sources.len() + chunk.len();
        let sql = format!(
            "select {COLUMNS} from inbox \
             where consumer in (select distinct consumer from consumer_offset) \
               and ce_source in ({}) and ce_id in ({}) order by received_at, consumer",
            places(1, sources.len()),
            places(sources.len() + 1, all)
        );
        let rows: Vec<Row> = on!(&mut reading.connection, c => {
            let mut query = sqlx::query_as(AssertSqlSafe(sql));
            for text in sources.iter().chain(chunk) {
                query = query.bind(*text);
            }
            query.fetch_all(&mut *c).await
        })?;
        found.extend(rows.into_iter().map(received));
    }
    Ok(found)
}

/// Inbox rows of a key, at most 1,000: for stories whose outbox rows are purged.
pub(super) async fn of_key(reading: &mut Reading<'_>, key: &str) -> Result<Vec<Received>> {
    let sql = format!(
        "select {COLUMNS} from inbox where message_key = $1 \
         order by received_at, consumer limit 1000"
    );
    let rows: Vec<Row> = on!(&mut reading.connection, c => {
        sqlx::query_as(AssertSqlSafe(sql)).bind(key.as_bytes()).fetch_all(&mut *c).await
    })?;
    Ok(rows.into_iter().map(received).collect())
}

/// `$from, …, $to`
fn places(from: usize, to: usize) -> String {
    let all: Vec<String> = (from..=to).map(|i| format!("${i}")).collect();
    all.join(", ")
}

/// `inbox list`.
pub(crate) async fn list(place: &Place, args: &InboxList) -> Result<Outcome> {
    let (mut open, failed) = database::open_all(place, None).await?;
    let sql = format!(
        "select {COLUMNS} from inbox where (cast($1 as text) is null or consumer = $1) \
           and (cast($2 as text) is null or topic = $2) \
           and (cast($3 as text) is null or state = $3) \
           and ($4 = 0 or message_key = $5) \
         order by received_at desc, record_offset desc limit {}",
        args.limit
    );
    let state = args.state.map(|s| s.as_str());
    let wanted = args.key.as_ref().map(|k| k.as_bytes().to_vec());
    let mut found: Vec<Received> = vec![];
    for reading in &mut open {
        let rows: Vec<Row> = on!(&mut reading.connection, c => {
            sqlx::query_as(AssertSqlSafe(sql.clone()))
                .bind(args.consumer.as_deref())
                .bind(args.topic.as_deref())
                .bind(state)
                .bind(i32::from(wanted.is_some()))
                .bind(wanted.as_deref())
                .fetch_all(&mut *c)
                .await
        })?;
        found.extend(rows.into_iter().map(received));
    }
    found.sort_by_key(|r| {
        (
            std::cmp::Reverse(r.received_at),
            std::cmp::Reverse(r.offset),
        )
    });
    found.truncate(usize::try_from(args.limit).unwrap_or(usize::MAX));
    let lines = found.iter().map(|r| {
        vec![
            time(r.received_at),
            r.consumer.clone(),
            r.place(),
            or_dash(r.message_key.clone()),
            r.ce_id.clone(),
            r.state.clone(),
        ]
    });
    let headings = ["RECEIVED", "CONSUMER", "RECORD", "KEY", "MESSAGE", "STATE"];
    let text = table(&headings, lines.collect());
    Ok(Outcome::new(text, &found)?.with_notes(database::talk(&failed)))
}
