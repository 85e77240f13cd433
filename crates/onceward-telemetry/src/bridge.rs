//! `tracing` spans and the traces of messages, by way of OpenTelemetry.

use onceward::trace::{Bridge, TraceParent};
use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

pub(crate) struct OpenTelemetry;

impl Bridge for OpenTelemetry {
    fn join(
        &self,
        span: &Span,
        parent: Option<TraceParent>,
        tracestate: Option<&str>,
    ) -> Option<TraceParent> {
        let parent = match parent {
            Some(parent) => {
                Context::new().with_remote_span_context(remote(parent, tracestate.unwrap_or("")))
            }
            None => Context::new(),
        };
        // Fails if the span is off, or was used before: then it can't be joined to anything.
        span.set_parent(parent).ok()?;
        let context = span.context();
        let own = context.span().span_context().clone();
        own.is_valid().then(|| TraceParent {
            trace_id: u128::from_be_bytes(own.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(own.span_id().to_bytes()),
            flags: own.trace_flags().to_u8(),
        })
    }

    fn link(&self, span: &Span, to: TraceParent) {
        span.add_link(remote(to, ""));
    }
}

fn remote(parent: TraceParent, tracestate: &str) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(parent.trace_id.to_be_bytes()),
        SpanId::from_bytes(parent.span_id.to_be_bytes()),
        TraceFlags::new(parent.flags),
        true,
        tracestate.parse::<TraceState>().unwrap_or_default(),
    )
}
