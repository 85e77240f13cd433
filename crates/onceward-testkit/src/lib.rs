//! Real Apache Kafka and real PostgreSQL for tests: started by the test on free ports of 127.0.0.1, made to
//! fail (`kill -9`, `SIGSTOP`, cut connections), and cleaned up whatever happens to the test binary.
//!
//! No containers and no daemon. Kafka's jars are fetched from Maven Central once, into `~/.cache/onceward` (Java 17
//! and Maven must be there); PostgreSQL is taken from where the system has it, else fetched the same way.
//! Everything here blocks the calling thread and may be called from inside or outside an async runtime. Use it from
//! a crate's `tests/` folder.
//!
//! | Module | For |
//! |---|---|
//! | [`kafka`] | one broker or a cluster of several, and Kafka's own tools |
//! | [`postgres`] | a server, and a fresh database for each test |
//! | [`process`] | your own program as a child that never outlives the test, with its log |
//! | [`proxy`] | a Kafka request held back, an answer lost, a connection cut |
//! | [`cutter`] | a connection to Postgres cut exactly at COMMIT |
//! | [`disk`] | a disk of a few MiB that can be filled |
//! | [`wait`] | waiting for a state, with a time-out that says what was waited for, and where |
//! | [`secure`], [`secure_postgres`] | a Kafka and a Postgres with TLS and passwords |
//! | [`acl`], [`certificates`] | what those need: access rules, and an authority that signs |
//! | [`machine`] | the machine and its load, CPU and memory of a process: what a report needs beside its figures |
//! | [`ports`] | ports that stay yours while the process behind them is down |
//!
//! # Does my handler count each message once?
//!
//! A consumer of [`onceward`](https://docs.rs/onceward) on a real Postgres, fed by a real relay through a real Kafka that
//! is killed half-way. Nothing in it is a mock, and the assertion is on the effect:
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use onceward::consumer::{Consumer, ConsumerOptions, Handler, HandlerError, Handlers};
//! use onceward::{CancellationToken, Db, Event, MessageContext, OpenOptions, Outbox, Tx, schema};
//! use onceward_kafka::{KafkaBroker, KafkaConfig, KafkaSubscriber};
//! use onceward_testkit::{kafka::Kafka, postgres, wait};
//! use outbox_relay::{Relay, RelayOptions};
//! use serde::{Deserialize, Serialize};
//! use sqlx::Postgres;
//!
//! #[derive(Serialize, Deserialize, Event)]
//! #[event(type = "order.placed.v1", id = number)]
//! struct OrderPlaced { number: i64 }
//!
//! struct Count;
//! impl Handler<Postgres, OrderPlaced> for Count {
//!     async fn handle(
//!         &self,
//!         tx: &mut Tx<'static, Postgres>,
//!         _: &MessageContext,
//!         _: OrderPlaced,
//!     ) -> Result<(), HandlerError> {
//!         sqlx::query("update seen set orders = orders + 1").execute(&mut **tx).await?;
//!         Ok(())
//!     }
//! }
//!
//! #[tokio::test(flavor = "multi_thread")]
//! async fn every_order_counts_once_though_kafka_dies() -> anyhow::Result<()> {
//!     let mut kafka = Kafka::start()?; // one of its own, because it is killed
//!     let url = postgres::shared()?.create_database()?; // one server for all tests, a database for this one
//!     let db = Db::<Postgres>::open(&url, OpenOptions::default()).await?;
//!     let outbox = Outbox::new("test".parse()?);
//!     schema::migrate(db.pool(), outbox.source()).await?;
//!     sqlx::query("create table seen as select 0::bigint as orders").execute(db.pool()).await?;
//!
//!     let config = KafkaConfig::plaintext(kafka.bootstrap());
//!     let broker = KafkaBroker::new(config.clone())?;
//!     broker.make_topics(["order.placed"], 3, 1).await?;
//!     let relay = Relay::new(RelayOptions::for_source(outbox.source(), &url), broker)?;
//!     let handlers = Handlers::default().on::<OrderPlaced, _>(Count);
//!     let options = ConsumerOptions::new("counter".parse()?, ["order.placed"]);
//!     let consumer = Consumer::new(db.clone(), handlers, KafkaSubscriber::new(config), options);
//!     let stop = CancellationToken::new();
//!     let _end = stop.clone().drop_guard();
//!     tokio::spawn(relay.run(stop.clone()));
//!     tokio::spawn(consumer.run(stop.clone()));
//!
//!     for number in 0..100 {
//!         let (outbox, context) = (outbox.clone(), outbox.new_context());
//!         let written = db.write(async move |tx| {
//!             outbox.append(tx, &context, &OrderPlaced { number }).await?;
//!             Ok::<_, onceward::BoxError>(())
//!         });
//!         written.await?;
//!         if number == 50 {
//!             kafka.kill9()?;
//!             kafka.start_again()?;
//!         }
//!     }
//!     let seen = || {
//!         let count = sqlx::query_scalar::<_, i64>("select orders from seen").fetch_one(db.pool());
//!         tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(count))
//!     };
//!     wait::until("all orders", Duration::from_secs(60), || Ok((seen()? >= 100).then_some(())))?;
//!     assert_eq!(seen()?, 100);
//!     Ok(())
//! }
//! ```
//!
//! # And if Kafka's answer is lost?
//!
//! Worse than a broker that is down is one that did it and could not say so. [`proxy::ProxiedKafka`] is a broker
//! behind a proxy; faults are armed for the next request of a kind:
//!
//! ```no_run
//! use onceward_testkit::proxy::{Fault, ProxiedKafka, api};
//! # fn main() -> onceward_testkit::Result<()> {
//! let kafka = ProxiedKafka::start()?;
//! // Give this address to the relay:
//! let address = kafka.proxy.address();
//! // The commit happens, its answer never arrives.
//! let hit = kafka.proxy.on(api::END_TXN, Fault::LoseAnswer);
//! // … write something …
//! hit.wait(std::time::Duration::from_secs(20))?;
//! // … and count: it is there once.
//! # Ok(())
//! # }
//! ```
//!
//! [`Fault::Hold`](proxy::Fault::Hold) keeps a request until the test releases it, also after its client is gone:
//! an old request that arrives late.
//!
//! # And if my service dies?
//!
//! [`process::Process`] runs it as a child: `Process::spawn("shop", Command::new(env!("CARGO_BIN_EXE_shop")), &log)`, then
//! [`kill9`](process::Process::kill9), [`pause`](process::Process::pause), a second one beside it. A test that panics, or is
//! itself killed, leaves no process and no folder behind.
#![deny(missing_docs)]

pub mod acl;
pub mod certificates;
pub mod cutter;
pub mod disk;
pub mod kafka;
pub mod machine;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod secure;
pub mod secure_postgres;
pub mod wait;

/// The tests' fallible result; the whole error chain is worth reading.
pub type Result<T> = anyhow::Result<T>;
