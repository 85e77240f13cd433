//! Spans of messages, and the trace that travels with a message.
//!
//! A message carries a W3C `traceparent`. The library makes `tracing` spans and passes that header
//! on; it exports nothing itself. Whoever does (`onceward-telemetry`, or a few lines of your own)
//! [`install`]s a [`Bridge`] once, and from then on:
//!
//! ```text
//!  request's span ─▶ create (append) ─▶ process (handler) ─▶ create ─▶ process …   one trace
//!                        ▲    ▲              ┆ link
//!                        │    └── send ┄┐    ▼
//!                        ┆ link         ┆  batch of the consumer      a trace of their own:
//!                        └ batch of the relay ◀┘                      a batch has many parents
//! ```
//!
//! The header a row is stored with is that of its `create` span and is published unchanged, so what
//! is in Kafka does not depend on who looks.
//!
//! Without a bridge nothing of this costs anything but one look at a static, and a trace that came
//! in with a request or a message is passed on as it came.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use tracing::Span;

use crate::consumer::HandlerError;
use crate::context::Spans;
use crate::{Envelope, MessageContext, MessageId};

/// Target of the spans that exist only to be exported. A log has no use for them.
pub const EXPORT_ONLY: &str = "onceward::export";

/// Target of the spans that exist only to give log lines their fields. An exporter has no use for
/// them.
pub const LOG_ONLY: &str = "onceward::log";

/// Most links of one span; OpenTelemetry's default limit.
pub const MAX_LINKS: usize = 128;

/// A W3C `traceparent`: which trace, which span of it, and whether somebody records it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// Sixteen bytes, not all zero.
    pub trace_id: u128,
    /// Eight bytes, not all zero.
    pub span_id: u64,
    /// Bit 0: sampled.
    pub flags: u8,
}

impl TraceParent {
    /// Whether the trace is recorded.
    pub fn is_sampled(self) -> bool {
        self.flags & 1 == 1
    }

    /// The trace id as people look it up: 32 hex digits.
    pub fn trace_id_hex(self) -> String {
        format!("{:032x}", self.trace_id)
    }
}

/// Text that is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent")]
pub struct InvalidTraceParent;

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    /// `version-trace id-parent id-flags`, lower-case hex. A later version than 00 may have more
    /// parts, which are dropped, as W3C Trace Context asks.
    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let mut parts = text.split('-');
        let mut hex = |length: usize| -> Result<u128, InvalidTraceParent> {
            let part = parts.next().ok_or(InvalidTraceParent)?;
            let plain = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            if part.len() != length || !part.bytes().all(plain) {
                return Err(InvalidTraceParent);
            }
            u128::from_str_radix(part, 16).map_err(|_| InvalidTraceParent)
        };
        let (version, trace_id, span_id, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return Err(InvalidTraceParent);
        }
        if trace_id == 0 || span_id == 0 {
            return Err(InvalidTraceParent);
        }
        Ok(Self {
            trace_id,
            span_id: u64::try_from(span_id).map_err(|_| InvalidTraceParent)?,
            flags: u8::try_from(flags).map_err(|_| InvalidTraceParent)?,
        })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace_id,
            span_id,
            flags,
        } = self;
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{flags:02x}")
    }
}

/// What exports `tracing` spans, as the library needs to know it. Called on the paths of requests
/// and messages: it must neither block nor fail.
pub trait Bridge: Send + Sync {
    /// Makes `span` a child of `parent`, or the start of a new trace, and tells how others refer to
    /// it; `None` if nobody will ever see the span.
    fn join(
        &self,
        span: &Span,
        parent: Option<TraceParent>,
        tracestate: Option<&str>,
    ) -> Option<TraceParent>;

    /// Links `span`, which was joined before, to another one that it is not the child of.
    fn link(&self, span: &Span, to: TraceParent);
}

static BRIDGE: OnceLock<Box<dyn Bridge>> = OnceLock::new();

/// Installs the bridge of this process. The first one stays; says whether this is it.
pub fn install(bridge: impl Bridge + 'static) -> bool {
    BRIDGE.set(Box::new(bridge)).is_ok()
}

/// The bridge, if spans are exported at all.
pub fn bridge() -> Option<&'static dyn Bridge> {
    BRIDGE.get().map(|bridge| &**bridge)
}

/// Makes `span` part of the trace that `context` tells of (the start of one if it tells of none),
/// and lets what is sent with `context` continue from it. Says what was joined.
pub fn join(span: &Span, context: &mut MessageContext) -> Option<TraceParent> {
    let parent = context.traceparent.as_deref().and_then(|t| t.parse().ok());
    let joined = bridge()?.join(span, parent, context.tracestate.as_deref())?;
    context.traceparent = Some(joined.to_string());
    Some(joined)
}

/// The span of one `append` and the `traceparent` of the row. Without a bridge: a span that does
/// nothing, and the context's own.
pub(crate) fn create(
    context: &MessageContext,
    id: MessageId,
    message_type: &str,
    topic: &str,
) -> (Span, Option<String>) {
    if bridge().is_none() {
        return (Span::none(), context.traceparent.clone());
    }
    let span = tracing::info_span!(
        target: EXPORT_ONLY, parent: None, "outbox.append",
        otel.name = format!("create {topic}"), otel.kind = "producer",
        messaging.system = "kafka",
        messaging.operation.name = "create", messaging.operation.type = "create",
        messaging.destination.name = topic,
        messaging.message.id = %id,
        messaging.message.conversation_id = %context.correlation_id,
        message.type = message_type,
    );
    let mut traced = context.clone();
    join(&span, &mut traced);
    (span, traced.traceparent)
}

