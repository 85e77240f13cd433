//! `onceward message list` and `show`.

use std::collections::{BTreeMap, HashSet};

use anyhow::Result;
use auditor::Connection;
use serde::Serialize;
use serde_json::Value;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::cursor;
use crate::args::MessageList;
use crate::database::{self, on};
use crate::locate::Place;
use crate::outcome::{Outcome, not_found};
use crate::render::{contents, exact_time, or_dash, payload, table, time};

/// One outbox row.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Message {
    pub source: String,
    pub seq: i64,
    pub message_id: Uuid,
    pub message_type: String,
    pub topic: String,
    pub message_key: Option<String>,
    pub aggregate_type: String,
    pub aggregate_id: String,
    #[serde(serialize_with = "as_time")]
    pub occurred_at: i64,
    /// `published`, `pending`, `parked` or `discarded`.
    pub state: String,
    pub headers: BTreeMap<String, String>,
    #[serde(skip)]
    pub payload: Vec<u8>,
}

pub(super) fn as_time<S: serde::Serializer>(at: &i64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&exact_time(*at))
}

type Row = (
    i64,
    Uuid,
    String,
    String,
    Option<String>,
    String,
    String,
    i64,
    String,
    Vec<u8>,
    bool,
);

/// Which rows; all conditions must hold.
#[derive(Debug, Default)]
pub(super) struct Filter<'f> {
    pub topic: Option<&'f str>,
    pub key: Option<&'f str>,
    /// Message id, aggregate id, key or correlation id.
    pub story: Option<&'f str>,
    pub message_id: Option<Uuid>,
    pub unpublished: bool,
    pub limit: i64,
}

/// Reads outbox rows, newest first. "Published" is what the mirror says, at most a second behind.
pub(super) async fn rows(
    connection: &mut Connection,
    source: &str,
    filter: &Filter<'_>,
) -> Result<Vec<Message>> {
    let (sqlite, published) = match connection {
        Connection::Sqlite(_) => (true, "seq <= $7"),
        Connection::Postgres(_) => (
            false,
            "(pg_visible_in_snapshot(tx_id, $7::text::pg_snapshot) or (seq <= $9 and \
             pg_visible_in_snapshot(tx_id, $8::text::pg_snapshot)))",
        ),
    };
    let uuid = if sqlite { "" } else { "::uuid" };
    // A parameter that is null asks for nothing; the casts tell Postgres its type.
    let sql = format!(
        "select seq, message_id, message_type, topic, message_key, aggregate_type, aggregate_id, \
         occurred_at, headers, payload, {published} as published from outbox \
         where (cast($1 as text) is null or topic = $1) \
           and (cast($2 as text) is null or message_key = $2) \
           and (cast($3 as text) is null or aggregate_id = $3 or message_key = $3 \
                or headers like '%\"correlation-id\":\"' || $3 || '\"%' or message_id = $4{uuid}) \
           and ($5 = 0 or message_id = $4{uuid}) \
           and ($6 = 0 or not ({published})) \
         order by seq desc limit {}",
        filter.limit
    );
    let mirror = cursor::mirror(connection).await?.unwrap_or_default();
    let id = filter
        .message_id
        .or_else(|| filter.story.and_then(|s| s.parse().ok()));
    let (only_id, only_pending) = (
        i32::from(filter.message_id.is_some()),
        i32::from(filter.unpublished),
    );
    let rows: Vec<Row> = match connection {
        Connection::Sqlite(c) => {
            sqlx::query_as(AssertSqlSafe(sql))
                .bind(filter.topic)
                .bind(filter.key)
                .bind(filter.story)
                .bind(id)
                .bind(only_id)
                .bind(only_pending)
                .bind(mirror.cursor["seq"].as_i64().unwrap_or(0))
                .fetch_all(c)
                .await?
        }
        Connection::Postgres(c) => {
            let (done, current, last_seq) = cursor::snapshots(&mirror.cursor);
            sqlx::query_as(AssertSqlSafe(sql))
                .bind(filter.topic)
                .bind(filter.key)
                .bind(filter.story)
                .bind(id)
                .bind(only_id)
                .bind(only_pending)
                .bind(done)
                .bind(current)
                .bind(last_seq)
                .fetch_all(c)
                .await?
        }
    };
    let parked = parked(connection).await?;
    let made = rows.into_iter().map(|row| {
        let (
            seq,
            message_id,
            message_type,
            topic,
            message_key,
            aggregate_type,
            aggregate_id,
            occurred_at,
            headers,
            payload,
            published,
        ) = row;
        let state = match parked.get(&message_id) {
            Some(state) => state.clone(),
            None if published => "published".to_owned(),
            None => "pending".to_owned(),
        };
        Message {
            source: source.to_owned(),
            seq,
            message_id,
            message_type,
            topic,
            message_key,
            aggregate_type,
            aggregate_id,
            occurred_at,
            state,
            headers: serde_json::from_str(&headers).unwrap_or_default(),
            payload,
        }
    });
    Ok(made.collect())
}

