//! Deliveries, planned and called off.

use std::sync::Arc;

use contracts::delivery::{Cancel, Cancelled, Failed, Schedule, Scheduled};
use onceward::consumer::HandlerError;
use onceward::{Backend, Clock, MessageContext, Micros, Tx};
use onceward_saga::{Answer, Participant, Performer};
use skeleton::Chance;
use uuid::Uuid;

/// Why a delivery is refused.
pub const REFUSED: &str = "address undeliverable";
/// The customer nothing can ever be delivered to.
pub const ALWAYS_REFUSED: &str = "user_undeliverable";

/// Plans deliveries.
#[derive(Debug, Clone)]
pub struct Deliveries {
    clock: Arc<dyn Clock>,
    chance: Chance,
}

impl Deliveries {
    /// Takes the time from `clock`; some orders are refused by chance.
    pub fn new(clock: Arc<dyn Clock>, chance: Chance) -> Self {
        Self { clock, chance }
    }

    /// Whether this delivery is impossible: the same answer whenever it is asked.
    fn declines(&self, order_id: Uuid, user_id: &str) -> bool {
        user_id == ALWAYS_REFUSED || self.chance.refuses(order_id)
    }

    pub(crate) fn now(&self) -> Micros {
        self.clock.now()
    }

    /// Plans a delivery; `false` if it is impossible.
    pub(crate) async fn plan<B: Backend>(
        &self,
        tx: &mut Tx<'static, B>,
        order_id: Uuid,
        user_id: &str,
        product_id: &str,
        quantity: i64,
    ) -> Result<bool, sqlx::Error> {
        let declined = self.declines(order_id, user_id);
        let (status, reason) = if declined {
            ("failed", Some(REFUSED))
        } else {
            ("scheduled", None)
        };
        sqlx::query(
            "insert into delivery (order_id, user_id, product_id, quantity, status, reason, \
             created_at, updated_at) values ($1, $2, $3, $4, $5, $6, $7, $7) \
             on conflict (order_id) do update set status = excluded.status, \
             reason = excluded.reason, updated_at = excluded.updated_at",
        )
        .bind(order_id)
        .bind(user_id.to_owned())
        .bind(product_id.to_owned())
        .bind(quantity)
        .bind(status.to_owned())
        .bind(reason.map(str::to_owned))
        .bind(self.now())
        .execute(&mut **tx)
        .await?;
        Ok(!declined)
    }

    /// Calls the delivery of an order off.
    pub(crate) async fn call_off<B: Backend>(
        &self,
        tx: &mut Tx<'static, B>,
        order_id: Uuid,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "update delivery set status = 'cancelled', updated_at = $2 \
             where order_id = $1 and status = 'scheduled'",
        )
        .bind(order_id)
        .bind(self.now())
        .execute(&mut **tx)
        .await?;
        Ok(())
    }
}

impl<B: Backend> Performer<B> for Deliveries {
    type Command = Schedule;
    type Done = Scheduled;
    type Refused = Failed;

    async fn perform(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        command: &Schedule,
    ) -> Result<Answer<Scheduled>, HandlerError> {
        let (product_id, quantity) = (&command.product_id, command.quantity);
        let planned = self
            .plan(tx, command.order_id, &command.user_id, product_id, quantity)
            .await?;
        if !planned {
            return Ok(Answer::Refused(REFUSED.to_owned()));
        }
        Ok(Answer::Done(Scheduled {
            saga: command.saga.clone(),
            order_id: command.order_id,
        }))
    }
}

impl<B: Backend> Participant<B> for Deliveries {
    type Cancel = Cancel;
    type Cancelled = Cancelled;

    async fn undo(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        command: &Schedule,
    ) -> Result<(), HandlerError> {
        self.call_off(tx, command.order_id).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onceward::SystemClock;

    #[test]
    fn one_customer_is_always_refused() {
        let never = Chance {
            of: "delivery",
            percent: 0,
            seed: 0,
        };
        let deliveries = Deliveries::new(Arc::new(SystemClock), never);
        assert!(deliveries.declines(Uuid::nil(), ALWAYS_REFUSED));
        assert!(!deliveries.declines(Uuid::nil(), "user_123"));
    }
}
