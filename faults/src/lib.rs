//! The fault suite: real processes are killed, frozen and cut off again and again while writers commit,
//! and then everything is counted.
//!
//! A **cell** is one fault on one database with one publisher. For each one, [`cell::run`] sets up a
//! source, relays, writers and a reader, strikes at moments drawn from a seed, waits until all is
//! published, and has it judged twice: by the auditor, which shares no code with the product, and by
//! the writers' own account of what they committed ([`account`]). The faults stand in [`fault`], as
//! data: what one does, which rule makes it harmless, and the function that does it. Some need a [`world`] of
//! their own: three brokers, a disk that can be filled, a standby.
//!
//! Where going on would lose or double something, all has to stop instead: these conditions are in [`stop`].

pub mod account;
pub mod broken;
pub mod cell;
pub mod cli;
pub mod consumer;
pub mod database;
pub mod fault;
pub mod reader;
pub mod relay;
pub mod report;
pub mod rig;
pub mod soak;
pub mod stage;
pub mod stop;
pub mod world;
pub mod writers;

/// Whole error chains are worth reading.
pub type Result<T> = anyhow::Result<T>;
