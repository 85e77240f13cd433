//! `onceward saga list` and `show`: the saga log as tables.

use anyhow::Result;
use auditor::Connection;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::message::as_time;
use crate::database::{self, has_table, on};
use crate::locate::Place;
use crate::outcome::{Outcome, not_found, usage};
use crate::render::{after, age, exact_time, or_dash, short, table, time};

#[derive(Debug, Clone, Serialize)]
pub(super) struct Saga {
    pub source: String,
    pub saga_id: Uuid,
    definition: String,
    definition_version: i32,
    /// What it is about: the order id.
    subject: String,
    pub status: String,
    reason: Option<String>,
    correlation_id: Uuid,
    #[serde(serialize_with = "as_time")]
    started_at: i64,
    #[serde(serialize_with = "as_time")]
    updated_at: i64,
    /// Microseconds from start to end; `None` while it runs.
    took_us: Option<i64>,
}

type Row = (
    Uuid,
    String,
    i32,
    String,
    String,
    Option<String>,
    Uuid,
    i64,
    i64,
    Option<i64>,
);

macro_rules! saga_columns {
    ($rest:literal) => {
        concat!(
            "select saga_id, definition, definition_version, subject, status, reason, ",
            "correlation_id, started_at, updated_at, ended_at from saga_instance ",
            $rest
        )
    };
}

fn saga(source: &str, row: Row) -> Saga {
    let (
        saga_id,
        definition,
        definition_version,
        subject,
        status,
        reason,
        correlation_id,
        started_at,
        updated_at,
        ended_at,
    ) = row;
    Saga {
        source: source.to_owned(),
        saga_id,
        definition,
        definition_version,
        subject,
        status,
        reason,
        correlation_id,
        started_at,
        updated_at,
        took_us: ended_at.map(|end| end - started_at),
    }
}

/// `saga list`.
pub(crate) async fn list(place: &Place, status: Option<&str>, limit: i64) -> Result<Outcome> {
    const LIST: &str = saga_columns!(
        "where (cast($1 as text) is null or status = $1) order by started_at desc, saga_id limit $2"
    );
    const KNOWN: [&str; 5] = [
        "running",
        "compensating",
        "completed",
        "compensated",
        "stuck",
    ];
    if let Some(status) = status.filter(|s| !KNOWN.contains(s)) {
        let known = KNOWN.join(", ");
        return Err(usage(format!("no status {status:?}; there are {known}")));
    }
    let (mut open, failed) = database::open_all(place, None).await?;
    let mut found = vec![];
    for reading in &mut open {
        if !has_table(&mut reading.connection, "saga_instance").await? {
            continue;
        }
        let rows: Vec<Row> = on!(&mut reading.connection, c => {
            sqlx::query_as(LIST).bind(status).bind(limit).fetch_all(&mut *c).await
        })?;
        found.extend(rows.into_iter().map(|row| saga(&reading.source.name, row)));
    }
    found.sort_by_key(|s| std::cmp::Reverse(s.started_at));
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let lines = found.iter().map(|s| {
        vec![
            time(s.started_at),
            s.saga_id.to_string(),
            s.definition.clone(),
            s.subject.clone(),
            s.status.clone(),
            or_dash(s.took_us.map(age)),
            short(&or_dash(s.reason.clone()), 50),
        ]
    });
    let headings = [
        "STARTED",
        "SAGA",
        "DEFINITION",
        "ABOUT",
        "STATUS",
        "TOOK",
        "REASON",
    ];
    let text = if found.is_empty() {
        "no sagas".to_owned()
    } else {
        table(&headings, lines.collect())
    };
    Ok(Outcome::new(text, &found)?.with_notes(database::talk(&failed)))
}

#[derive(Debug, Serialize)]
struct Event {
    seq: i64,
    kind: String,
    step: Option<String>,
    branch: i32,
    attempt: i32,
    body: Value,
    caused_by: Option<Uuid>,
    #[serde(serialize_with = "as_time")]
    occurred_at: i64,
}

#[derive(Debug, Serialize)]
struct Timer {
    name: String,
    state: String,
    #[serde(serialize_with = "as_time")]
    fire_at: i64,
}

#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    saga: Saga,
    events: Vec<Event>,
    timers: Vec<Timer>,
}

/// A saga, where it was found, and what could not be read meanwhile.
pub(super) struct Found {
    pub saga: Saga,
    pub connection: Connection,
    pub notes: Vec<String>,
}

/// `saga show`: by saga id, or by what it is about.
pub(crate) async fn show(place: &Place, id: &str) -> Result<Outcome> {
    let mut found = find(place, id).await?;
    let connection = &mut found.connection;
    let events = events(connection, found.saga.saga_id).await?;
    let timers = timers(connection, found.saga.saga_id).await?;
    let shown = Shown {
        saga: found.saga,
        events,
        timers,
    };
    Ok(Outcome::new(text(&shown), &shown)?.with_notes(found.notes))
}

