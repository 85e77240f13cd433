//! A transactional outbox: exactly-once delivery from a SQLite or Postgres transaction, through
//! Kafka, into the next service's transaction.
//!
//! A service writes its rows and its outgoing messages in one transaction ([`Outbox::append`],
//! [`Db::write`]); the relay publishes committed rows with transactional producers; a consumer
//! dedupes by its inbox table and handles each message in one local transaction
//! ([`consumer`]).
#![deny(missing_docs)]

mod backend;
mod clock;
pub mod consumer;
mod context;
mod db;
mod error;
mod fault;
pub mod header;
pub mod idempotency;
mod ids;
mod message;
pub mod metrics;
mod outbox;
mod partition;
mod progress;
pub mod publisher;
mod routing;
pub mod schema;
pub mod source;

pub use backend::{Backend, Column, ColumnRef, Columns, OutboxConnection, QueryResult, Tx, imply};
pub use clock::{Clock, IdGen, Micros, SystemClock, UuidV7};
pub use context::MessageContext;
pub use db::{
    Db, HINT_CHANNEL, OpenOptions, WRITE_TIME_LIMIT, Write, WriteError, postgres_options,
    sqlite_options,
};
pub use error::{BoxError, Error, Result};
pub use fault::{is_transient, is_victim};
pub use ids::{
    CausationId, ConsumerName, CorrelationId, InvalidName, MessageId, SourceId, SourceName,
};
pub use message::{Coordinates, DecodeError, Envelope, Event, MessageKind};
pub use outbox::{MAX_PAYLOAD_BYTES, Outbox, RawMessage};
pub use partition::partition_for;
pub use progress::{
    Cursor, IdSum, LastRow, PROGRESS_FORMAT, PartitionPositions, PgCursor, PgPage, ProgressRecord,
    ReplayProgress, SqliteCursor,
};
pub use routing::Routing;
