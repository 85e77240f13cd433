//! The unit of work of a request that may come twice.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, StatusCode, header};
use onceward::idempotency::{Claim, Request, StoredAnswer};
use onceward::{Backend, Tx};
use utoipa::IntoParams;

use crate::{Answer, ApiError, App};

/// The header by which a client marks a request that it may repeat.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// That header, for `params(..)` of `#[utoipa::path]`.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
pub struct IdempotencyKey {
    /// Marks requests that are the same one, for a day: the first is carried out, the others get its
    /// answer. The same key with another body is refused with 422.
    #[param(
        rename = "Idempotency-Key",
        required = false,
        value_type = String,
        min_length = 1,
        max_length = 255,
        pattern = "^[!-~]([ -~]*[!-~])?$",
        example = "3f9a6c1e-order-7"
    )]
    pub key: Option<String>,
}

/// Longest key accepted, in characters.
const MAX_KEY_CHARS: usize = 255;

/// Runs `work` in one unit of work; it runs again if the database made it the victim of a deadlock
/// or of a serialization failure.
///
/// # Errors
/// What `work` refused with, else 503, or 500 if it panicked.
pub async fn write<B, T, F>(app: &App<B>, work: F) -> Result<T, ApiError>
where
    B: Backend,
    T: Send + 'static,
    F: for<'t> AsyncFn(&'t mut Tx<'static, B>) -> Result<T, ApiError> + Send + 'static,
{
    let written = app.db().write_with(onceward::is_victim, work).await;
    written.map_err(ApiError::from)
}

/// Runs `work` in one unit of work, at most once per `Idempotency-Key`: a repeated request gets
/// the stored answer, a concurrent twin waits for it. Without the header it just runs.
///
/// What `work` refuses is rolled back together with the key, so refusals are not stored.
///
/// # Errors
/// 400 for a key that is empty or too long, 422 if the key was used with another body, 503 if the
/// database is not available or the commit's outcome is not known.
pub async fn write_once<B, F>(
    app: &App<B>,
    headers: &HeaderMap,
    request: RequestIdentity<'_>,
    work: F,
) -> Result<Answer, ApiError>
where
    B: Backend,
    F: for<'t> AsyncFn(&'t mut Tx<'static, B>) -> Result<Answer, ApiError> + Send + Sync + 'static,
{
    let Some(key) = key_of(headers)? else {
        return write(app, work).await;
    };
    let request = Request::new(
        request.method,
        request.path,
        request.user_id,
        &key,
        request.body,
    );
    let now = app.clock().now();
    let once = async move |tx: &mut Tx<'static, B>| match request.claim(tx, now).await? {
        Claim::First => {
            let answer = work(tx).await?;
            request.store(tx, &stored(&answer)).await?;
            Ok(answer)
        }
        Claim::Answered(answer) => again(answer),
        Claim::OtherBody => Err(ApiError::field(
            StatusCode::UNPROCESSABLE_ENTITY,
            IDEMPOTENCY_KEY,
            "was used with another body",
        )),
    };
    write(app, once).await
}

/// What makes two requests the same one, besides the key.
#[derive(Debug, Clone, Copy)]
pub struct RequestIdentity<'a> {
    /// HTTP method.
    pub method: &'a str,
    /// Path without query.
    pub path: &'a str,
    /// Who asks.
    pub user_id: &'a str,
    /// The body as it came.
    pub body: &'a [u8],
}

fn key_of(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    match value.to_str() {
        Ok(key) if (1..=MAX_KEY_CHARS).contains(&key.trim().len()) => {
            Ok(Some(key.trim().to_owned()))
        }
        _ => Err(ApiError::field(
            StatusCode::BAD_REQUEST,
            IDEMPOTENCY_KEY,
            format!("must be 1 to {MAX_KEY_CHARS} printable characters"),
        )),
    }
}

fn stored(answer: &Answer) -> StoredAnswer {
    let location = answer.location.clone();
    StoredAnswer {
        status: answer.status.as_u16(),
        headers: location
            .map(|l| (header::LOCATION.to_string(), l))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
        body: answer.body.clone(),
    }
}

fn again(stored: StoredAnswer) -> Result<Answer, ApiError> {
    Ok(Answer {
        status: StatusCode::from_u16(stored.status).map_err(ApiError::internal)?,
        location: stored.headers.get(header::LOCATION.as_str()).cloned(),
        body: stored.body,
    })
}
