//! Where a request stands in its story: correlation id and trace context, from its headers.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use onceward::{CorrelationId, IdGen, MessageContext, UuidV7, header};
use tracing::Instrument;

use crate::ApiError;

/// The context of everything a request sends, as an extractor.
///
/// A valid `correlation-id` header continues that story, none starts a new one; an invalid one is
/// refused, because the caller would look for a story that does not exist. An invalid
/// `traceparent` is ignored, as W3C asks.
#[derive(Debug, Clone)]
pub struct RequestContext(pub MessageContext);

impl<S: Send + Sync> FromRequestParts<S> for RequestContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        // Without the layer (a router under test) the request starts its own story.
        Ok(parts
            .extensions
            .get::<Self>()
            .cloned()
            .unwrap_or_else(|| Self(MessageContext::start(&UuidV7))))
    }
}

/// Reads the context once, puts it on the request's span and tells the client the correlation id.
pub(crate) async fn layer(
    State(ids): State<Arc<dyn IdGen>>,
    mut request: Request,
    next: Next,
) -> Response {
    let context = match read(request.headers(), &*ids) {
        Ok(context) => context,
        Err(refusal) => return refusal.into_response(),
    };
    let correlation_id = context.correlation_id.to_string();
    let span = tracing::info_span!(
        "http.request",
        method = %request.method(),
        path = request.uri().path(),
        correlation.id = correlation_id,
    );
    request.extensions_mut().insert(RequestContext(context));
    let mut response = next.run(request).instrument(span).await;
    if let Ok(value) = HeaderValue::try_from(correlation_id) {
        response.headers_mut().insert(header::CORRELATION_ID, value);
    }
    response
}

fn read(headers: &HeaderMap, ids: &dyn IdGen) -> Result<MessageContext, ApiError> {
    let mut context = match headers.get(header::CORRELATION_ID) {
        None => MessageContext::start(ids),
        Some(value) => {
            let id = value.to_str().ok().and_then(|v| v.parse().ok());
            let id: CorrelationId = id.ok_or_else(|| {
                ApiError::field(
                    StatusCode::BAD_REQUEST,
                    header::CORRELATION_ID,
                    "must be a UUID",
                )
            })?;
            MessageContext::correlated(id)
        }
    };
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    context.traceparent = text(header::TRACEPARENT)
        .filter(|v| is_traceparent(v))
        .map(str::to_owned);
    if context.traceparent.is_some() {
        context.tracestate = text(header::TRACESTATE)
            .filter(|v| v.len() <= 512)
            .map(str::to_owned);
    }
    Ok(context)
}

/// `version-trace id-parent id-flags` of W3C Trace Context level 1, lowercase hex.
fn is_traceparent(value: &str) -> bool {
    let parts: Vec<&str> = value.split('-').collect();
    let hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    match parts.as_slice() {
        [version, trace, parent, flags] => {
            hex(version, 2)
                && *version != "ff"
                && hex(trace, 32)
                && !zero(trace)
                && hex(parent, 16)
                && !zero(parent)
                && hex(flags, 2)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;
    use onceward::UuidV7;

    use super::read;

    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_request_continues_the_story_and_trace_of_its_headers() {
        let id = "0190b4a0-0000-7000-8000-000000000001";
        let context = read(
            &headers(&[
                ("correlation-id", id),
                ("traceparent", TRACE),
                ("tracestate", "a=1"),
            ]),
            &UuidV7,
        )
        .unwrap();
        assert_eq!(context.correlation_id.to_string(), id);
        assert_eq!(context.traceparent.as_deref(), Some(TRACE));
        assert_eq!(context.tracestate.as_deref(), Some("a=1"));
    }

    #[test]
    fn a_broken_correlation_id_is_refused_and_a_broken_trace_ignored() {
        let refusal = read(&headers(&[("correlation-id", "42")]), &UuidV7).unwrap_err();
        assert_eq!(refusal.fields()[0].field, "correlation-id");
        for broken in [
            "",
            "00-zz",
            &TRACE.to_uppercase(),
            &TRACE.replace("b7ad6b7169203331", "0000000000000000"),
        ] {
            let context = read(
                &headers(&[("traceparent", broken), ("tracestate", "a=1")]),
                &UuidV7,
            )
            .unwrap();
            assert_eq!(
                (context.traceparent, context.tracestate),
                (None, None),
                "{broken}"
            );
        }
    }
}
