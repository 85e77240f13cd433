//! `/healthz` (alive), `/readyz` (able to work), `/metrics`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing};
use onceward::Backend;

use crate::{App, telemetry};

/// Longest wait for the database's answer to a readiness check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// What keeps a service from working, by part. Cheap to clone; parts set and clear their own.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    obstacles: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

impl Readiness {
    /// `part` cannot work now, for this reason.
    pub fn block(&self, part: &'static str, reason: impl Into<String>) {
        self.lock().insert(part, reason.into());
    }
    /// `part` works.
    pub fn clear(&self, part: &'static str) {
        self.lock().remove(part);
    }
    /// Everything that is in the way now.
    pub fn obstacles(&self) -> BTreeMap<&'static str, String> {
        self.lock().clone()
    }
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.obstacles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The routes every process of the shop has.
pub(crate) fn router<B: Backend>(app: App<B>) -> Router {
    Router::new()
        .route("/healthz", routing::get(|| async { "alive\n" }))
        .route("/readyz", routing::get(ready::<B>))
        .route(
            "/metrics",
            routing::get(|| async { telemetry::render_metrics() }),
        )
        .with_state(app)
}

async fn ready<B: Backend>(State(app): State<App<B>>) -> Response {
    let mut obstacles = app.readiness().obstacles();
    let check = sqlx::query_scalar::<B, i32>("select 1").fetch_one(app.db().pool());
    match tokio::time::timeout(CHECK_TIMEOUT, check).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            obstacles.insert("database", error.to_string());
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
