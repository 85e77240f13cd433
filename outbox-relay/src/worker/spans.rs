//! What a trace shows of a Kafka transaction.
//!
//! One span for the transaction, in a trace of its own because it has as many parents as records; it
//! links to each of them. And one span a record, in the trace that the record's `traceparent` tells
//! of, which links back. The header itself is published as the row holds it.

use onceward::publisher::{PublishOutcome, Record, Records};
use onceward::trace::{self, EXPORT_ONLY, MAX_LINKS, TraceParent};
use onceward::{SourceName, header};
use tracing::Span;
use tracing::field::Empty;

use super::meter::failure;

/// The spans of one transaction; none at all while spans go nowhere, or nobody records the messages.
pub(super) struct Spans {
    batch: Span,
    records: Vec<Span>,
}

impl Spans {
    /// Begins them. Costs one look at a static, and allocates nothing, unless spans are exported.
    pub(super) fn open(source: &SourceName, records: &Records) -> Self {
        let mut spans = Self {
            batch: Span::none(),
            records: Vec::new(),
        };
        let Some(bridge) = trace::bridge() else {
            return spans;
        };
        let traced: Vec<Traced<'_>> = records.iter().filter_map(Traced::of).collect();
        if traced.is_empty() {
            return spans;
        }
        spans.batch = tracing::info_span!(
            target: EXPORT_ONLY, parent: None, "relay.publish",
            otel.name = format!("send {source}"), otel.kind = "client",
            otel.status_code = Empty, error.type = Empty,
            messaging.system = "kafka",
            messaging.operation.name = "send", messaging.operation.type = "send",
            messaging.batch.message_count = records.len(),
            source = source.as_str(),
        );
        let batch = bridge.join(&spans.batch, None, None);
        for record in traced.iter().take(MAX_LINKS) {
            bridge.link(&spans.batch, record.parent);
        }
        spans.records = traced
            .iter()
            .map(|record| {
                let span = record.span(source);
                bridge.join(&span, Some(record.parent), record.state);
                if let Some(batch) = batch {
                    bridge.link(&span, batch);
                }
                span
            })
            .collect();
        spans
    }

    /// The transaction's own.
    pub(super) fn batch(&self) -> Span {
        self.batch.clone()
    }

    /// Ends them.
    pub(super) fn close(self, outcome: &PublishOutcome) {
        let Some(failure) = failure(outcome) else {
            return;
        };
        for span in std::iter::once(&self.batch).chain(&self.records) {
            span.record("otel.status_code", "error");
            span.record("error.type", failure);
        }
    }
}

/// A record that somebody records the trace of, and what its span tells.
struct Traced<'a> {
    record: Record<'a>,
    parent: TraceParent,
    state: Option<&'a str>,
    id: Option<&'a str>,
    story: Option<&'a str>,
    message_type: Option<&'a str>,
}

impl<'a> Traced<'a> {
    fn of(record: Record<'a>) -> Option<Self> {
        let (mut parent, mut state, mut id, mut story, mut message_type) =
            (None, None, None, None, None);
        for (name, value) in record.headers() {
            let slot = match name {
                header::TRACEPARENT => &mut parent,
                header::TRACESTATE => &mut state,
                header::CE_ID => &mut id,
                header::CORRELATION_ID => &mut story,
                header::CE_TYPE => &mut message_type,
                _ => continue,
            };
            *slot = std::str::from_utf8(value).ok();
        }
        let parent: TraceParent = parent?.parse().ok()?;
        parent.is_sampled().then_some(Self {
            record,
            parent,
            state,
            id,
            story,
            message_type,
        })
    }

    fn span(&self, source: &SourceName) -> Span {
        let to = self.record.destination;
        tracing::info_span!(
            target: EXPORT_ONLY, parent: None, "relay.record",
            otel.name = format!("send {}", to.topic), otel.kind = "client",
            otel.status_code = Empty, error.type = Empty,
            messaging.system = "kafka",
            messaging.operation.name = "send", messaging.operation.type = "send",
            messaging.destination.name = &*to.topic,
            messaging.destination.partition.id = %to.partition,
            messaging.message.id = self.id,
            messaging.message.conversation_id = self.story,
            message.type = self.message_type,
            source = source.as_str(),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use onceward::publisher::Records;
    use onceward::{SourceName, header};

    use super::Spans;

    #[test]
    fn while_spans_go_nowhere_a_transaction_allocates_none() {
        let mut records = Records::new(0);
        let there = records.add_destination("order.created".into(), 0);
        for _ in 0..5_000 {
            records.push(there, None, b"{}", |headers| {
                let parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
                headers.add(header::TRACEPARENT, parent);
            });
        }
        let source = SourceName::new("order").unwrap();
        let begun = Instant::now();
        for _ in 0..1_000 {
            let spans = Spans::open(&source, &records);
            assert!(spans.batch.is_none() && spans.records.capacity() == 0);
        }
        println!(
            "{:?} a transaction of 5,000 records",
            begun.elapsed() / 1_000
        );
    }
}
