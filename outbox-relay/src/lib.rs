//! The relay: publishes committed outbox rows to Kafka, each exactly once and in the order of its
//! key, whatever is killed and whenever.
//!
//! Rows and the position reached travel in **one** Kafka transaction; the position is read back
//! from Kafka, never from the database alone. A lease in the source database says who works, a
//! transactional producer fences whoever believes it still does.
//!
//! ```no_run
//! use onceward_kafka::{KafkaConfig, RdKafkaBroker};
//! use outbox_relay::{Relay, RelayOptions};
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! let options = RelayOptions {
//!     sources: vec!["order=sqlite:///var/lib/shop/order.db".parse()?],
//!     ..RelayOptions::default()
//! };
//! let broker = RdKafkaBroker::new(KafkaConfig::plaintext("127.0.0.1:9092"))?;
//! let relay = Relay::new(options, broker)?;
//!
//! // Inside an axum application: its routes beside yours, its task beside your server.
//! let app = axum::Router::new().nest("/relay", outbox_relay::router(relay.handle(), None));
//! let stop = CancellationToken::new();
//! let running = tokio::spawn(relay.run(stop.clone()));
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8000").await?;
//! axum::serve(listener, app)
//!     .with_graceful_shutdown(stop.clone().cancelled_owned())
//!     .await?;
//! stop.cancel();
//! running.await??;
//! # Ok(())
//! # }
//! ```
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
pub use options::{RelayOptions, SourceOptions, redact};
pub use phase::{Illegal, Input, Phase};
pub use relay::{Relay, RelayError};
pub use status::{Handle, RelayStatus, SourceStatus};
