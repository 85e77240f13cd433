//! Sagas, timers and participants, on SQLite and on Postgres.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code fails by panicking"
)]

mod batch;
mod definition;
mod fixture;
mod group;
mod messages;
mod participant;
mod timer;
mod traces;
