//! The bounds of a request: size of its parts, time, and how many at the same time.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::limits::size;
use crate::{Limits, Problem, metrics};

/// Requests for health and metrics answered at the same time, besides the others.
const VITAL_REQUESTS: usize = 16;
/// How much of a body that is too large is read and thrown away, so that a client that is still
/// sending gets to see the answer instead of a reset connection.
const MAX_DISCARDED_BYTES: u64 = 8 * 1024 * 1024;

/// Lets requests through to a router, within [`Limits`]. Cheap to clone; clones share the count of
/// what is under way.
///
/// It reads the body before the handler runs, so that a slow client holds no database connection
/// and every handler has the whole body or is not called.
#[derive(Debug, Clone)]
pub struct Guard {
    limits: Arc<Limits>,
    requests: Arc<Semaphore>,
    vital: Arc<Semaphore>,
}

impl Guard {
    /// A guard with nothing under way yet.
    pub fn new(limits: Limits) -> Self {
        metrics::describe();
        Self {
            requests: Arc::new(Semaphore::new(size(limits.max_requests))),
            vital: Arc::new(Semaphore::new(VITAL_REQUESTS)),
            limits: Arc::new(limits),
        }
    }

    /// Puts itself before every route of `router`, its fallback included.
    pub fn protect<S: Clone + Send + Sync + 'static>(&self, router: Router<S>) -> Router<S> {
        router.layer(middleware::from_fn_with_state(self.clone(), admit))
    }

    fn places(&self, path: &str) -> &Semaphore {
        match path {
            "/healthz" | "/readyz" | "/metrics" => &self.vital,
            _ => &self.requests,
        }
    }

    fn look_at_head(&self, request: &Request) -> Result<(), Problem> {
        let uri = request.uri();
        let length = uri.path_and_query().map_or(0, |text| text.as_str().len());
        if length > size(self.limits.max_uri_bytes) {
            note("uri");
            return Err(Problem::new(
                StatusCode::URI_TOO_LONG,
                format!(
                    "path and query must not be longer than {} bytes",
                    self.limits.max_uri_bytes
                ),
            ));
        }
        // As on the wire: `name: value\r\n`.
        let bytes = |headers: &HeaderMap| -> usize {
            let field = |(name, value): (&header::HeaderName, &header::HeaderValue)| {
                name.as_str().len() + value.len() + 4
            };
            headers.iter().map(field).sum()
        };
        if bytes(request.headers()) > size(self.limits.max_header_bytes) {
            note("head");
            return Err(Problem::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                format!(
                    "all header fields together must not be larger than {} bytes",
                    self.limits.max_header_bytes
                ),
            ));
        }
        Ok(())
    }

    /// The same request with its whole body in memory.
    async fn read_body(&self, request: Request) -> Result<Request, Problem> {
        if request.body().is_end_stream() {
            return Ok(request);
        }
        let max = self.limits.max_body_bytes;
        let too_large = || {
            note("body");
            Problem::of_field(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body",
                format!("must not be larger than {max} bytes"),
            )
        };
        let announced = request.body().size_hint().lower();
        // A client that asks first has not sent it yet.
        let waits = request.headers().contains_key(header::EXPECT);
        if announced > MAX_DISCARDED_BYTES || (announced > max && waits) {
            return Err(too_large());
        }
        let (parts, body) = request.into_parts();
        let mut stream = body.into_data_stream();
        let (mut body, mut bytes) = (Vec::new(), 0_u64);
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|_| {
                Problem::of_field(StatusCode::BAD_REQUEST, "body", "could not be read")
            })?;
            bytes += chunk.len() as u64;
            if bytes <= max {
                body.extend_from_slice(&chunk);
            } else if bytes > MAX_DISCARDED_BYTES {
                break;
            }
        }
        if bytes > max {
            return Err(too_large());
        }
        Ok(Request::from_parts(parts, Body::from(body)))
    }
}

async fn admit(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let deadline = Instant::now() + guard.limits.request_timeout();
    if let Err(problem) = guard.look_at_head(&request) {
        return problem.into_response();
    }
    // Not queued: what waits behind so many would be answered after its client has given up.
    let Ok(_place) = guard.places(request.uri().path()).try_acquire() else {
        note("busy");
        return Problem::try_again("too many requests at the same time; nothing was done")
            .into_response();
    };
    let request = match timeout_at(deadline, guard.read_body(request)).await {
        Ok(Ok(request)) => request,
        Ok(Err(problem)) => return problem.into_response(),
        Err(_) => {
            note("slow_body");
            let detail = format!("the body did not arrive within {}", seconds(&guard));
            return Problem::new(StatusCode::REQUEST_TIMEOUT, detail).into_response();
        }
    };
    match timeout_at(deadline, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            note("too_long");
            tracing::warn!("a request took longer than {}", seconds(&guard));
            let detail = format!(
                "this took longer than {} and may still happen; to repeat a write safely, send the \
                 same Idempotency-Key",
                seconds(&guard)
            );
            Problem::try_again(detail).into_response()
        }
    }
}

fn seconds(guard: &Guard) -> String {
    let limit: Duration = guard.limits.request_timeout();
    format!("{limit:?}")
}

pub(crate) fn note(reason: &'static str) {
    ::metrics::counter!(metrics::REFUSED, "reason" => reason).increment(1);
}
