//! The command's words, on real databases and a real Kafka.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod fixture;
mod golden;
mod kafka;
mod pipe;
mod requests;
mod schema;
mod topics;
