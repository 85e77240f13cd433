//! Lists and shows sagas, for operators and their tools. Reads only.

use onceward::{Backend, Micros};
use serde::Serialize;
use serde_json::Value;
use sqlx::{Pool, Row};
use uuid::Uuid;

use crate::{SagaError, SagaId, SagaStatus};

/// Which sagas to list. Everything left out does not narrow it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SagaFilter {
    /// Only those that stand there.
    pub status: Option<SagaStatus>,
    /// Only those of this definition.
    pub definition: Option<String>,
    /// Only those about this.
    pub subject: Option<String>,
    /// Only those listed after this one: the last one seen gives the next page. An unknown one
    /// does not narrow it.
    pub before: Option<SagaId>,
    /// At most so many, newest first; 0 means 100.
    pub limit: u32,
}

/// A saga at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SagaSummary {
    /// Its id.
    pub saga_id: SagaId,
    /// Its definition.
    pub definition: String,
    /// Version of its definition.
    pub definition_version: i32,
    /// What it is about.
    pub subject: String,
    /// Where it stands.
    pub status: SagaStatus,
    /// Why it is compensated.
    pub reason: Option<String>,
    /// Number of its events.
    pub version: i64,
    /// The story it belongs to.
    pub correlation_id: Uuid,
    /// Microseconds, UTC.
    pub started_at: Micros,
    /// Microseconds, UTC.
    pub updated_at: Micros,
    /// Microseconds, UTC; none while it goes on.
    pub ended_at: Option<Micros>,
}

/// One line of a saga's log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoggedEvent {
    /// 1, 2, 3 …
    pub seq: i64,
    /// What happened.
    pub kind: String,
    /// To which step.
    pub step: Option<String>,
    /// Its branch.
    pub branch: i32,
    /// Which try.
    pub attempt: i32,
    /// All of it.
    pub body: Value,
    /// The message that led to it.
    pub caused_by: Option<Uuid>,
    /// Microseconds, UTC.
    pub occurred_at: Micros,
}

/// One timer of a saga.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TimerRow {
    /// `deadline/payment/0/1`.
    pub name: String,
    /// `armed`, `fired` or `disarmed`.
    pub state: String,
    /// Microseconds, UTC.
    pub armed_at: Micros,
    /// Microseconds, UTC.
    pub fire_at: Micros,
    /// Microseconds, UTC; none while it is armed.
    pub finished_at: Option<Micros>,
}

/// A saga with all there is to know.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SagaDetail {
    /// At a glance.
    #[serde(flatten)]
    pub summary: SagaSummary,
    /// Its log, in order.
    pub events: Vec<LoggedEvent>,
    /// Its timers, in the order they were armed.
    pub timers: Vec<TimerRow>,
}

/// Lists sagas, newest first.
///
/// # Errors
/// [`SagaError::Storage`].
pub async fn list<B: Backend>(
    pool: &Pool<B>,
    filter: &SagaFilter,
) -> Result<Vec<SagaSummary>, SagaError> {
    let limit = if filter.limit == 0 { 100 } else { filter.limit };
    let before = match filter.before {
        None => None,
        Some(id) => sqlx::query_scalar("select started_at from saga_instance where saga_id = $1")
            .bind(id.0)
            .fetch_optional(pool)
            .await
            .map_err(SagaError::database("saga lookup"))?
            .map(|started_at: Micros| (started_at, id.0)),
    };
    let (started_at, saga_id) = before.unwrap_or((i64::MAX, Uuid::max()));
    // Typed by the column it is compared with, a null parameter means "any".
    sqlx::query(
        "select * from saga_instance where status = coalesce($1, status) \
         and definition = coalesce($2, definition) and subject = coalesce($3, subject) \
         and (started_at < $4 or (started_at = $4 and saga_id < $5)) \
         order by started_at desc, saga_id desc limit $6",
    )
    .bind(filter.status.map(|status| status.as_str().to_owned()))
    .bind(filter.definition.clone())
    .bind(filter.subject.clone())
    .bind(started_at)
    .bind(saga_id)
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await
    .and_then(|rows| rows.iter().map(summary::<B>).collect())
    .map_err(SagaError::database("saga list"))
}

