//! Between the saga and the payment service.

use onceward_saga::StepRef;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Charge the customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
    /// Whose order.
    pub user_id: String,
    /// How much, in minor units (cents).
    pub amount_minor: i64,
}

/// The customer is charged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completed {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
    /// How much, in minor units (cents).
    pub amount_minor: i64,
}

/// The customer is not charged: `payment declined`, `expired` …
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
    /// Why not, in words a customer may read.
    pub reason: String,
}

/// Pay back if the customer was charged, and refuse the charge if it comes later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
    /// Whose order.
    pub user_id: String,
    /// How much, in minor units (cents).
    pub amount_minor: i64,
    /// Why it is undone.
    pub reason: String,
}

/// Confirms: the customer has paid nothing for the order, nor will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refunded {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
}

crate::messages! {
    Process = "payment.process.v1", Command, step;
    Completed = "payment.completed.v1", Reply, step;
    Failed = "payment.failed.v1", Reply, step, refuses(Process);
    Refund = "payment.refund.v1", Command, step;
    Refunded = "payment.refunded.v1", Reply, step, confirms(Refund);
}
