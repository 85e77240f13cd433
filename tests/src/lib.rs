//! The whole shop as real processes, for tests that kill them: Kafka, relay and nine services on
//! SQLite files or one Postgres server, on free ports of 127.0.0.1.

mod books;
mod brokers;
mod client;
mod collector;
mod secrets;
mod world;

pub use client::{Client, Order};
pub use collector::{Collector, Span};
pub use secrets::{MARK, Secrets};
pub use world::{Database, SERVICES, Settings, World};

/// The tests' fallible result.
pub type Result<T> = anyhow::Result<T>;
