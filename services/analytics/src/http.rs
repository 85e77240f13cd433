//! `GET /analytics`, `GET /analytics/live`.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::response::sse::{KeepAlive, Sse};
use onceward::{Backend, Micros};
use serde::Deserialize;
use skeleton::{ApiError, App, Routes};
use utoipa::IntoParams;

use crate::live::{Live, events};
use crate::summary::{self, Summary};

/// The window unless `?window=` says otherwise: an hour.
const DEFAULT_WINDOW: Micros = 3_600_000_000;
/// The longest window, in seconds: a year.
const MAX_SECONDS: i64 = 31_536_000;

/// `?window=15m`
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WindowQuery {
    /// How far back: a number and `s`, `m`, `h` or `d`, at most a year; or `all`.
    #[param(
        value_type = String,
        required = false,
        default = "1h",
        pattern = "^(all|[1-9][0-9]{0,2}[smhd])$",
        example = "15m"
    )]
    window: Option<String>,
}

pub(crate) fn routes<B: Backend>(live: Live) -> Routes<B> {
    let follow = async move || follow(live.clone());
    Routes::new()
        .with(__path_show, show::<B>)
        .with(__path_follow, follow)
}

/// Show a window
///
/// What happened up to now: counts, revenue, conversion, how many orders had to be undone, how long
/// they took.
#[utoipa::path(
    get,
    path = "/analytics",
    operation_id = "show_analytics",
    tag = "analytics",
    params(WindowQuery),
    responses((status = 200, description = "What happened.", body = Summary))
)]
async fn show<B: Backend>(
    State(app): State<App<B>>,
    query: Result<Query<WindowQuery>, QueryRejection>,
) -> Result<Json<Summary>, ApiError> {
    let bad = |field: &'static str, detail: String| {
        ApiError::field(StatusCode::BAD_REQUEST, field, detail)
    };
    let Query(query) = query.map_err(|refusal| bad("query", refusal.body_text()))?;
    let window = match query.window.as_deref() {
        None => Some(DEFAULT_WINDOW),
        Some("all") => None,
        Some(text) => Some(window(text).ok_or_else(|| {
            let detail = "must be all, or a number and s, m, h or d, at most a year: 15m";
            bad("window", detail.to_owned())
        })?),
    };
    let summary = summary::read(app.db().pool(), window, app.clock().now()).await?;
    Ok(Json(summary))
}

/// Follow the last minute
///
/// Server-sent events, once a second: `event: summary`, and the same as `GET /analytics?window=1m`.
#[utoipa::path(
    get,
    path = "/analytics/live",
    operation_id = "follow_analytics",
    tag = "analytics",
    responses((
        status = 200,
        description = "A stream that ends when the service stops.",
        body = String,
        content_type = "text/event-stream"
    ))
)]
fn follow(live: Live) -> impl IntoResponse {
    Sse::new(events(live)).keep_alive(KeepAlive::default())
}

/// `15m` in microseconds.
fn window(text: &str) -> Option<Micros> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    let digits = (1..=3).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    let number = number.parse::<i64>().ok().filter(|_| digits)?;
    let seconds = number * seconds;
    let allowed = !text.starts_with('0') && seconds <= MAX_SECONDS;
    allowed.then_some(seconds * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::window;

    #[test]
    fn a_window_is_a_number_and_a_unit() {
        for (text, micros) in [
            ("1s", Some(1_000_000)),
            ("15m", Some(900_000_000)),
            ("365d", Some(31_536_000_000_000)),
        ] {
            assert_eq!(window(text), micros, "{text}");
        }
        for text in [
            "", "m", "0m", "-1m", "+1m", "1", "1y", "366d", "1000s", "1.5h", "1ü",
        ] {
            assert_eq!(window(text), None, "{text}");
        }
    }
}
