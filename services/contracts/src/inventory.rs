//! Between the saga and the inventory service.

use onceward_saga::StepRef;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Is there enough for the order? Nothing is set aside yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validate {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
    /// Which product.
    pub product_id: String,
    /// How many, at least 1.
    pub quantity: i64,
}

/// There was enough when it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validated {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
}

/// There is not: `insufficient inventory`, `unknown product`, `expired` …
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
    /// Why not, in words a customer may read.
    pub reason: String,
}

/// Set aside stock for the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
    /// Which product.
    pub product_id: String,
    /// How many, at least 1.
    pub quantity: i64,
}

/// The stock is set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
    /// Which product.
    pub product_id: String,
    /// How many, at least 1.
    pub quantity: i64,
}

/// The stock is not set aside: `insufficient inventory`, `unknown product`, `expired` …
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
    /// Why not, in words a customer may read.
    pub reason: String,
}

/// Undo the reservation if there is one, and refuse it if it comes later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
    /// Which product.
    pub product_id: String,
    /// How many, at least 1.
    pub quantity: i64,
    /// Why it is undone.
    pub reason: String,
}

/// Confirms: no stock is set aside for the order, nor will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
}

crate::messages! {
    Validate = "inventory.validate.request.v1", Command, step;
    Validated = "inventory.validated.v1", Reply, step;
    Rejected = "inventory.rejected.v1", Reply, step, refuses(Validate);
    Reserve = "inventory.reserve.v1", Command, step;
    Reserved = "inventory.reserved.v1", Reply, step;
    Failed = "inventory.failed.v1", Reply, step, refuses(Reserve);
    Release = "inventory.release.v1", Command, step;
    Released = "inventory.released.v1", Reply, step, confirms(Release);
}
