//! `append`: write an intent to publish, in the transaction that makes the change.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::{Instrument, Span};

use crate::backend::{Backend, OutboxConnection, in_transaction};
use crate::bulk::{Bulk, pieces};
use crate::{
    Clock, Error, Event, IdGen, MessageContext, MessageId, MessageKind, Micros, Result, Routing,
    SourceName, SystemClock, UuidV7, header, is_topic_name, trace,
};

/// Largest payload `append` accepts unless told otherwise, in bytes. Below Kafka's default
/// `max.message.bytes` (1,048,588) with room for headers.
pub const MAX_PAYLOAD_BYTES: usize = 900_000;

/// Longest key `append` accepts, in bytes. A key is hashed, compared and held in memory with each row: one
/// that is longer is rather a payload in the wrong place.
pub const MAX_KEY_BYTES: usize = 8_192;

/// Writes messages into the `outbox` table of one source. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outbox {
    source: SourceName,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdGen>,
    routing: Arc<Routing>,
    max_payload_bytes: usize,
}

/// A message that is already bytes: for callers without a typed [`Event`], and for those who want
/// to add something to one.
///
/// ```
/// # #[derive(serde::Serialize, serde::Deserialize, onceward::Event)]
/// # #[event(type = "order.placed.v1", id = id)]
/// # struct Order { id: u64 }
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use onceward::RawMessage;
///
/// let message = RawMessage::of(&Order { id: 7 })?
///     .with_header("tenant", "acme")
///     .to_topic("orders.eu");
/// # assert_eq!(message.headers["tenant"], "acme");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct RawMessage {
    /// Versioned type.
    pub message_type: String,
    /// Fact, wish or answer.
    pub kind: MessageKind,
    /// Kind of aggregate.
    pub aggregate_type: String,
    /// Which aggregate.
    pub aggregate_id: String,
    /// Ordering key.
    pub message_key: Option<String>,
    /// Topic; `None` asks the routing.
    pub topic: Option<String>,
    /// JSON, or whatever `content-type` in `headers` says.
    pub payload: Vec<u8>,
    /// The user's own headers; [`header::is_reserved`] names are refused.
    pub headers: BTreeMap<String, String>,
}

impl RawMessage {
    /// This event as bytes, as [`Outbox::append`] writes it.
    ///
    /// # Errors
    /// If it can't be written as JSON.
    pub fn of<E: Event>(event: &E) -> Result<Self, serde_json::Error> {
        Ok(Self {
            message_type: E::TYPE.to_owned(),
            kind: E::KIND,
            aggregate_type: E::AGGREGATE_TYPE.to_owned(),
            aggregate_id: event.aggregate_id(),
            message_key: event.message_key(),
            topic: None,
            payload: serde_json::to_vec(event)?,
            headers: BTreeMap::new(),
        })
    }

    /// Adds a header of your own, or replaces it.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Sends this one message to `topic`, whatever the routing says.
    #[must_use]
    pub fn to_topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }
}

impl Outbox {
    /// An outbox of this source with system clock, UUID v7 ids and default routing.
    pub fn new(source: SourceName) -> Self {
        Self {
            source,
            clock: Arc::new(SystemClock),
            ids: Arc::new(UuidV7),
            routing: Arc::default(),
            max_payload_bytes: MAX_PAYLOAD_BYTES,
        }
    }

