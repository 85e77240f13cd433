//! Header names on the wire: CloudEvents' Kafka binary binding (`ce_*`), W3C trace context, and
//! ours. One place, so that relay, consumer and tools can't disagree.

/// Version of this header set; raised only when a reader must know, and read before it is written: all
/// consumers are upgraded before the first relay. A consumer makes a record of a newer one a dead letter.
pub const FORMAT: &str = "1";
/// Value of [`CE_SPECVERSION`].
pub const CE_SPECVERSION_VALUE: &str = "1.0";
/// Value of [`CONTENT_TYPE`] for what `append` writes.
pub const JSON: &str = "application/json";

/// CloudEvents id: the message id.
pub const CE_ID: &str = "ce_id";
/// CloudEvents source: the source name.
pub const CE_SOURCE: &str = "ce_source";
/// CloudEvents type: the versioned message type.
pub const CE_TYPE: &str = "ce_type";
/// CloudEvents version.
pub const CE_SPECVERSION: &str = "ce_specversion";
/// CloudEvents time, RFC 3339 with microseconds.
pub const CE_TIME: &str = "ce_time";
/// CloudEvents subject: the aggregate id.
pub const CE_SUBJECT: &str = "ce_subject";
/// Media type of the payload.
pub const CONTENT_TYPE: &str = "content-type";
/// The whole story, a UUID.
pub const CORRELATION_ID: &str = "correlation-id";
/// The message that led here, a UUID.
pub const CAUSATION_ID: &str = "causation-id";
/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// W3C trace context.
pub const TRACESTATE: &str = "tracestate";
/// `event`, `command` or `reply`.
pub const KIND: &str = "onceward-kind";
/// Kind of aggregate.
pub const AGGREGATE_TYPE: &str = "onceward-aggregate-type";
/// [`FORMAT`].
pub const HEADER_FORMAT: &str = "onceward-format";
/// How many rows of its source were published before and with this one: 1, 2, 3 …
pub const POSITION: &str = "onceward-position";
/// Position of the previous record of the same source in the same partition; 0 for the first.
pub const PREVIOUS_POSITION: &str = "onceward-previous-position";

/// Names a user's own headers may not take.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with("ce_")
        || name.starts_with("onceward-")
        || [
            CONTENT_TYPE,
            CORRELATION_ID,
            CAUSATION_ID,
            TRACEPARENT,
            TRACESTATE,
        ]
        .contains(&name)
}

/// Whether a record's [`HEADER_FORMAT`] is newer than [`FORMAT`]. What is no number is a stranger's.
pub(crate) fn is_newer(format: &str) -> bool {
    let known = FORMAT.parse::<u32>();
    matches!((format.parse::<u32>(), known), (Ok(found), Ok(known)) if found > known)
}
