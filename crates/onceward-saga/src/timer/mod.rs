//! Timers: rows that fire in one transaction with everything that follows.

mod name;
pub(crate) mod rows;
mod runner;

pub use name::{InvalidTimerName, TimerName};
pub(crate) use runner::chain;
pub use runner::{TimerOptions, TimerRunner};
