//! The saga of an order, as dialogue and with all its participants.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code fails by panicking"
)]

mod choreography;
mod conservation;
mod dialogue;
mod http;
mod world;
