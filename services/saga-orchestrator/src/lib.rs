//! Drives the saga of every order.

pub mod place_order;
