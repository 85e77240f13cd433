//! `./dev bench`: how fast it is, measured from outside.
//!
//! The programs under test run as processes of their own, release builds, on a Kafka and a Postgres
//! that the benchmark starts for itself. What counts as published is what a plain `read_committed`
//! consumer has seen; a second pass over the topic then checks that every row is there once.

mod arriving;
mod checks;
mod cli;
mod client;
mod commits;
mod consumer;
mod curve;
mod curves;
mod debezium;
mod drain;
mod hops;
mod http;
mod idle;
mod live;
mod programs;
mod reader;
mod recovery;
mod relay;
mod report;
mod retained;
mod saga;
mod source;
mod stage;
mod targets;
mod warm;
mod write;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
