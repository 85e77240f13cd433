//! An order without a coordinator: what the services say, and react to.
//!
//! The choreographed order has no delivery. It ends with the same words as the orchestrated one,
//! [`order::Completed`](crate::order::Completed) and [`order::Cancelled`](crate::order::Cancelled), said by the
//! order service.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Name of the process: with the order's id, the `saga_id` of its last word.
pub const PROCESS: &str = "place_order_choreography";

/// An order was taken. Sent by the order service; payment reacts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderCreated {
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

/// Not everything was said before the order's deadline. Sent by the order service; whoever has done
/// something for the order undoes it, and who has not will not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderTimedOut {
    /// The order.
    pub order_id: Uuid,
}

/// The customer is charged. Sent by the payment service; inventory reacts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentProcessed {
    /// The order.
    pub order_id: Uuid,
    /// How much, in minor units (cents).
    pub amount_minor: i64,
    /// Which product.
    pub product_id: String,
    /// How many, at least 1.
    pub quantity: i64,
}

/// The customer is not charged. Sent by the payment service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentFailed {
    /// The order.
    pub order_id: Uuid,
    /// Why not, in words a customer may read.
    pub reason: String,
}

/// The customer has paid nothing for the order, nor will. Sent by the payment service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentRefunded {
    /// The order.
    pub order_id: Uuid,
}

/// The stock is set aside. Sent by the inventory service; the order is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryUpdated {
    /// The order.
    pub order_id: Uuid,
    /// Which product.
    pub product_id: String,
    /// How many, at least 1.
    pub quantity: i64,
}

/// The stock is short, or there is no such product. Sent by the inventory service; payment pays back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryFailed {
    /// The order.
    pub order_id: Uuid,
    /// Why not, in words a customer may read.
    pub reason: String,
}

/// No stock is set aside for the order, nor will be. Sent by the inventory service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryReleased {
    /// The order.
    pub order_id: Uuid,
}

crate::messages! {
    OrderCreated = "order-created.v1", Event;
    OrderTimedOut = "order-timed-out.v1", Event;
    PaymentProcessed = "payment-processed.v1", Event;
    PaymentFailed = "payment-failed.v1", Event;
    PaymentRefunded = "payment-refunded.v1", Event;
    InventoryUpdated = "inventory-updated.v1", Event;
    InventoryFailed = "inventory-failed.v1", Event;
    InventoryReleased = "inventory-released.v1", Event;
}

crate::undone! {
    void, _at => Self { order_id: void.order_id };
    PaymentRefunded by OrderTimedOut, InventoryFailed;
    InventoryReleased by OrderTimedOut;
}
