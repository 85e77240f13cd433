//! The whole shop as real processes, for tests that kill them: Kafka, relay and nine services on
//! SQLite files or one Postgres server, on free ports of 127.0.0.1.

mod books;
mod brokers;
mod client;
mod collector;
mod secrets;
mod world;

use std::time::Duration;

pub use client::{Client, Order};
pub use collector::{Collector, Span};
pub use secrets::{MARK, Secrets};
pub use world::{Database, SERVICES, Settings, World};

/// After this a test gives a wait up. Long, for a machine that has better to do: what works is never waited for
/// longer than it takes, and these tests are not about time.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// The tests' fallible result.
pub type Result<T> = anyhow::Result<T>;
