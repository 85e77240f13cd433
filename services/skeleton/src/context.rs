//! Where a request stands in its story: correlation id and trace context, from its headers.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use onceward::trace::{self, TraceParent};
use onceward::{CorrelationId, IdGen, MessageContext, UuidV7, header};
use tracing::field::Empty;
use tracing::{Instrument, Span};

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

/// Reads the context once, puts it on the request's spans and tells the client the correlation id.
pub(crate) async fn layer(
    State(ids): State<Arc<dyn IdGen>>,
    mut request: Request,
    next: Next,
) -> Response {
    let mut context = match read(request.headers(), &*ids) {
        Ok(context) => context,
        Err(refusal) => return refusal.into_response(),
    };
    let correlation_id = context.correlation_id.to_string();
    let log = tracing::info_span!(
        target: trace::LOG_ONLY, parent: None, "http.request",
        http.request.method = %request.method(), url.path = request.uri().path(),
        correlation.id = correlation_id, trace.id = Empty,
    );
    let export = exported_span(&request, &correlation_id);
    if let Some(joined) = trace::join(&export, &mut context) {
        log.record("trace.id", joined.trace_id_hex());
    }
    request.extensions_mut().insert(RequestContext(context));
    let handled = next.run(request);
    let mut response = handled.instrument(export.clone()).instrument(log).await;
    let status = response.status();
    export.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        export.record("otel.status_code", "error");
        export.record("error.type", status.as_str());
    }
    if let Ok(value) = HeaderValue::try_from(correlation_id) {
        response.headers_mut().insert(header::CORRELATION_ID, value);
    }
    response
}

/// The request as a trace shows it; a span that does nothing while spans go nowhere.
fn exported_span(request: &Request, correlation_id: &str) -> Span {
    if trace::bridge().is_none() {
        return Span::none();
    }
    let method = request.method().as_str();
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map(MatchedPath::as_str);
    tracing::info_span!(
        target: trace::EXPORT_ONLY, parent: None, "http.request",
        otel.name = [method, route.unwrap_or_default()].join(" ").trim_end(),
        otel.kind = "server", otel.status_code = Empty, error.type = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        url.path = request.uri().path(),
        correlation.id = correlation_id,
    )
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
    let parent: Option<TraceParent> = text(header::TRACEPARENT).and_then(|v| v.parse().ok());
    context.traceparent = parent.map(|parent| parent.to_string());
    if context.traceparent.is_some() {
        context.tracestate = text(header::TRACESTATE)
            .filter(|v| v.len() <= 512)
            .map(str::to_owned);
    }
    Ok(context)
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
