//! Deliveries, planned and called off.

use std::sync::Arc;

use contracts::delivery::{Cancel, Cancelled, Failed, Schedule, Scheduled};
use onceward::consumer::HandlerError;
use onceward::{Backend, Clock, MessageContext, Tx};
use onceward_saga::{Answer, Participant};
use uuid::Uuid;

use crate::Settings;

/// Why a delivery is refused.
pub const REFUSED: &str = "address undeliverable";
/// The customer nothing can ever be delivered to.
pub const ALWAYS_REFUSED: &str = "user_undeliverable";

/// Plans deliveries.
#[derive(Debug, Clone)]
pub struct Deliveries {
    clock: Arc<dyn Clock>,
    settings: Settings,
}

impl Deliveries {
    /// Takes the time from `clock`.
    pub fn new(clock: Arc<dyn Clock>, settings: Settings) -> Self {
        Self { clock, settings }
    }

    /// Whether this delivery is impossible: the same answer whenever it is asked.
    fn declines(&self, command: &Schedule) -> bool {
        let name = format!("delivery/{}", self.settings.seed);
        let hash = Uuid::new_v5(&command.order_id, name.as_bytes()).as_u128();
        let chance = hash & u128::from(u32::MAX);
        command.user_id == ALWAYS_REFUSED || chance % 100 < u128::from(self.settings.fail_percent)
    }
}

impl<B: Backend> Participant<B> for Deliveries {
    type Command = Schedule;
    type Done = Scheduled;
    type Refused = Failed;
    type Cancel = Cancel;
    type Cancelled = Cancelled;

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

    use super::*;

    #[test]
    fn chance_refuses_its_share_and_one_customer_always() {
        let deliveries = |fail_percent| {
            let settings = Settings {
                fail_percent,
                seed: 0,
            };
            Deliveries::new(Arc::new(SystemClock), settings)
        };
        let command = |n: u128, user_id: &str| Schedule {
            saga: StepRef::first(SagaId(Uuid::from_u128(n)), "delivery"),
            order_id: Uuid::from_u128(n),
            user_id: user_id.into(),
            product_id: "product_1".into(),
            quantity: 1,
        };
        let refused = |percent| {
            let deliveries = deliveries(percent);
            (0..10_000)
                .filter(|n| deliveries.declines(&command(*n, "user_123")))
                .count()
        };
        assert!((400..600).contains(&refused(5)), "{}", refused(5));
        assert_eq!(refused(0), 0);
        assert!(deliveries(0).declines(&command(1, ALWAYS_REFUSED)));
    }
}
