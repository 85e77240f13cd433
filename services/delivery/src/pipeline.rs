//! Deliveries of orders that go through the pipeline.

use contracts::pipeline::{
    DeliveryCancelled, DeliveryFailed, OrderDelivered, OrderShipped, PROCESS,
};
use onceward::consumer::HandlerError;
use onceward::{Backend, MessageContext, Tx};
use onceward_saga::{Outcome, Reaction};

use crate::participant::{Deliveries, REFUSED};

/// Delivers what is on its way.
#[derive(Debug, Clone)]
pub(crate) struct PipelineDeliveries(pub(crate) Deliveries);

impl<B: Backend> Reaction<B> for PipelineDeliveries {
    const PROCESS: &'static str = PROCESS;
    const STEP: &'static str = "delivery";
    type Fact = OrderShipped;
    type Done = OrderDelivered;
    type Refused = DeliveryFailed;
    type Undone = DeliveryCancelled;

    async fn react(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        shipped: &OrderShipped,
    ) -> Result<Outcome<OrderDelivered, DeliveryFailed>, HandlerError> {
        let Self(deliveries) = self;
        let (order_id, user_id) = (shipped.order_id, &shipped.user_id);
        let (product_id, quantity) = (&shipped.product_id, shipped.quantity);
        let planned = deliveries
            .plan(tx, order_id, user_id, product_id, quantity)
            .await?;
        let now = deliveries.now();
        Ok(match planned {
            true => Outcome::Done(OrderDelivered::of(order_id, user_id, now)),
            false => {
                let failed = DeliveryFailed::of(order_id, user_id, now, REFUSED.to_owned());
                Outcome::Refused(failed)
            }
        })
    }

    async fn undo(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        shipped: &OrderShipped,
    ) -> Result<(), HandlerError> {
        self.0.call_off(tx, shipped.order_id).await?;
        Ok(())
    }
}
