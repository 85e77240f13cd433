//! The protocol as models that a checker walks through: every interleaving of a few rows, relays,
//! writers and consumers, with a crash, a late or doubled request and a lost answer at any point.
//!
//! | Model | What it is about | Where it is written down |
//! |---|---|---|
//! | [`relay`] | progress in Kafka, fencing, take-over, first start, late EndTxn, parking | `docs/GUARANTEES.md`, decision 1 |
//! | [`replay`] | copies of a parked key, published and deleted | decision 1 |
//! | [`cursor`] | the snapshot cursor on Postgres, reused transaction ids | decision 2 |
//! | [`consumer`] | inbox, waiting messages, owner epoch | decision 3 |
//!
//! Each model takes a `Rules` value: the default is the protocol as it is built, every other value breaks
//! one rule, and a test demands that the checker finds what that breaks. A model is not the code: it
//! proves that the rules suffice, the crash tests prove that the code follows them.

pub mod consumer;
pub mod cursor;
pub mod relay;
pub mod replay;
