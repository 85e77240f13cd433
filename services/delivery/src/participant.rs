//! Deliveries, planned and called off.

use std::sync::Arc;

use contracts::delivery::{Cancel, Cancelled, Failed, Schedule, Scheduled};
use onceward::consumer::HandlerError;
use onceward::{Backend, Clock, MessageContext, Tx};
use onceward_saga::{Answer, Participant, Performer};
use skeleton::Chance;

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
    fn declines(&self, command: &Schedule) -> bool {
        command.user_id == ALWAYS_REFUSED || self.chance.refuses(command.order_id)
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
        let declined = self.declines(command);
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
        .bind(command.order_id)
        .bind(command.user_id.clone())
        .bind(command.product_id.clone())
        .bind(command.quantity)
        .bind(status.to_owned())
        .bind(reason.map(str::to_owned))
        .bind(self.clock.now())
        .execute(&mut **tx)
        .await?;
        if declined {
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
        sqlx::query(
            "update delivery set status = 'cancelled', updated_at = $2 \
             where order_id = $1 and status = 'scheduled'",
        )
        .bind(command.order_id)
        .bind(self.clock.now())
        .execute(&mut **tx)
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use onceward::SystemClock;
    use onceward_saga::{SagaId, StepRef};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn one_customer_is_always_refused() {
        let never = Chance {
            of: "delivery",
            percent: 0,
            seed: 0,
        };
        let deliveries = Deliveries::new(Arc::new(SystemClock), never);
        let command = |user_id: &str| Schedule {
            saga: StepRef::first(SagaId(Uuid::nil()), "delivery"),
            order_id: Uuid::nil(),
            user_id: user_id.into(),
            product_id: "product_1".into(),
            quantity: 1,
        };
        assert!(deliveries.declines(&command(ALWAYS_REFUSED)));
        assert!(!deliveries.declines(&command("user_123")));
    }
}