/// Whose batch a message is handled in.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Scope<'a> {
    pub consumer: &'a str,
    /// The span of the batch, if any.
    pub batch: Option<TraceParent>,
}

impl<'a> Scope<'a> {
    /// A message by itself.
    pub(crate) fn of(consumer: &'a str) -> Self {
        Self {
            consumer,
            batch: None,
        }
    }

    /// The context a handler sends by, and the spans it runs within: two, because a log wants a few
    /// fields always, and an exporter many, only if there is one.
    pub(crate) fn process(self, envelope: &Envelope) -> (MessageContext, Processing) {
        let mut context = MessageContext::caused_by(envelope);
        let log = tracing::info_span!(
            target: LOG_ONLY, parent: None, "inbox.handle",
            message.id = envelope.ce_id.as_deref().map(short),
            message.type = envelope.message_type.as_deref().map(short),
            correlation.id = %context.correlation_id,
            consumer = self.consumer,
            record = %envelope.coordinates,
            trace.id = tracing::field::Empty,
        );
        let export = process(self.consumer, envelope);
        if let Some(joined) = join(&export, &mut context) {
            log.record("trace.id", joined.trace_id_hex());
            if let (Some(bridge), Some(batch)) = (bridge(), self.batch) {
                bridge.link(&export, batch);
            }
        }
        context.spans = Spans {
            log,
            export: export.clone(),
        };
        let processing = Processing {
            export,
            ended: false,
        };
        (context, processing)
    }
}

/// Tells the exported span how the handler ended; one that is dropped before was cut off.
pub(crate) struct Processing {
    export: Span,
    ended: bool,
}

impl Processing {
    /// Nothing if nobody will see it.
    pub(crate) fn if_exported(self) -> Option<Self> {
        (!self.export.is_none()).then_some(self)
    }

    pub(crate) fn ended(mut self, handled: &Result<(), HandlerError>) {
        self.ended = true;
        match handled {
            Ok(()) => {}
            Err(HandlerError::Retry { .. }) => self.failed("retry"),
            Err(HandlerError::Reject(_)) => self.failed("reject"),
            Err(HandlerError::Database(_)) => self.failed("database"),
        }
    }

    fn failed(&self, class: &'static str) {
        self.export.record("otel.status_code", "error");
        self.export.record("error.type", class);
    }
}

impl Drop for Processing {
    fn drop(&mut self) {
        if !self.ended && !self.export.is_none() {
            let panics = std::thread::panicking();
            self.failed(if panics { "panic" } else { "timeout" });
        }
    }
}

fn process(consumer: &str, envelope: &Envelope) -> Span {
    if bridge().is_none() {
        return Span::none();
    }
    let at = &envelope.coordinates;
    tracing::info_span!(
        target: EXPORT_ONLY, parent: None, "inbox.handle",
        otel.name = format!("process {}", at.topic), otel.kind = "consumer",
        otel.status_code = tracing::field::Empty, error.type = tracing::field::Empty,
        messaging.system = "kafka",
        messaging.operation.name = "process", messaging.operation.type = "process",
        messaging.consumer.group.name = consumer,
        messaging.destination.name = at.topic,
        messaging.destination.partition.id = %at.partition,
        messaging.kafka.offset = at.offset,
        messaging.message.id = envelope.ce_id.as_deref().map(short),
        messaging.message.conversation_id = envelope.correlation_id.map(tracing::field::display),
        message.type = envelope.message_type.as_deref().map(short),
    )
}

/// The span of one database transaction with many messages, and how their own spans link to it.
/// Nothing if none of the messages is recorded.
pub(crate) fn batch<'a>(
    consumer: &str,
    envelopes: impl ExactSizeIterator<Item = &'a Envelope>,
) -> (Span, Option<TraceParent>) {
    let nothing = (Span::none(), None);
    let Some(bridge) = bridge() else {
        return nothing;
    };
    let count = envelopes.len();
    let sent = envelopes.filter_map(|e| e.traceparent.as_deref()?.parse().ok());
    let links: Vec<TraceParent> = sent
        .filter(|parent: &TraceParent| parent.is_sampled())
        .take(MAX_LINKS)
        .collect();
    if links.is_empty() {
        return nothing;
    }
    let span = tracing::info_span!(
        target: EXPORT_ONLY, parent: None, "inbox.batch",
        otel.name = format!("process {consumer}"), otel.kind = "consumer",
        messaging.system = "kafka",
        messaging.operation.name = "process", messaging.operation.type = "process",
        messaging.consumer.group.name = consumer,
        messaging.batch.message_count = count,
    );
    let joined = bridge.join(&span, None, None);
    links.into_iter().for_each(|to| bridge.link(&span, to));
    (span, joined)
}

/// Text of strangers, short enough for every log line.
fn short(text: &str) -> &str {
    let end = text
        .char_indices()
        .nth(120)
        .map_or(text.len(), |(at, _)| at);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::TraceParent;

    const TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_and_written_as_it_was() {
        let read: TraceParent = TEXT.parse().unwrap();
        assert_eq!(read.to_string(), TEXT);
        assert!(read.is_sampled());
        let later = TEXT.replacen("00", "01", 1) + "-what-comes-in-version-01";
        assert_eq!(later.parse(), Ok(read));
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        for wrong in [
            "",
            "00",
            &TEXT.to_uppercase(),
            &TEXT.replacen("00", "ff", 1),
            &TEXT.replace("b7ad6b7169203331", "0000000000000000"),
            &TEXT.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &TEXT.replace("b7ad", "+7ad"),
            &format!("{TEXT}-00"),
            &format!("{TEXT}é"),
        ] {
            assert!(wrong.parse::<TraceParent>().is_err(), "{wrong}");
        }
    }
}
