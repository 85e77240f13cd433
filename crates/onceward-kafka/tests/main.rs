//! The publisher, progress and topics, on a real Kafka.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failing test panics")]

mod consumer;
mod support;
mod topics;
mod transactions;
