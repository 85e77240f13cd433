//! `GET /sagas`, `GET /sagas/{id}`.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::{Json, Router, routing};
use onceward_saga::inspect::{self, SagaDetail, SagaFilter, SagaSummary};
use onceward_saga::{SagaBackend, SagaError, SagaId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skeleton::{ApiError, App, iso_time};

/// Most sagas of a page.
const MAX_LIMIT: u32 = 500;

/// `?status=stuck&order_id=…&limit=50&before=<next of the page before>`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    status: Option<String>,
    order_id: Option<String>,
    limit: Option<u32>,
    before: Option<String>,
}

#[derive(Debug, Serialize)]
struct Saga {
    saga_id: SagaId,
    definition: String,
    version: i32,
    order_id: String,
    status: &'static str,
    reason: Option<String>,
    correlation_id: uuid::Uuid,
    started_at: String,
    ended_at: Option<String>,
}

#[derive(Debug, Serialize)]
struct Sagas {
    items: Vec<Saga>,
    /// What to pass as `before` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<SagaId>,
}

#[derive(Debug, Serialize)]
struct Event {
    seq: i64,
    kind: String,
    step: Option<String>,
    attempt: i32,
    at: String,
    body: Value,
}

#[derive(Debug, Serialize)]
struct Timer {
    name: String,
    state: String,
    fire_at: String,
    finished_at: Option<String>,
}

#[derive(Debug, Serialize)]
struct Detail {
    #[serde(flatten)]
    saga: Saga,
    events: Vec<Event>,
    timers: Vec<Timer>,
}

pub(crate) fn router<B: SagaBackend>(app: App<B>) -> Router {
    Router::new()
        .route("/sagas", routing::get(list::<B>))
        .route("/sagas/{id}", routing::get(show::<B>))
        .with_state(app)
}

async fn list<B: SagaBackend>(
    State(app): State<App<B>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Sagas>, ApiError> {
    let bad = |field: &'static str, detail: String| {
        ApiError::field(StatusCode::BAD_REQUEST, field, detail)
    };
    let Query(query) = query.map_err(|refusal| bad("query", refusal.body_text()))?;
    let limit = query.limit.unwrap_or(50);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(bad("limit", format!("must be from 1 to {MAX_LIMIT}")));
    }
    let status = query.status.as_deref().map(str::parse).transpose();
    let before = query.before.as_deref().map(str::parse).transpose();
    let filter = SagaFilter {
        status: status
            .map_err(|error: onceward_saga::UnknownStatus| bad("status", error.to_string()))?,
        subject: query.order_id,
        before: before.map_err(|_| bad("before", "must be an id".to_owned()))?,
        limit: limit + 1,
        ..SagaFilter::default()
    };
    let mut rows = inspect::list(app.db().pool(), &filter)
        .await
        .map_err(failed)?;
    let limit = limit as usize;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = if more {
        rows.last().map(|row| row.saga_id)
    } else {
        None
    };
    Ok(Json(Sagas {
        items: rows.into_iter().map(saga).collect(),
        next,
    }))
}

async fn show<B: SagaBackend>(
    State(app): State<App<B>>,
    Path(id): Path<String>,
) -> Result<Json<Detail>, ApiError> {
    let not_found = || ApiError::not_found("this saga");
    let id: SagaId = id.parse().map_err(|_| not_found())?;
    let detail = inspect::show(app.db().pool(), id).await.map_err(failed)?;
    detail.map(|found| Json(view(found))).ok_or_else(not_found)
}

fn failed(error: SagaError) -> ApiError {
    ApiError::internal(error)
}

fn saga(row: SagaSummary) -> Saga {
    Saga {
        saga_id: row.saga_id,
        definition: row.definition,
        version: row.definition_version,
        order_id: row.subject,
        status: row.status.as_str(),
        reason: row.reason,
        correlation_id: row.correlation_id,
        started_at: iso_time(row.started_at),
        ended_at: row.ended_at.map(iso_time),
    }
}

fn view(found: SagaDetail) -> Detail {
    let event = |event: inspect::LoggedEvent| Event {
        seq: event.seq,
        kind: event.kind,
        step: event.step,
        attempt: event.attempt,
        at: iso_time(event.occurred_at),
        body: event.body,
    };
    let timer = |timer: inspect::TimerRow| Timer {
        name: timer.name,
        state: timer.state,
        fire_at: iso_time(timer.fire_at),
        finished_at: timer.finished_at.map(iso_time),
    };
    Detail {
        saga: saga(found.summary),
        events: found.events.into_iter().map(event).collect(),
        timers: found.timers.into_iter().map(timer).collect(),
    }
}
