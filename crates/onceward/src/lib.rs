//! A transactional outbox: exactly once from a SQLite or Postgres transaction, through Kafka, into the
//! next service's transaction.
//!
//! This page is a tutorial: from `cargo add` to the first event in the topic, and to a second service
//! that handles it exactly once. The [modules](#modules) and what comes [after it](#and-then) are at
//! its end.
//!
//! # What you need
//!
//! Rust 1.95, a C compiler with `make`, `pkg-config` and the headers of OpenSSL and zlib (they build
//! librdkafka; on Debian `apt install build-essential pkg-config libssl-dev zlib1g-dev`), a Postgres and a
//! Kafka. Where there are none:
//!
//! ```console
//! $ docker run -d --name kafka -p 9092:9092 apache/kafka:4.3.1
//! $ docker run -d --name postgres -p 5432:5432 -e POSTGRES_HOST_AUTH_METHOD=trust postgres:17
//! ```
//!
//! Without Docker, a checkout of the repository starts a Kafka at 127.0.0.1:9092 (`./dev kafka -d`, needs Java 17 and
//! Maven), and any Postgres will do: put its address and user into the `url` below.
//!
//! # The first event
//!
//! ```console
//! $ cargo new shop && cd shop
//! $ cargo add onceward onceward-kafka outbox-relay anyhow tracing-subscriber
//! $ cargo add serde --features derive
//! $ cargo add tokio --features full
//! $ cargo add sqlx@0.9 --features runtime-tokio,postgres
//! ```
//!
//! `src/main.rs` writes an order and its event in *one* transaction, and relays events to Kafka:
//!
//! ```no_run
//! use onceward::{CancellationToken, Event, Outbox, schema};
//! use onceward_kafka::{KafkaBroker, KafkaConfig};
//! use outbox_relay::{Relay, RelayOptions};
//! use serde::{Deserialize, Serialize};
//! use sqlx::PgPool;
//!
//! /// Goes to the topic `order.placed`, keyed by the order's id, as JSON.
//! #[derive(Serialize, Deserialize, Event)]
//! #[event(type = "order.placed.v1", id = order_id)]
//! struct OrderPlaced {
//!     order_id: i64,
//!     amount_minor: i64,
//! }
//!
//! #[tokio::main]
//! async fn main() -> anyhow::Result<()> {
//!     tracing_subscriber::fmt::init();
//!     let url = "postgres://postgres@127.0.0.1:5432/postgres";
//!     let pool = PgPool::connect(url).await?;
//!     let outbox = Outbox::new("shop".parse()?);
//!
//!     // The outbox's tables, beside yours. May run at every start.
//!     schema::migrate(&pool, outbox.source()).await?;
//!     sqlx::raw_sql(
//!         "create table if not exists orders (
//!              id bigint generated always as identity primary key,
//!              amount_minor bigint not null
//!          )",
//!     )
//!     .execute(&pool)
//!     .await?;
//!
//!     // Your own transaction: both rows are committed, or neither.
//!     let mut tx = pool.begin().await?;
//!     let order_id: i64 =
//!         sqlx::query_scalar("insert into orders (amount_minor) values (19999) returning id")
//!             .fetch_one(&mut *tx)
//!             .await?;
//!     let placed = OrderPlaced { order_id, amount_minor: 19_999 };
//!     outbox.append(&mut tx, &outbox.new_context(), &placed).await?;
//!     tx.commit().await?;
//!     println!("order {order_id} placed");
//!
//!     // The relay publishes what was committed. Kill it at any time: nothing is lost or doubled.
//!     let broker = KafkaBroker::new(KafkaConfig::plaintext("127.0.0.1:9092"))?;
//!     broker.make_topics(["order.placed"], 3, 1).await?; // 3 partitions, 1 copy of each
//!     let relay = Relay::new(RelayOptions::for_source(outbox.source(), url), broker)?;
//!     let stop = CancellationToken::new();
//!     let relaying = tokio::spawn(relay.run(stop.clone()));
//!     tokio::signal::ctrl_c().await?;
//!     stop.cancel();
//!     relaying.await??;
//!     Ok(())
//! }
//! ```
//!
//! The first build takes some minutes. `RUST_LOG=info cargo run` prints
//! `order 1 placed`, says what the relay does up to `source taken over`, and goes on until Ctrl-C. The event is in
//! the topic a moment later; any tool shows it that reads `read_committed`, for one Kafka's own (it stands in
//! `/opt/kafka/bin` of the container: `docker exec kafka …`, and in `bin` of an unpacked Kafka):
//!
//! ```console
//! $ kafka-console-consumer.sh --bootstrap-server localhost:9092 --topic order.placed --from-beginning \
//!     --isolation-level read_committed --formatter-property print.headers=true
//! ce_specversion:1.0,ce_source:shop,…,ce_id:0194…,ce_type:order.placed.v1,…  {"order_id":1,"amount_minor":19999}
//! ```
//!
//! # Handling it once
//!
//! Another service (`cargo new books`, the same `cargo add` without `outbox-relay`) with its own database
//! adds up what was sold. Kafka may deliver a record again, and the service may die half-way; adding twice
//! would be wrong. So the handler gets the transaction that also records *that* the message was handled:
//!
//! ```no_run
//! use onceward::consumer::{Consumer, ConsumerOptions, Handler, HandlerError, Handlers};
//! use onceward::{CancellationToken, Db, Event, MessageContext, OpenOptions, Tx, schema};
//! use onceward_kafka::{KafkaConfig, KafkaSubscriber};
//! use serde::{Deserialize, Serialize};
//! use sqlx::Postgres;
//!
//! #[derive(Serialize, Deserialize, Event)]
//! #[event(type = "order.placed.v1", id = order_id)]
//! struct OrderPlaced {
//!     order_id: i64,
//!     amount_minor: i64,
//! }
//!
//! struct AddToRevenue;
//!
//! impl Handler<Postgres, OrderPlaced> for AddToRevenue {
//!     async fn handle(
//!         &self,
//!         tx: &mut Tx<'static, Postgres>,
//!         _context: &MessageContext,
//!         order: OrderPlaced,
//!     ) -> Result<(), HandlerError> {
//!         sqlx::query("update revenue set amount_minor = amount_minor + $1")
//!             .bind(order.amount_minor)
//!             .execute(&mut **tx)
//!             .await?;
//!         Ok(())
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> anyhow::Result<()> {
//!     tracing_subscriber::fmt::init();
//!     // A database of its own: `create database books`.
//!     let url = "postgres://postgres@127.0.0.1:5432/books";
//!     let db = Db::<Postgres>::open(url, OpenOptions::default()).await?;
//!     schema::migrate(db.pool(), &"books".parse()?).await?;
//!     sqlx::raw_sql(
//!         "create table if not exists revenue (id int primary key, amount_minor bigint not null);
//!          insert into revenue values (1, 0) on conflict do nothing;",
//!     )
//!     .execute(db.pool())
//!     .await?;
//!
//!     let handlers = Handlers::default().on::<OrderPlaced, _>(AddToRevenue);
//!     let kafka = KafkaSubscriber::new(KafkaConfig::plaintext("127.0.0.1:9092"));
//!     let options = ConsumerOptions::new("books".parse()?, ["order.placed"]);
//!     let consumer = Consumer::new(db, handlers, kafka, options);
//!     let stop = CancellationToken::new();
//!     let consuming = tokio::spawn(consumer.run(stop.clone()));
//!     tokio::signal::ctrl_c().await?;
//!     stop.cancel();
//!     consuming.await??;
//!     Ok(())
//! }
//! ```
//!
//! Run both, kill both with `kill -9` as often as you like, and look at `revenue`: it is the sum.
//!
//! # And then
//!
//! * **SQLite**: `Db::<Sqlite>::open("sqlite:///path/shop.db?mode=rwc", …)` and [`Db::write`], which lets
//!   units of work that come at the same time share one commit. On Postgres it reruns the victims of
//!   deadlocks. Everything on this page works on both.
//! * **More events**: [`trait@Event`] shows all of `#[event(…)]`: keys, commands, replies. [`Routing`] names other
//!   topics, [`RawMessage`] adds headers.
//! * **HTTP**: [`idempotency`] answers a repeated `POST` with the stored answer.
//! * **Sagas** over several services: [`onceward-saga`](https://docs.rs/onceward-saga).
//! * **Tests** on real Kafka and Postgres: [`onceward-testkit`](https://docs.rs/onceward-testkit). A handler alone
//!   is tested by [`Handlers::dispatch`](consumer::Handlers::dispatch) and [`Envelope::of`].
//! * **Watching it**: [`metrics`] names what is counted, [`mod@trace`] shows the way of a message as one trace;
//!   [`onceward-telemetry`](https://docs.rs/onceward-telemetry) installs both, and the log, by one call.
//! * **The relay as a process of its own**: `outbox-relay run --source shop=postgres://… --kafka HOST:PORT`. Start
//!   two; one works, the other takes over.
//! * **Before production**: what is guaranteed, and what it takes from you, is one page in the repository
//!   (`docs/GUARANTEES.md`). The shortest version: lock the aggregate's row before you append, handlers write to the
//!   database only, a keyed topic keeps its number of partitions.
#![deny(missing_docs)]

mod backend;
#[doc(hidden)]
pub mod breach;
pub mod bulk;
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
mod request;
mod routing;
pub mod schema;
pub mod secret;
pub mod source;
pub mod trace;

pub use backend::{Backend, Column, ColumnRef, Columns, OutboxConnection, QueryResult, Tx, imply};
pub use clock::{Clock, IdGen, Micros, SystemClock, UuidV7};
pub use context::MessageContext;
pub use db::{
    Db, HINT_CHANNEL, OpenOptions, WRITE_TIME_LIMIT, Write, WriteError, connect_trouble,
    postgres_options, sqlite_options, sqlite_pool_options,
};
pub use error::{BoxError, Error, Result, error_chain};
pub use fault::{is_transient, is_victim};
pub use ids::{
    CausationId, ConsumerName, CorrelationId, InvalidName, MessageId, SourceId, SourceName,
};
/// Implements [`trait@Event`] for a struct.
pub use onceward_macros::Event;
/// What tells long-lived parts ([`consumer::Consumer`], the relay) to end, as tokio-util has it.
pub use tokio_util::sync::CancellationToken;

pub use message::{Coordinates, DecodeError, Envelope, Event, MessageKind};
pub use outbox::{MAX_KEY_BYTES, MAX_PAYLOAD_BYTES, Outbox, RawMessage};
pub use partition::partition_for;
pub use progress::{
    Cursor, IdSum, LastRow, PROGRESS_FORMAT, PartitionPositions, PgCursor, PgPage, ProgressRecord,
    ReplayProgress, SqliteCursor,
};
pub use request::RequestKind;
pub use routing::{Routing, is_topic_name};
pub use secret::{DatabaseUrl, Secret};
