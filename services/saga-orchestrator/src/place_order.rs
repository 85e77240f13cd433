//! The saga of an order: stock, money, delivery; or all of it undone.
//!
//! ```text
//! inventory.reserve ─▶ payment.process ─▶ delivery.schedule ─▶ order.completed
//!    refused or silent at any of them:
//! delivery.cancel + payment.refund + inventory.release, as far as needed, at once
//!    all confirmed ─▶ order.cancelled
//! ```

use std::time::Duration;

use contracts::{delivery, inventory, order, payment};
use onceward_saga::{InvalidDefinition, SagaDefinition};

/// Name of the definition.
pub const NAME: &str = "place_order";
/// Version of the definition: raised when its meaning changes.
pub const VERSION: i32 = 1;

/// Steps of the saga, as its messages name them.
pub mod step {
    /// Stock is set aside.
    pub const INVENTORY: &str = "inventory";
    /// The customer is charged.
    pub const PAYMENT: &str = "payment";
    /// The delivery is planned.
    pub const DELIVERY: &str = "delivery";
}

/// The definition. Each participant may be silent for `deadline`.
///
/// # Errors
/// Never for this definition; a test builds it.
pub fn definition(deadline: Duration) -> Result<SagaDefinition, InvalidDefinition> {
    SagaDefinition::of::<order::Created>(NAME, VERSION)
        .deadline(deadline)
        .step(step::INVENTORY, |step| {
            step.command(|saga, at| inventory::Reserve {
                saga: at,
                order_id: saga.data.order_id,
                product_id: saga.data.product_id.clone(),
                quantity: saga.data.quantity,
            })
            .done_by::<inventory::Reserved>()
            .refused_by::<inventory::Failed>()
            .compensate_with(|saga, at| inventory::Release {
                saga: at,
                order_id: saga.data.order_id,
                product_id: saga.data.product_id.clone(),
                quantity: saga.data.quantity,
                reason: saga.reason().to_owned(),
            })
            .confirmed_by::<inventory::Released>()
        })
        .step(step::PAYMENT, |step| {
            step.command(|saga, at| payment::Process {
                saga: at,
                order_id: saga.data.order_id,
                user_id: saga.data.user_id.clone(),
                amount_minor: saga.data.amount_minor,
            })
            .done_by::<payment::Completed>()
            .refused_by::<payment::Failed>()
            .compensate_with(|saga, at| payment::Refund {
                saga: at,
                order_id: saga.data.order_id,
                user_id: saga.data.user_id.clone(),
                amount_minor: saga.data.amount_minor,
                reason: saga.reason().to_owned(),
            })
            .confirmed_by::<payment::Refunded>()
        })
        .step(step::DELIVERY, |step| {
            step.command(|saga, at| delivery::Schedule {
                saga: at,
                order_id: saga.data.order_id,
                user_id: saga.data.user_id.clone(),
                product_id: saga.data.product_id.clone(),
                quantity: saga.data.quantity,
            })
            .done_by::<delivery::Scheduled>()
            .refused_by::<delivery::Failed>()
            .compensate_with(|saga, at| delivery::Cancel {
                saga: at,
                order_id: saga.data.order_id,
                reason: saga.reason().to_owned(),
            })
            .confirmed_by::<delivery::Cancelled>()
        })
        .on_completed(|saga| order::Completed {
            order_id: saga.data.order_id,
            saga_id: saga.saga_id(),
        })
        .on_compensated(|saga| order::Cancelled {
            order_id: saga.data.order_id,
            saga_id: saga.saga_id(),
            reason: saga.reason().to_owned(),
        })
        .build()
}
