//! The saga of an order, as dialogue and with all its participants.
#![expect(clippy::unwrap_used, reason = "test code fails by panicking")]

mod dialogue;
