//! The publisher, progress and topics, on a real Kafka.

mod support;
mod topics;
mod transactions;
