//! `./dev` keeps its word about real processes.
#![expect(clippy::unwrap_used, reason = "a failing test panics")]

mod containers;
mod shop;
mod supervisor;
mod up;
