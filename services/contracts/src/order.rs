//! What is said about an order as a whole.

use onceward_saga::SagaId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An order was taken. Sent by the order service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// The order.
    pub order_id: Uuid,
    /// Who ordered.
    pub user_id: String,
    /// What.
    pub product_id: String,
    /// How many, at least 1.
    pub quantity: i64,
    /// The price of all of it, in minor units (cents).
    pub amount_minor: i64,
}

/// Every step of the order is done. Sent by the saga orchestrator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completed {
    /// The order.
    pub order_id: Uuid,
    /// The saga that carried it out.
    pub saga_id: SagaId,
}

/// The order failed, and every step that may have been done is confirmed undone. Sent by the saga
/// orchestrator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    /// The order.
    pub order_id: Uuid,
    /// The saga that gave it up.
    pub saga_id: SagaId,
    /// Why, in words a customer may read: `insufficient inventory`, `timed out` …
    pub reason: String,
}

crate::messages! {
    Created = "order.created.v1", Event;
    Completed = "order.completed.v1", Event;
    Cancelled = "order.cancelled.v1", Event;
}
