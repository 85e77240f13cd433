//! Reads the topics and databases of an Onceward installation and counts what was lost, doubled,
//! reordered, made up or left unhandled.
//!
//! It depends on no crate of ours: headers, progress records and tables are decoded here a second
//! time, so that a mistake in the library can't hide itself. [`audit`] reads, [`check`] judges
//! what was read and is pure.
//!
//! Order of reading, and why the judgement holds while everything goes on running:
//!
//! 1. each source's **progress record**: rows it has passed must be in the topics from now on;
//! 2. each **database**, in one snapshot: rows passed but withheld are still there as dead
//!    letters, or their replay is committed in Kafka already;
//! 3. each partition's **high watermark**, then its records up to there, `read_committed`;
//! 4. the progress records again: a record above that position is nobody's.
#![deny(missing_docs)]

mod check;
mod database;
mod interned;
mod kafka;
mod progress;
mod record;
mod report;
mod run;
pub mod shop;

pub use check::{ConsumerState, Evidence, InboxState, PartitionRange, SourceState, check};
pub use database::{
    Connection, DatabaseEvidence, OffsetRow, OutboxRow, open_read_only, read_database,
};
pub use interned::{Interner, Symbol};
pub use kafka::{KafkaReader, PartitionEnd};
pub use progress::{LastRow, ProgressView};
pub use record::{Identity, Record, hash_bytes};
pub use report::{
    ConsumerWindow, Finding, FindingKind, Report, SourceWindow, TopicWindow, Verdict,
};
pub use run::{Audit, Source, audit};
