//! Charges and refunds, commanded by a saga or in reaction to an order.

use std::sync::Arc;

use contracts::choreography::{
    self, OrderCreated, PaymentFailed, PaymentProcessed, PaymentRefunded,
};
use contracts::payment::{Completed, Failed, Process, Refund, Refunded};
use onceward::consumer::HandlerError;
use onceward::{Backend, Clock, MessageContext, Micros, Tx};
use onceward_saga::{Answer, Outcome, Participant, Performer, Reaction};
use skeleton::{Chance, Money};
use uuid::Uuid;

/// Why a charge is refused.
pub const REFUSED: &str = "payment declined";
/// The customer whose payments are always declined.
pub const ALWAYS_REFUSED: &str = "user_declined";

/// Charges customers. What a real one would call outside is not undone by a crash: it would pass
/// the order id as the idempotency key.
#[derive(Debug, Clone)]
pub struct Payments {
    clock: Arc<dyn Clock>,
    chance: Chance,
}

impl Payments {
    /// Takes the time from `clock`; some orders are refused by chance.
    pub fn new(clock: Arc<dyn Clock>, chance: Chance) -> Self {
        Self { clock, chance }
    }

    pub(crate) fn now(&self) -> Micros {
        self.clock.now()
    }

    /// Whether this payment is declined: the same answer whenever it is asked.
    fn declines(&self, order_id: Uuid, user_id: &str) -> bool {
        user_id == ALWAYS_REFUSED || self.chance.refuses(order_id)
    }

    /// Charges `user_id`; `false` if it was declined.
    pub(crate) async fn charge<B: Backend>(
        &self,
        tx: &mut Tx<'static, B>,
        order_id: Uuid,
        user_id: &str,
        amount_minor: i64,
    ) -> Result<bool, HandlerError> {
        let amount = Money::of_message(amount_minor)?;
        let declined = self.declines(order_id, user_id);
        let (status, reason) = if declined {
            ("failed", Some(REFUSED))
        } else {
            ("completed", None)
        };
        // A declined one is kept too: it moved no money, but somebody will ask. A later try of it
        // takes its place.
        sqlx::query(
            "insert into payment (order_id, user_id, amount_minor, status, reason, created_at, \
             updated_at) values ($1, $2, $3, $4, $5, $6, $6) \
             on conflict (order_id) do update set status = excluded.status, \
             reason = excluded.reason, updated_at = excluded.updated_at",
        )
        .bind(order_id)
        .bind(user_id.to_owned())
        .bind(amount.minor())
        .bind(status.to_owned())
        .bind(reason.map(str::to_owned))
        .bind(self.now())
        .execute(&mut **tx)
        .await?;
        Ok(!declined)
    }

    /// Pays back what was charged for an order.
    pub(crate) async fn pay_back<B: Backend>(
        &self,
        tx: &mut Tx<'static, B>,
        order_id: Uuid,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "update payment set status = 'refunded', updated_at = $2 \
             where order_id = $1 and status = 'completed'",
        )
        .bind(order_id)
        .bind(self.now())
        .execute(&mut **tx)
        .await?;
        Ok(())
    }
}

impl<B: Backend> Performer<B> for Payments {
    type Command = Process;
    type Done = Completed;
    type Refused = Failed;

    async fn perform(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        command: &Process,
    ) -> Result<Answer<Completed>, HandlerError> {
        let charged = self
            .charge(tx, command.order_id, &command.user_id, command.amount_minor)
            .await?;
        if !charged {
            return Ok(Answer::Refused(REFUSED.to_owned()));
        }
        Ok(Answer::Done(Completed {
            saga: command.saga.clone(),
            order_id: command.order_id,
            amount_minor: command.amount_minor,
        }))
    }
}

impl<B: Backend> Participant<B> for Payments {
    type Cancel = Refund;
    type Cancelled = Refunded;

    async fn undo(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        command: &Process,
    ) -> Result<(), HandlerError> {
        self.pay_back(tx, command.order_id).await?;
        Ok(())
    }
}

/// An order without a coordinator is paid as soon as it is there.
impl<B: Backend> Reaction<B> for Payments {
    const PROCESS: &'static str = choreography::PROCESS;
    const STEP: &'static str = "payment";
    type Fact = OrderCreated;
    type Done = PaymentProcessed;
    type Refused = PaymentFailed;
    type Undone = PaymentRefunded;

    async fn react(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        order: &OrderCreated,
    ) -> Result<Outcome<PaymentProcessed, PaymentFailed>, HandlerError> {
        let order_id = order.order_id;
        let charged = self
            .charge(tx, order_id, &order.user_id, order.amount_minor)
            .await?;
        if !charged {
            let reason = REFUSED.to_owned();
            return Ok(Outcome::Refused(PaymentFailed { order_id, reason }));
        }
        Ok(Outcome::Done(PaymentProcessed {
            order_id,
            amount_minor: order.amount_minor,
            product_id: order.product_id.clone(),
            quantity: order.quantity,
        }))
    }

    async fn undo(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        order: &OrderCreated,
    ) -> Result<(), HandlerError> {
        self.pay_back(tx, order.order_id).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use onceward::SystemClock;

    use super::*;

    #[test]
    fn one_customer_is_always_declined() {
        let never = Chance {
            of: "payment",
            percent: 0,
            seed: 0,
        };
        let payments = Payments::new(Arc::new(SystemClock), never);
        assert!(payments.declines(Uuid::nil(), ALWAYS_REFUSED));
        assert!(!payments.declines(Uuid::nil(), "user_123"));
    }
}
