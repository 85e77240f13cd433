//! Exactly once in effect: records from Kafka become rows in one local transaction.

mod handler;

pub use handler::{Handler, HandlerError, HandlerFuture, Handlers};
