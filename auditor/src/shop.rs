//! The demo shop: stock and money.