/// Everything about one saga; `None` if there is none of this id.
///
/// # Errors
/// [`SagaError::Storage`].
pub async fn show<B: Backend>(
    pool: &Pool<B>,
    saga_id: SagaId,
) -> Result<Option<SagaDetail>, SagaError> {
    let Some(row) = sqlx::query("select * from saga_instance where saga_id = $1")
        .bind(saga_id.0)
        .fetch_optional(pool)
        .await
        .map_err(SagaError::database("saga lookup"))?
    else {
        return Ok(None);
    };
    let summary = summary::<B>(&row).map_err(SagaError::database("saga row"))?;
    let events = sqlx::query("select * from saga_event where saga_id = $1 order by seq")
        .bind(saga_id.0)
        .fetch_all(pool)
        .await
        .and_then(|rows| rows.iter().map(logged_event::<B>).collect())
        .map_err(SagaError::database("saga log"))?;
    let timers = sqlx::query(
        "select * from timer where owner_kind = 'saga' and owner_id = $1 order by armed_at, name",
    )
    .bind(saga_id.0)
    .fetch_all(pool)
    .await
    .and_then(|rows| rows.iter().map(timer_row::<B>).collect())
    .map_err(SagaError::database("saga timers"))?;
    Ok(Some(SagaDetail {
        summary,
        events,
        timers,
    }))
}

/// How many sagas have not ended, by where they stand. Served by the index `saga_instance_status`,
/// however many have ended.
///
/// # Errors
/// [`SagaError::Storage`].
pub async fn count_open<B: Backend>(pool: &Pool<B>) -> Result<Vec<(SagaStatus, i64)>, SagaError> {
    sqlx::query(
        "select status, count(*) as sagas from saga_instance \
         where status in ('running', 'compensating', 'stuck') group by status",
    )
    .fetch_all(pool)
    .await
    .and_then(|rows| {
        rows.iter()
            .map(|row| Ok((status::<B>(row)?, row.try_get("sagas")?)))
            .collect()
    })
    .map_err(SagaError::database("saga counts"))
}

fn status<B: Backend>(row: &B::Row) -> Result<SagaStatus, sqlx::Error> {
    row.try_get::<String, _>("status")?
        .parse()
        .map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

fn summary<B: Backend>(row: &B::Row) -> Result<SagaSummary, sqlx::Error> {
    Ok(SagaSummary {
        saga_id: SagaId(row.try_get("saga_id")?),
        definition: row.try_get("definition")?,
        definition_version: row.try_get("definition_version")?,
        subject: row.try_get("subject")?,
        status: status::<B>(row)?,
        reason: row.try_get("reason")?,
        version: row.try_get("version")?,
        correlation_id: row.try_get("correlation_id")?,
        started_at: row.try_get("started_at")?,
        updated_at: row.try_get("updated_at")?,
        ended_at: row.try_get("ended_at")?,
    })
}

fn logged_event<B: Backend>(row: &B::Row) -> Result<LoggedEvent, sqlx::Error> {
    let body: String = row.try_get("body")?;
    Ok(LoggedEvent {
        seq: row.try_get("seq")?,
        kind: row.try_get("kind")?,
        step: row.try_get("step")?,
        branch: row.try_get("branch")?,
        attempt: row.try_get("attempt")?,
        // Shown as text where it is damaged: an operator looks at exactly such a row.
        body: serde_json::from_str(&body).unwrap_or(Value::String(body)),
        caused_by: row.try_get("caused_by")?,
        occurred_at: row.try_get("occurred_at")?,
    })
}

fn timer_row<B: Backend>(row: &B::Row) -> Result<TimerRow, sqlx::Error> {
    Ok(TimerRow {
        name: row.try_get("name")?,
        state: row.try_get("state")?,
        armed_at: row.try_get("armed_at")?,
        fire_at: row.try_get("fire_at")?,
        finished_at: row.try_get("finished_at")?,
    })
}