async fn parked(connection: &mut Connection) -> Result<BTreeMap<Uuid, String>> {
    const SQL: &str = "select message_id, state from outbox_dead_letter";
    let rows: Vec<(Uuid, String)> =
        on!(connection, c => sqlx::query_as(SQL).fetch_all(&mut *c).await)?;
    Ok(rows.into_iter().collect())
}

/// `message list`.
pub(crate) async fn list(place: &Place, args: &MessageList) -> Result<Outcome> {
    let (mut open, failed) = database::open_all(place, args.source.as_deref()).await?;
    let filter = Filter {
        topic: args.topic.as_deref(),
        key: args.key.as_deref(),
        unpublished: args.unpublished,
        limit: args.limit,
        ..Filter::default()
    };
    let mut found = vec![];
    for reading in &mut open {
        found.extend(rows(&mut reading.connection, &reading.source.name, &filter).await?);
    }
    found.sort_by_key(|m| (std::cmp::Reverse(m.occurred_at), std::cmp::Reverse(m.seq)));
    // The newest of all: more of a busy source than of a quiet one.
    found.truncate(usize::try_from(args.limit).unwrap_or(usize::MAX));
    let lines = found.iter().map(|m| {
        vec![
            time(m.occurred_at),
            m.source.clone(),
            m.seq.to_string(),
            m.message_type.clone(),
            or_dash(m.message_key.clone()),
            m.message_id.to_string(),
            m.state.clone(),
        ]
    });
    let headings = ["TIME", "SOURCE", "SEQ", "TYPE", "KEY", "MESSAGE", "STATE"];
    let text = table(&headings, lines.collect());
    Ok(Outcome::new(text, &found)?.with_notes(database::talk(&failed)))
}

#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    message: Message,
    payload: Value,
    inbox: Vec<super::inbox::Received>,
}

/// `message show`.
pub(crate) async fn show(place: &Place, id: &str) -> Result<Outcome> {
    let id: Uuid = id
        .parse()
        .map_err(|_| crate::outcome::usage(format!("{id:?} is not a message id")))?;
    let (mut open, failed) = database::open_all(place, None).await?;
    let filter = Filter {
        message_id: Some(id),
        limit: 1,
        ..Filter::default()
    };
    let mut message = None;
    for reading in &mut open {
        let found = rows(&mut reading.connection, &reading.source.name, &filter).await?;
        message = message.or_else(|| found.into_iter().next());
    }
    let mut inbox = vec![];
    let wanted = HashSet::from([id.to_string()]);
    for reading in &mut open {
        inbox.extend(super::inbox::of_messages(reading, place, &wanted).await?);
    }
    let Some(message) = message else {
        let hint = if inbox.is_empty() {
            "no outbox has it"
        } else {
            "its outbox row is purged; `onceward message trace` shows what consumers know"
        };
        return Err(not_found(format!("message {id}: {hint}")));
    };
    let body = payload(&message.payload);
    let mut text = format!(
        "message  {id}\ntype     {}\nsource   {} seq {}\ntopic    {}\nkey      {}\nabout    {} {}\n\
         time     {}\nstate    {}\n",
        message.message_type,
        message.source,
        message.seq,
        message.topic,
        or_dash(message.message_key.clone()),
        message.aggregate_type,
        message.aggregate_id,
        exact_time(message.occurred_at),
        message.state,
    );
    text.push_str(&contents(&message.headers, &body));
    if !inbox.is_empty() {
        text.push_str("\nreceived\n");
        for row in &inbox {
            text.push_str(&format!("  {}\n", row.line()));
        }
    }
    let shown = Shown {
        message,
        payload: body,
        inbox,
    };
    Ok(Outcome::new(text, &shown)?.with_notes(database::talk(&failed)))
}
