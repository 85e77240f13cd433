//! Tests of the library on real databases, in one binary: it links once.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failing test panics"
)]

mod consumer;
mod source;
mod unit_of_work;
