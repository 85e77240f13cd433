//! The project's own tool: starts the whole shop and keeps it running, runs all tests and checks.

pub mod api;
pub mod bench;
mod cargo;
pub mod cli;
pub mod control;
pub mod databases;
pub mod deps;
pub mod faults;
pub mod image;
pub mod kafka;
pub mod layout;
pub mod load;
pub mod logs;
pub mod manifest;
pub mod package;
pub mod preflight;
pub mod probe;
pub mod ps;
pub mod storm;
pub mod supervisor;
pub mod test;
mod tool;
pub mod up;
pub mod upgrade;
pub mod view;

/// A failure is one line for the person at the terminal: the whole chain, joined.
pub type Result<T> = anyhow::Result<T>;
