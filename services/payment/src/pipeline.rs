//! Charges and refunds of orders that go through the pipeline.

use contracts::pipeline::{OrderCreated, OrderPaid, PROCESS, PaymentFailed, PaymentRefunded};
use onceward::consumer::HandlerError;
use onceward::{Backend, MessageContext, Tx};
use onceward_saga::{Outcome, Reaction};

use crate::participant::{Payments, REFUSED};

/// Charges as soon as there is an order.
#[derive(Debug, Clone)]
pub(crate) struct PipelinePayments(pub(crate) Payments);

impl<B: Backend> Reaction<B> for PipelinePayments {
    const PROCESS: &'static str = PROCESS;
    const STEP: &'static str = "payment";
    type Fact = OrderCreated;
    type Done = OrderPaid;
    type Refused = PaymentFailed;
    type Undone = PaymentRefunded;

    async fn react(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        order: &OrderCreated,
    ) -> Result<Outcome<OrderPaid, PaymentFailed>, HandlerError> {
        let Self(payments) = self;
        let (order_id, user_id, amount) = (order.order_id, &order.user_id, order.amount_minor);
        let charged = payments.charge(tx, order_id, user_id, amount).await?;
        let now = payments.now();
        Ok(match charged {
            true => {
                let product_id = order.product_id.clone();
                let quantity = order.quantity;
                let paid = OrderPaid::of(order_id, user_id, now, product_id, quantity, amount);
                Outcome::Done(paid)
            }
            false => {
                let failed = PaymentFailed::of(order_id, user_id, now, REFUSED.to_owned());
                Outcome::Refused(failed)
            }
        })
    }

    async fn undo(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        order: &OrderCreated,
    ) -> Result<(), HandlerError> {
        self.0.pay_back(tx, order.order_id).await?;
        Ok(())
    }
}
