//! Typed messages and the envelope they travel in.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{CausationId, CorrelationId, MessageId, Micros, Routing};

/// What a message means to its reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageKind {
    /// A fact in the past tense: `order.created.v1`.
    Event,
    /// A wish: `payment.process.v1`. One of a saga is answered by a reply.
    Command,
    /// The answer to one command: `payment.completed.v1`.
    Reply,
}

impl MessageKind {
    /// As written to the `onceward-kind` header.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Command => "command",
            Self::Reply => "reply",
        }
    }
}

/// A typed message. Derive it on a serde struct and `append` it.
///
/// ```
/// use onceward::Event;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(type = "order.placed.v1", id = order_id)]
/// struct OrderPlaced {
///     order_id: u64,
///     amount_minor: i64,
/// }
///
/// let placed = OrderPlaced { order_id: 7, amount_minor: 19_999 };
/// assert_eq!(OrderPlaced::AGGREGATE_TYPE, "order");
/// assert_eq!(placed.message_key().as_deref(), Some("7"));
/// ```
///
/// `#[event(…)]` also takes `aggregate = "order"` (else the type up to its first dot),
/// `key = customer_id` to keep order by another field, `key = none` to give order up, and
/// `kind = command` or `kind = reply`:
///
/// ```
/// # use onceward::{Event, MessageKind};
/// # use serde::{Deserialize, Serialize};
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(type = "mail.send.v1", kind = command, id = mail_id, aggregate = "letter", key = to)]
/// struct SendMail {
///     mail_id: u64,
///     to: String,
/// }
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(type = "page.viewed.v1", id = 0, key = none)]
/// struct PageViewed(String);
///
/// let mail = SendMail { mail_id: 1, to: "a@b.example".into() };
/// assert_eq!(SendMail::KIND, MessageKind::Command);
/// assert_eq!(SendMail::AGGREGATE_TYPE, "letter");
/// assert_eq!(mail.aggregate_id(), "1");
/// assert_eq!(mail.message_key().as_deref(), Some("a@b.example"));
/// assert_eq!(PageViewed("/".into()).message_key(), None);
/// ```
///
/// What is left out is a compile error that says so:
///
/// ```compile_fail
/// # use onceward::Event;
/// #[derive(serde::Serialize, serde::Deserialize, Event)]
/// #[event(type = "order.placed.v1")] // which field is the id?
/// struct OrderPlaced { order_id: u64 }
/// ```
///
/// Written by hand it is three items: [`TYPE`](Event::TYPE),
/// [`AGGREGATE_TYPE`](Event::AGGREGATE_TYPE) and [`aggregate_id`](Event::aggregate_id).
pub trait Event: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// Versioned name, `order.created.v1`: topic name plus version unless a [`crate::Routing`]
    /// says otherwise. A changed meaning is a new version.
    const TYPE: &'static str;
    /// Fact, wish or answer.
    const KIND: MessageKind = MessageKind::Event;
    /// Kind of thing the message is about: `order`.
    const AGGREGATE_TYPE: &'static str;
    /// Which one; becomes `ce_subject`.
    fn aggregate_id(&self) -> String;
    /// The key: messages of one (source, topic, key) stay in order. `None` gives up order.
    fn message_key(&self) -> Option<String> {
        Some(self.aggregate_id())
    }
}

/// A message with everything it travels with, as a handler sees it.
///
/// Records from Kafka are untrusted: whatever a stranger left out is `None`, and the payload is
/// bytes until a handler's type accepts it.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// `ce_id`, if it is a UUID.
    pub message_id: Option<MessageId>,
    /// `ce_id` as it was sent; with `source`, what the inbox dedupes on.
    pub ce_id: Option<String>,
    /// `ce_source`: the name of the outbox the message came from.
    pub source: Option<String>,
    /// `ce_type`, versioned.
    pub message_type: Option<String>,
    /// `onceward-kind`.
    pub kind: Option<MessageKind>,
    /// `ce_subject`.
    pub aggregate_id: Option<String>,
    /// `ce_time` in microseconds.
    pub occurred_at: Option<Micros>,
    /// `correlation-id`.
    pub correlation_id: Option<CorrelationId>,
    /// `causation-id`.
    pub causation_id: Option<CausationId>,
    /// W3C `traceparent`.
    pub traceparent: Option<String>,
    /// W3C `tracestate`.
    pub tracestate: Option<String>,
    /// Where the record stands.
    pub coordinates: Coordinates,
    /// The record's key.
    pub message_key: Option<Bytes>,
    /// The record's value; empty for a tombstone.
    pub payload: Bytes,
    /// All headers as they came, in order.
    pub headers: Vec<(String, Bytes)>,
}

/// Where a record stands in Kafka.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Coordinates {
    /// Topic name.
    pub topic: String,
    /// Partition of the topic, from 0.
    pub partition: i32,
    /// Offset in the partition, from 0.
    pub offset: i64,
}

impl std::fmt::Display for Coordinates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

impl Envelope {
    /// `event` as a consumer would get it from Kafka, from the source `test`: for tests of handlers,
    /// see [`Handlers::dispatch`](crate::consumer::Handlers::dispatch).
    ///
    /// # Errors
    /// If the event can't be written as JSON.
    pub fn of<E: Event>(event: &E, message_id: MessageId) -> Result<Self, serde_json::Error> {
        Ok(Self {
            message_id: Some(message_id),
            ce_id: Some(message_id.to_string()),
            source: Some("test".to_owned()),
            message_type: Some(E::TYPE.to_owned()),
            kind: Some(E::KIND),
            aggregate_id: Some(event.aggregate_id()),
            occurred_at: None,
            correlation_id: None,
            causation_id: None,
            traceparent: None,
            tracestate: None,
            coordinates: Coordinates {
                topic: Routing::default().topic(E::TYPE).to_owned(),
                partition: 0,
                offset: 0,
            },
            message_key: event.message_key().map(Bytes::from),
            payload: serde_json::to_vec(event)?.into(),
            headers: Vec::new(),
        })
    }

    /// Decodes the payload as `E`. Fails if the type header names another type or the JSON does
    /// not fit; both end as a dead letter, because trying again can't help.
    pub fn decode<E: Event>(&self) -> Result<E, DecodeError> {
        match self.message_type.as_deref() {
            Some(found) if found == E::TYPE => {}
            found => {
                return Err(DecodeError::Type {
                    expected: E::TYPE,
                    found: found.map(str::to_owned),
                });
            }
        }
        serde_json::from_slice(&self.payload).map_err(|source| DecodeError::Payload {
            message_type: E::TYPE,
            source,
        })
    }
}

/// A payload that is not what its consumer expects.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The type header is missing or another one.
    #[error("expected message type {expected}, found {}", found.as_deref().unwrap_or("none"))]
    Type {
        /// What the handler accepts.
        expected: &'static str,
        /// What the record says it is.
        found: Option<String>,
    },
    /// The JSON does not fit the type.
    #[error("payload is not a valid {message_type}")]
    Payload {
        /// The type that was tried.
        message_type: &'static str,
        /// Where and why it does not fit.
        #[source]
        source: serde_json::Error,
    },
}
