//! Stock of orders that go through the pipeline.

use contracts::pipeline::{
    InventoryFailed, InventoryReleased, InventoryReserved, OrderPaid, PROCESS,
};
use onceward::consumer::HandlerError;
use onceward::{Backend, MessageContext, Tx};
use onceward_saga::{Outcome, Reaction};

use crate::stock::Stock;

/// Sets pieces aside once they are paid.
#[derive(Debug, Clone)]
pub(crate) struct PipelineStock(pub(crate) Stock);

impl<B: Backend> Reaction<B> for PipelineStock {
    const PROCESS: &'static str = PROCESS;
    const STEP: &'static str = "inventory";
    type Fact = OrderPaid;
    type Done = InventoryReserved;
    type Refused = InventoryFailed;
    type Undone = InventoryReleased;

    async fn react(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        paid: &OrderPaid,
    ) -> Result<Outcome<InventoryReserved, InventoryFailed>, HandlerError> {
        let Self(stock) = self;
        let (order_id, user_id) = (paid.order_id, &paid.user_id);
        let (product_id, quantity) = (&paid.product_id, paid.quantity);
        let refused = stock.reserve(tx, order_id, product_id, quantity).await?;
        let now = stock.now();
        Ok(match refused {
            None => {
                let product_id = product_id.clone();
                let reserved = InventoryReserved::of(order_id, user_id, now, product_id, quantity);
                Outcome::Done(reserved)
            }
            Some(reason) => {
                let failed = InventoryFailed::of(order_id, user_id, now, reason.to_owned());
                Outcome::Refused(failed)
            }
        })
    }

    async fn undo(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        paid: &OrderPaid,
    ) -> Result<(), HandlerError> {
        self.0.release(tx, paid.order_id).await?;
        Ok(())
    }
}
