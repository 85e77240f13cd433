//! Between the saga and the delivery service.

use onceward_saga::StepRef;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Plan the delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
    /// Whose order.
    pub user_id: String,
    /// Which product.
    pub product_id: String,
    /// How many, at least 1.
    pub quantity: i64,
}

/// The delivery is planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduled {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
}

/// The delivery is not planned: `address undeliverable`, `expired` …
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
    /// Why not, in words a customer may read.
    pub reason: String,
}

/// Call the delivery off if it is planned, and refuse it if it comes later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
    /// Why it is undone.
    pub reason: String,
}

/// Confirms: nothing is delivered for the order, nor will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
}

crate::messages! {
    Schedule = "delivery.schedule.v1", Command, step;
    Scheduled = "delivery.scheduled.v1", Reply, step;
    Failed = "delivery.failed.v1", Reply, step, refuses(Schedule);
    Cancel = "delivery.cancel.v1", Command, step;
    Cancelled = "delivery.cancelled.v1", Reply, step, confirms(Cancel);
}
