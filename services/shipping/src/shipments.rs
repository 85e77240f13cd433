//! Shipments, sent and taken back.

use std::sync::Arc;

use contracts::pipeline::{InventoryReserved, OrderShipped, PROCESS, ShipmentReturned};
use onceward::consumer::HandlerError;
use onceward::{Backend, Clock, MessageContext, Tx};
use onceward_saga::{Never, Outcome, Reaction};

/// Ships what is reserved. What a real one would call outside is not undone by a crash: it would pass
/// the order id as the idempotency key.
#[derive(Debug, Clone)]
pub struct Shipments {
    clock: Arc<dyn Clock>,
}

impl Shipments {
    /// Takes the time from `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }
}

impl<B: Backend> Reaction<B> for Shipments {
    const PROCESS: &'static str = PROCESS;
    const STEP: &'static str = "shipping";
    type Fact = InventoryReserved;
    type Done = OrderShipped;
    type Refused = Never;
    type Undone = ShipmentReturned;

    async fn react(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        reserved: &InventoryReserved,
    ) -> Result<Outcome<OrderShipped, Never>, HandlerError> {
        let (order_id, user_id) = (reserved.order_id, &reserved.user_id);
        let (product_id, quantity) = (reserved.product_id.clone(), reserved.quantity);
        let now = self.clock.now();
        sqlx::query(
            "insert into shipment (order_id, user_id, product_id, quantity, status, created_at, \
             updated_at) values ($1, $2, $3, $4, 'shipped', $5, $5)",
        )
        .bind(order_id)
        .bind(user_id.clone())
        .bind(product_id.clone())
        .bind(quantity)
        .bind(now)
        .execute(&mut **tx)
        .await?;
        let shipped = OrderShipped::of(order_id, user_id, now, product_id, quantity);
        Ok(Outcome::Done(shipped))
    }

    async fn undo(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        reserved: &InventoryReserved,
    ) -> Result<(), HandlerError> {
        sqlx::query("update shipment set status = 'returned', updated_at = $2 where order_id = $1")
            .bind(reserved.order_id)
            .bind(self.clock.now())
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}
