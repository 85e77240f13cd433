//! The relay: publishes committed outbox rows to Kafka, each exactly once and in the order of its
//! key, whatever is killed and whenever.
//!
//! Rows and the position reached travel in **one** Kafka transaction; the position is read back
//! from Kafka, never from the database alone. A lease in the source database says who works, a
//! transactional producer fences whoever believes it still does.
//!
//! It is a program (`outbox-relay --help`) and this library. [The tutorial of `onceward`](onceward) begins with it.
//!
//! # In your axum application
//!
//! Its routes beside yours, its task beside your server:
//!
//! ```no_run
//! use onceward::CancellationToken;
//! use onceward_kafka::{KafkaBroker, KafkaConfig};
//! use outbox_relay::{Relay, RelayOptions};
//!
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = KafkaBroker::new(KafkaConfig::plaintext("127.0.0.1:9092"))?;
//! let options = RelayOptions {
//!     // Survives a restart, so that the process gets its sources back at once.
//!     instance_id: "shop-1".into(),
//!     ..RelayOptions::for_source(&"shop".parse()?, "postgres://shop@db/shop")
//! };
//! let relay = Relay::new(options, broker)?;
//!
//! let app = axum::Router::new()
//!     // /relay/readyz, /relay/status
//!     .nest("/relay", outbox_relay::router(relay.handle(), None));
//! let stop = CancellationToken::new();
//! let relaying = tokio::spawn(relay.run(stop.clone()));
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
//! axum::serve(listener, app)
//!     .with_graceful_shutdown(async { tokio::signal::ctrl_c().await.unwrap_or_default() })
//!     .await?;
//! stop.cancel(); // ends the open Kafka transaction and gives the lease back, within 2 s by default
//! relaying.await??;
//! # Ok(())
//! # }
//! ```
//!
//! Run as many copies of the application as you like: for each source one of them relays, and another one takes over
//! when it is gone. A process that dies without `stop` loses nothing; its sources wait for the lease to end, 3 s at
//! most.
//!
//! * [`RelayOptions`]: many sources, batch sizes, retention.
//! * [`Handle`]: what it does, as your own health checks may ask it.
//! * A source that needs a person (rows lost, a topic missing …) stops or waits alone, and says why:
//!   [`SourceStatus`] and its [`Phase`].
//! * [`config`], [`cli`]: the program's settings and command line. [`metrics`]: what it counts.
#![deny(missing_docs)]

#[cfg(feature = "program")]
mod check;
#[cfg(feature = "program")]
pub mod cli;
#[cfg(feature = "program")]
pub mod config;
pub mod failpoint;
mod http;
mod janitor;
pub mod metrics;
mod options;
mod phase;
mod relay;
mod status;
mod worker;

pub use http::router;
pub use options::{RelayOptions, SourceOptions};
pub use phase::{Illegal, Input, Phase};
pub use relay::{Relay, RelayError};
pub use status::{Handle, RelayStatus, SourceStatus};
