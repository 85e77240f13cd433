//! What the relay needs from a source, on both databases.

#[macro_use]
mod support;
mod conformance;
mod lease;
mod loss;
mod moved;
mod pages;
mod parking;
mod postgres;
mod snapshot;
mod sqlite;
mod tls;
mod upkeep;
