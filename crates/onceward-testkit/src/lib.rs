//! Real processes for tests: Apache Kafka and PostgreSQL, started on free ports of 127.0.0.1, made to
//! fail (`kill -9`, `SIGSTOP`) and cleaned up whatever happens to the test binary.
//!
//! Use it from a crate's `tests/` folder only. Everything here blocks the calling thread and may be
//! called from inside or outside an async runtime.
#![deny(missing_docs)]

pub mod kafka;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod wait;

/// The tests' fallible result; the whole error chain is worth reading.
pub type Result<T> = anyhow::Result<T>;