/// Looks for a saga by its id, or by what it is about.
pub(super) async fn find(place: &Place, id: &str) -> Result<Found> {
    const SHOW: &str =
        saga_columns!("where saga_id = $1 or subject = $2 order by started_at desc limit 1");
    let (open, failed) = database::open_all(place, None).await?;
    for mut reading in open {
        if !has_table(&mut reading.connection, "saga_instance").await? {
            continue;
        }
        let connection = &mut reading.connection;
        let row: Option<Row> = on!(connection, c => {
            sqlx::query_as(SHOW)
                .bind(id.parse::<Uuid>().ok())
                .bind(id)
                .fetch_optional(&mut *c)
                .await
        })?;
        if let Some(row) = row {
            return Ok(Found {
                saga: saga(&reading.source.name, row),
                connection: reading.connection,
                notes: database::talk(&failed),
            });
        }
    }
    Err(not_found(format!(
        "no saga {id}; `onceward saga list` shows the newest"
    )))
}

type EventRow = (
    i64,
    String,
    Option<String>,
    i32,
    i32,
    String,
    Option<Uuid>,
    i64,
);

async fn events(connection: &mut Connection, id: Uuid) -> Result<Vec<Event>> {
    const SQL: &str = "select seq, kind, step, branch, attempt, body, caused_by, occurred_at \
         from saga_event where saga_id = $1 order by seq";
    let rows: Vec<EventRow> =
        on!(connection, c => sqlx::query_as(SQL).bind(id).fetch_all(&mut *c).await)?;
    let made = rows.into_iter().map(|row| {
        let (seq, kind, step, branch, attempt, body, caused_by, occurred_at) = row;
        let body = serde_json::from_str(&body).unwrap_or(Value::String(body));
        Event {
            seq,
            kind,
            step,
            branch,
            attempt,
            body,
            caused_by,
            occurred_at,
        }
    });
    Ok(made.collect())
}

async fn timers(connection: &mut Connection, id: Uuid) -> Result<Vec<Timer>> {
    const SQL: &str = "select name, state, fire_at from timer \
         where owner_kind = 'saga' and owner_id = $1 order by fire_at, name";
    let rows: Vec<(String, String, i64)> =
        on!(connection, c => sqlx::query_as(SQL).bind(id).fetch_all(&mut *c).await)?;
    let made = rows.into_iter();
    Ok(made
        .map(|(name, state, fire_at)| Timer {
            name,
            state,
            fire_at,
        })
        .collect())
}

fn text(shown: &Shown) -> String {
    let saga = &shown.saga;
    let mut text = format!(
        "saga        {}\ndefinition  {} version {}\nabout       {}\nstatus      {}\nreason      {}\n\
         story       {}\nstarted     {}\ntook        {}\n\n",
        saga.saga_id,
        saga.definition,
        saga.definition_version,
        saga.subject,
        saga.status,
        or_dash(saga.reason.clone()),
        saga.correlation_id,
        exact_time(saga.started_at),
        or_dash(saga.took_us.map(age)),
    );
    let events = shown.events.iter().map(|e| {
        vec![
            e.seq.to_string(),
            after(e.occurred_at - saga.started_at),
            e.kind.clone(),
            or_dash(e.step.clone()),
            if e.attempt > 0 {
                e.attempt.to_string()
            } else {
                "-".to_owned()
            },
            or_dash(e.caused_by),
        ]
    });
    let headings = ["EVENT", "AFTER", "KIND", "STEP", "TRY", "CAUSED BY"];
    text.push_str(&table(&headings, events.collect()));
    let operated = shown.events.iter().filter(|e| e.kind == "operated");
    let said = |e: &Event, field: &str| or_dash(e.body.get(field).and_then(Value::as_str));
    let operators: Vec<Vec<String>> = operated
        .map(|e| {
            let said = ["verb", "step", "by", "why"].map(|field| said(e, field));
            [vec![e.seq.to_string()], said.to_vec()].concat()
        })
        .collect();
    if !operators.is_empty() {
        text.push_str("\n\n");
        text.push_str(&table(
            &["EVENT", "OPERATION", "STEP", "BY", "WHY"],
            operators,
        ));
    }
    if !shown.timers.is_empty() {
        let timers = shown.timers.iter();
        let lines = timers.map(|t| vec![t.name.clone(), t.state.clone(), time(t.fire_at)]);
        text.push_str("\n\n");
        text.push_str(&table(&["TIMER", "STATE", "FIRES"], lines.collect()));
    }
    text
}
