//! Exactly once in effect: records from Kafka become rows in one local transaction.
//!
//! ```text
//!   Kafka ──► Subscriber (own OS thread) ──► Consumer::run ──► one transaction per batch:
//!                  ▲      Link                    │              inbox insert (the claim)
//!                  └── commit, pause, reassign ◄──┘              handlers and what they append
//!                                                                next_offset, guarded by owner_epoch
//! ```
//!
//! The database is the truth for offsets: on each assignment the partition is *claimed* (its
//! `owner_epoch` raised) and read on from the stored `next_offset`. Whoever is not the newest
//! claimer updates 0 rows at the end of its transaction and loses all of its work.
//!
//! What a message goes through:
//!
//! ```text
//!            ok                        ┌──────────── ok ───────────┐
//!   new ───────────────────────────► handled ◄── replay ok ──┐     │
//!    │                                 ▲                     │     │
//!    ├── Retry ─────────► waiting ─────┘    waiting ──► dead ┴──► discarded
//!    │   or its key waits     │ attempts used up, Reject ▲       (discard request)
//!    └── Reject ──────────────┴──────────────────────────┘
//! ```
//!
//! Later messages of a waiting or dead message's (topic, partition, key) queue behind it; other
//! keys go on; a message without a key waits alone.
//!
//! A message may end the process each time it is handled. So what is tried first after a claim (each
//! queue's head, and of each partition the first new message, which is queued for that) is tried alone,
//! and its attempt is written down before: it counts as a third of all. Batches begin with one record
//! and double, so that such a message becomes the first one within a few claims.

mod batch;
mod claim;
pub mod dead_letter;
mod entry;
mod error_text;
mod handle;
mod handler;
pub mod inbox;
mod janitor;
mod loss;
mod options;
mod queue;
pub mod rebuild;
mod retry;
mod round;
mod run;
mod subscriber;
mod waiting;
mod worker;

pub use handle::{ConsumerState, ConsumerStatus, Handle, PartitionStatus};
pub use handler::{Handler, HandlerError, HandlerFuture, Handlers};
pub use loss::{AcceptedLoss, LogNow, LossRefused, accept_loss};
pub use options::{ConsumerOptions, DeadLetterTopic, RetryPolicy};
pub use run::{Consumer, ConsumerError};
pub use subscriber::{
    AssignedPartition, Command, Full, Link, Record, Retention, StartAt, Subscriber,
    SubscriberError, Subscription, TopicPartition,
};
pub use waiting::{WaitingMessage, list_waiting};
