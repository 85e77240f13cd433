//! The relay as a process, on real Kafka, SQLite and Postgres: killed at every line that matters,
//! frozen, doubled, cut off, and fed what Kafka refuses. What counts is what a plain
//! `read_committed` consumer sees.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests end by panicking")]

mod support;

mod crash;
mod frozen;
mod parking;
mod partitions;
mod program;
mod stops;
mod takeover;
mod upgrade;
