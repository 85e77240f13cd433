//! The shop as a user runs it, on both databases, with real processes that are killed.

mod brokers;
mod chaos;
mod dead_letters;
mod documents;
mod rebuild;
mod scenarios;
mod secrets;
mod telemetry;
mod upgrade;
