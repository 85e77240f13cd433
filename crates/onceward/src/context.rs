//! What a message inherits from the request or message that caused it.

use tracing::{Instrument, Span};
use uuid::Uuid;

use crate::{CausationId, CorrelationId, Envelope, IdGen, Micros};

/// Correlation, causation and W3C trace context, passed explicitly (never by task-locals), so that
/// a message sent from a spawned task or a batch still tells where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageContext {
    /// The whole story this message belongs to.
    pub correlation_id: CorrelationId,
    /// The message that led here; `None` at the start of a story.
    pub causation_id: Option<CausationId>,
    /// When that message was written (its `ce_time`): lets a handler refuse what is too old.
    pub caused_at: Option<Micros>,
    /// The source which that message was written in (its `ce_source`).
    pub caused_in: Option<String>,
    /// W3C `traceparent` header.
    pub traceparent: Option<String>,
    /// W3C `tracestate` header.
    pub tracestate: Option<String>,
    pub(crate) spans: Spans,
}

/// Where the log lines and spans of a message belong. No part of what a context says: two contexts
/// are equal whatever they are handled within.
#[derive(Debug, Clone)]
pub(crate) struct Spans {
    pub(crate) log: Span,
    pub(crate) export: Span,
}

impl Default for Spans {
    fn default() -> Self {
        Self {
            log: Span::none(),
            export: Span::none(),
        }
    }
}

impl PartialEq for Spans {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Spans {}

impl MessageContext {
    /// Starts a new story.
    pub fn start(ids: &dyn IdGen) -> Self {
        Self::correlated(CorrelationId(ids.next()))
    }

    /// Continues a story known by its correlation id alone.
    pub fn correlated(correlation_id: CorrelationId) -> Self {
        Self {
            correlation_id,
            causation_id: None,
            caused_at: None,
            caused_in: None,
            traceparent: None,
            tracestate: None,
            spans: Spans::default(),
        }
    }

    /// The context of everything that handling `envelope` sends. A message from a stranger without
    /// a correlation id becomes the start of its own story.
    pub fn caused_by(envelope: &Envelope) -> Self {
        Self {
            correlation_id: envelope.correlation_id.unwrap_or(CorrelationId(
                envelope.message_id.map_or(Uuid::nil(), |id| id.0),
            )),
            causation_id: envelope.message_id,
            caused_at: envelope.occurred_at,
            caused_in: envelope.source.clone(),
            traceparent: envelope.traceparent.clone(),
            tracestate: envelope.tracestate.clone(),
            spans: Spans::default(),
        }
    }

    /// `work` within the spans of the message that is being handled: its log lines tell message and
    /// story, its spans belong to the trace. A handler already runs so; work that it spawns, or a
    /// batch that it takes apart, does not.
    pub fn within<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        let Spans { log, export } = self.spans.clone();
        work.instrument(export).instrument(log)
    }

    /// The same context with a W3C trace.
    #[must_use]
    pub fn traced(mut self, traceparent: Option<String>) -> Self {
        self.traceparent = traceparent;
        self
    }
}