    /// Takes time and ids from these.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>, ids: Arc<dyn IdGen>) -> Self {
        self.clock = clock;
        self.ids = ids;
        self
    }

    /// Routes message types to topics by this table.
    #[must_use]
    pub fn with_routing(mut self, routing: Routing) -> Self {
        self.routing = Arc::new(routing);
        self
    }

    /// Largest payload in bytes.
    #[must_use]
    pub fn with_max_payload_bytes(mut self, limit: usize) -> Self {
        self.max_payload_bytes = limit;
        self
    }

    /// Name of the source this outbox belongs to.
    pub fn source(&self) -> &SourceName {
        &self.source
    }
    /// The context of a message that nothing led to: the start of a story, with an id of its own.
    pub fn new_context(&self) -> MessageContext {
        MessageContext::start(&*self.ids)
    }
    /// Which topic a message type goes to.
    pub fn routing(&self) -> &Routing {
        &self.routing
    }
    /// Where this outbox takes its time from.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
    /// Where this outbox takes its ids from.
    pub fn ids(&self) -> &Arc<dyn IdGen> {
        &self.ids
    }

    /// Writes one message. It is published if, and only if, the transaction commits; messages of
    /// one (topic, key) are published in the order of their inserts, so lock the aggregate's row
    /// **before** calling this where two transactions can write the same key.
    ///
    /// # Errors
    /// [`Error::NoTransaction`] outside a transaction, [`Error::PayloadTooLarge`], [`Error::KeyTooLong`],
    /// [`Error::InvalidTopic`], [`Error::Encode`], [`Error::Database`]. On an error nothing was written.
    pub async fn append<B: Backend, E: Event>(
        &self,
        tx: &mut impl OutboxConnection<B>,
        context: &MessageContext,
        event: &E,
    ) -> Result<MessageId> {
        let message = RawMessage::of(event).map_err(|source| Error::Encode {
            message_type: E::TYPE,
            source,
        })?;
        self.append_raw(tx, context, message).await
    }

    /// [`Self::append`] for a message that is already bytes.
    ///
    /// # Errors
    /// As [`Self::append`], and [`Error::ReservedHeader`] for a header that takes a name of ours.
    pub async fn append_raw<B: Backend>(
        &self,
        tx: &mut impl OutboxConnection<B>,
        context: &MessageContext,
        message: RawMessage,
    ) -> Result<MessageId> {
        let row = self.row(context, message)?;
        let id = row.id;
        insert(tx, &[row]).await?;
        Ok(id)
    }

    /// [`Self::append_raw`] for several messages, in their order, with few statements. Each has its context.
    ///
    /// # Errors
    /// As [`Self::append_raw`]. On [`Error::Database`] some of them may have been written; on any other
    /// error none was.
    pub async fn append_all<B: Backend>(
        &self,
        tx: &mut impl OutboxConnection<B>,
        messages: impl IntoIterator<Item = (&MessageContext, RawMessage)> + Send,
    ) -> Result<Vec<MessageId>> {
        let rows = messages.into_iter();
        let rows = rows.map(|(context, message)| self.row(context, message));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        insert(tx, &rows).await?;
        Ok(rows.iter().map(|row| row.id).collect())
    }

    /// The row of a message, unless it may not be written.
    fn row(&self, context: &MessageContext, mut message: RawMessage) -> Result<OutboxRow> {
        if message.payload.len() > self.max_payload_bytes {
            return Err(Error::PayloadTooLarge {
                message_type: message.message_type,
                size: message.payload.len(),
                limit: self.max_payload_bytes,
            });
        }
        if let Some(key) = &message.message_key
            && key.len() > MAX_KEY_BYTES
        {
            return Err(Error::KeyTooLong {
                message_type: message.message_type,
                size: key.len(),
                limit: MAX_KEY_BYTES,
            });
        }
        if let Some(name) = reserved(&message.headers) {
            return Err(Error::ReservedHeader { name });
        }
        let routed = || self.routing.topic(&message.message_type).to_owned();
        let topic = message.topic.take().unwrap_or_else(routed);
        if !is_topic_name(&topic) {
            return Err(Error::InvalidTopic {
                message_type: message.message_type,
                topic,
            });
        }
        let id = MessageId(self.ids.next());
        let (span, traceparent) = trace::create(context, id, &message.message_type, &topic);
        let own = std::mem::take(&mut message.headers);
        Ok(OutboxRow {
            id,
            topic,
            headers: stored_headers(context, traceparent, message.kind, own)?,
            occurred_at: self.clock.now(),
            message,
            span,
        })
    }
}

/// A message as it is written.
struct OutboxRow {
    id: MessageId,
    topic: String,
    headers: String,
    occurred_at: Micros,
    message: RawMessage,
    /// Open until it is written.
    span: Span,
}

static INSERT: Bulk = Bulk::insert(
    "insert into outbox (message_id, aggregate_type, aggregate_id, message_type, topic, message_key, \
     payload, headers, occurred_at) values",
    9,
    "",
);

async fn insert<B: Backend>(tx: &mut impl OutboxConnection<B>, rows: &[OutboxRow]) -> Result<()> {
    let conn = tx.connection();
    if !in_transaction::<B>(conn) {
        return Err(Error::NoTransaction);
    }
    for piece in pieces(rows) {
        let mut insert = sqlx::query::<B>(INSERT.text::<B>(piece.len()));
        for row in piece {
            let message = &row.message;
            insert = insert
                .bind(row.id.0)
                .bind(&*message.aggregate_type)
                .bind(&*message.aggregate_id)
                .bind(&*message.message_type)
                .bind(&*row.topic)
                .bind(message.message_key.as_deref())
                .bind(&*message.payload)
                .bind(&*row.headers)
                .bind(row.occurred_at);
        }
        // The others of the piece are open meanwhile, too.
        let span = piece
            .first()
            .map_or_else(Span::none, |row| row.span.clone());
        let written = insert.execute(&mut *conn).instrument(span).await;
        written.map_err(Error::database("outbox insert"))?;
        crate::db::note_append();
    }
    Ok(())
}

/// A header of the user's own that bears a name of ours.
fn reserved(own: &BTreeMap<String, String>) -> Option<String> {
    let ours = |name: &&String| header::is_reserved(name) && *name != header::CONTENT_TYPE;
    own.keys().find(ours).cloned()
}

/// The `headers` column: everything that has no column of its own.
fn stored_headers(
    context: &MessageContext,
    traceparent: Option<String>,
    kind: MessageKind,
    own: BTreeMap<String, String>,
) -> Result<String> {
    let mut headers = own;
    headers
        .entry(header::CONTENT_TYPE.into())
        .or_insert_with(|| header::JSON.into());
    headers.insert(header::KIND.into(), kind.as_str().into());
    headers.insert(
        header::CORRELATION_ID.into(),
        context.correlation_id.to_string(),
    );
    if let Some(id) = context.causation_id {
        headers.insert(header::CAUSATION_ID.into(), id.to_string());
    }
    if let Some(trace) = traceparent {
        headers.insert(header::TRACEPARENT.into(), trace);
    }
    if let Some(state) = &context.tracestate {
        headers.insert(header::TRACESTATE.into(), state.clone());
    }
    serde_json::to_string(&headers).map_err(|source| Error::Encode {
        message_type: "headers",
        source,
    })
}
