//! Health, metrics and status over HTTP.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;

use crate::status::Handle;

#[derive(Clone)]
struct Shared {
    handle: Handle,
    metrics: Option<PrometheusHandle>,
}

/// Routes for a relay: `/healthz` (the process lives), `/readyz` (every source works, here or at
/// another relay), `/status` (JSON per source) and, with a recorder, `/metrics` (Prometheus text).
///
/// Merge it into an application's own router, or serve it alone.
pub fn router(handle: Handle, metrics: Option<PrometheusHandle>) -> Router {
    Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .route("/metrics", get(prometheus))
        .with_state(Shared { handle, metrics })
}

async fn status(State(shared): State<Shared>) -> Response {
    Json(shared.handle.status()).into_response()
}

async fn ready(State(shared): State<Shared>) -> Response {
    let status = shared.handle.status();
    let waiting: Vec<_> = status
        .sources
        .iter()
        .filter(|source| !source.is_ready())
        .map(|source| {
            json!({
                "source": source.source,
                "state": source.state,
                "error": source.last_error,
                "way_out": source.way_out,
            })
        })
        .collect();
    let code = if waiting.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        code,
        Json(json!({ "ready": waiting.is_empty(), "not_ready": waiting })),
    )
        .into_response()
}

async fn prometheus(State(shared): State<Shared>) -> Response {
    match shared.metrics {
        Some(recorder) => (
            [(
                header::CONTENT_TYPE,
                "text/plain; version=0.0.4; charset=utf-8",
            )],
            recorder.render(),
        )
            .into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
