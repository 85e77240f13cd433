//! Timers: rows that fire in one transaction with everything that follows.

mod deadline;
mod name;
pub(crate) mod rows;
mod runner;

pub use deadline::{Deadline, Passed};
pub use name::{InvalidTimerName, TimerName};
pub use runner::{TimerOptions, TimerOwner, TimerRunner};
