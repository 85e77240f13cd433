//! `/healthz` (alive), `/readyz` (able to work), `/metrics`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use onceward::Backend;
use onceward::consumer::ConsumerStatus;

use crate::{App, Routes, telemetry};

/// Longest wait for the database's answer to a readiness check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// A part's name, and what tells what is in its way, if anything is.
type Part = (&'static str, Arc<dyn Fn() -> Option<String> + Send + Sync>);

/// Asks the parts of a service whether they can work. Cheap to clone.
#[derive(Clone, Default)]
pub struct Readiness {
    parts: Arc<Mutex<Vec<Part>>>,
}

impl Readiness {
    /// Asks this each time; it must answer at once. What it says is in the way makes the service
    /// not ready.
    pub fn ask(
        &self,
        part: &'static str,
        obstacle: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.push((part, Arc::new(obstacle)));
    }

    /// Everything that is in the way now, by part.
    pub fn obstacles(&self) -> BTreeMap<&'static str, String> {
        let parts = self
            .parts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        parts
            .into_iter()
            .filter_map(|(part, obstacle)| Some((part, obstacle()?)))
            .collect()
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Readiness").field(&self.obstacles()).finish()
    }
}

/// What is in the way of a consumer and needs a person: Kafka refuses it (password, certificate, a
/// missing right), or partitions have stopped loudly. A Kafka that is down is not: orders are taken all
/// the same.
pub fn consumer_obstacle(status: &ConsumerStatus, refusal: Option<String>) -> Option<String> {
    let stopped = status.stopped().map(|partition| {
        let reason = partition.stopped.as_deref().unwrap_or_default();
        format!("{} is stopped: {reason}", partition.at)
    });
    let all: Vec<String> = refusal.into_iter().chain(stopped).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// The routes every process of the shop has.
pub(crate) fn routes<B: Backend>() -> Routes<B> {
    Routes::new()
        .with(__path_alive, alive)
        .with(__path_ready, ready::<B>)
        .with(__path_metrics, metrics)
}

/// Is the process alive?
///
/// Answers as long as the process can answer anything, whatever else is broken: restart it when this
/// does not answer.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "health",
    responses((status = 200, description = "Alive.", body = String, example = "alive\n"))
)]
async fn alive() -> &'static str {
    "alive\n"
}

/// How is it going?
///
/// Counters, gauges and histograms in Prometheus' text format. Names begin with `onceward_`.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "health",
    responses((
        status = 200,
        description = "All metrics of this process.",
        body = String,
        example = "onceward_consumer_lag_records{consumer=\"inventory-service-group\"} 0\n"
    ))
)]
async fn metrics() -> String {
    telemetry::render_metrics()
}

/// Can it do its work?
///
/// Asks the database, and every part whether something is in its way: a consumer that Kafka refuses, or
/// whose partition has stopped loudly, needs a person. Kafka may be down: what is written waits in the
/// outbox.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    responses(
        (status = 200, description = "It can.", body = String, example = "ready\n"),
        (
            status = 503,
            description = "It can't: what is in the way, by part. Or too many ask at the same time.",
            content(
                (
                    BTreeMap<String, String> = "application/json",
                    example = json!({"consumer": "inventory.release/0 is stopped: topic id changed"})
                ),
                (onceward_http::Problem = "application/problem+json"),
            )
        ),
    )
)]
async fn ready<B: Backend>(State(app): State<App<B>>) -> Response {
    let mut obstacles = app.readiness().obstacles();
    let check = sqlx::query_scalar::<B, i32>("select 1").fetch_one(app.db().pool());
    match tokio::time::timeout(CHECK_TIMEOUT, check).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            obstacles.insert("database", app.db().trouble(&error));
        }
        Err(_) => {
            obstacles.insert("database", "does not answer".into());
        }
    }
    if obstacles.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(obstacles)).into_response()
}
