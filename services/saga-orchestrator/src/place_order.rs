//! The saga of an order: customer and stock asked at once, then stock, money, delivery; or all of it undone.
//!
//! ```text
//! customer.validate.request & inventory.validate.request ─▶
//! inventory.reserve ─▶ payment.process ─▶ delivery.schedule ─▶ order.completed
//!    refused or silent at any of them:
//! delivery.cancel + payment.refund + inventory.release + customer.release, as far as needed, at once
//!    all confirmed ─▶ order.cancelled
//! ```

use std::time::Duration;

use contracts::{customer, delivery, inventory, order, payment};
use onceward_saga::{InvalidDefinition, SagaBuilder, SagaDefinition};

/// Name of the definition.
pub const NAME: &str = "place_order";
/// Version of the definition that begins with the stock. Its running sagas end by it.
pub const WITHOUT_VALIDATION: i32 = 1;
/// Version of the definition that first asks customer and inventory.
pub const VALIDATED: i32 = 2;

/// Steps of the saga, as its messages name them.
pub mod step {
    /// The customer is known, and the credit set aside.
    pub const CUSTOMER: &str = "customer";
    /// There is enough stock.
    pub const AVAILABILITY: &str = "availability";
    /// Stock is set aside.
    pub const INVENTORY: &str = "inventory";
    /// The customer is charged.
    pub const PAYMENT: &str = "payment";
    /// The delivery is planned.
    pub const DELIVERY: &str = "delivery";
}

/// The definition that asks first. Each participant may be silent for `deadline`.
///
/// # Errors
/// Never for this definition; a test builds it.
pub fn validated(deadline: Duration) -> Result<SagaDefinition, InvalidDefinition> {
    let asked = SagaDefinition::of::<order::Created>(NAME, VALIDATED).together(|group| {
        group
            .step(step::CUSTOMER, |step| {
                step.command(|saga, at| customer::Validate {
                    saga: at,
                    order_id: saga.data.order_id,
                    user_id: saga.data.user_id.clone(),
                    amount_minor: saga.data.amount_minor,
                })
                .done_by::<customer::Validated>()
                .refused_by::<customer::Rejected>()
                .compensate_with(|saga, at| customer::Release {
                    saga: at,
                    order_id: saga.data.order_id,
                    reason: saga.reason().to_owned(),
                })
                .confirmed_by::<customer::Released>()
            })
            .step(step::AVAILABILITY, |step| {
                step.command(|saga, at| inventory::Validate {
                    saga: at,
                    order_id: saga.data.order_id,
                    product_id: saga.data.product_id.clone(),
                    quantity: saga.data.quantity,
                })
                .done_by::<inventory::Validated>()
                .refused_by::<inventory::Rejected>()
                .nothing_to_undo()
            })
    });
    carried_out(asked, deadline)
}

/// The definition that begins with the stock.
///
/// # Errors
/// Never for this definition; a test builds it.
pub fn without_validation(deadline: Duration) -> Result<SagaDefinition, InvalidDefinition> {
    carried_out(SagaDefinition::of(NAME, WITHOUT_VALIDATION), deadline)
}

/// What every version has: stock, money, delivery, and the last word.
fn carried_out(
    begun: SagaBuilder<order::Created>,
    deadline: Duration,
) -> Result<SagaDefinition, InvalidDefinition> {
    begun
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
