//! Between the saga and the customer service.

use onceward_saga::StepRef;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// May this customer order that much? If so, set the credit aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validate {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
    /// Who ordered.
    pub user_id: String,
    /// The price of all of it, in minor units (cents).
    pub amount_minor: i64,
}

/// The customer is known, and the credit is set aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validated {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
}

/// The customer may not: `unknown customer`, `credit limit exceeded` …
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
    /// Why not, in words a customer may read.
    pub reason: String,
}

/// Give the order's credit back if it is set aside, and reject the order if it comes later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
    /// Why it is undone.
    pub reason: String,
}

/// Confirms: the order has none of the customer's credit, nor will it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// The step of the saga this is about.
    pub saga: StepRef,
    /// The order.
    pub order_id: Uuid,
}

crate::messages! {
    Validate = "customer.validate.request.v1", Command, step;
    Validated = "customer.validated.v1", Reply, step;
    Rejected = "customer.rejected.v1", Reply, step, refuses(Validate);
    Release = "customer.release.v1", Command, step;
    Released = "customer.released.v1", Reply, step, confirms(Release);
}
