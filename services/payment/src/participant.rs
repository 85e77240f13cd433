//! Charges and refunds.

use std::sync::Arc;

use contracts::payment::{Completed, Failed, Process, Refund, Refunded};
use onceward::consumer::HandlerError;
use onceward::{Backend, Clock, MessageContext, Tx};
use onceward_saga::{Answer, Participant};
use skeleton::Chance;

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

    /// Whether this payment is declined: the same answer whenever it is asked.
    fn declines(&self, command: &Process) -> bool {
        command.user_id == ALWAYS_REFUSED || self.chance.refuses(command.order_id)
    }
}

impl<B: Backend> Participant<B> for Payments {
    type Command = Process;
    type Done = Completed;
    type Refused = Failed;
    type Cancel = Refund;
    type Cancelled = Refunded;

    async fn perform(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        command: &Process,
    ) -> Result<Answer<Completed>, HandlerError> {
        let declined = self.declines(command);
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
        .bind(command.order_id)
        .bind(command.user_id.clone())
        .bind(command.amount_minor)
        .bind(status.to_owned())
        .bind(reason.map(str::to_owned))
        .bind(self.clock.now())
        .execute(&mut **tx)
        .await?;
        if declined {
            return Ok(Answer::Refused(REFUSED.to_owned()));
        }
        Ok(Answer::Done(Completed {
            saga: command.saga.clone(),
            order_id: command.order_id,
            amount_minor: command.amount_minor,
        }))
    }

    async fn undo(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        command: &Process,
    ) -> Result<(), HandlerError> {
        sqlx::query(
            "update payment set status = 'refunded', updated_at = $2 \
             where order_id = $1 and status = 'completed'",
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
    fn one_customer_is_always_declined() {
        let never = Chance {
            of: "payment",
            percent: 0,
            seed: 0,
        };
        let payments = Payments::new(Arc::new(SystemClock), never);
        let command = |user_id: &str| Process {
            saga: StepRef::first(SagaId(Uuid::nil()), "payment"),
            order_id: Uuid::nil(),
            user_id: user_id.into(),
            amount_minor: 1,
        };
        assert!(payments.declines(&command(ALWAYS_REFUSED)));
        assert!(!payments.declines(&command("user_123")));
    }
}
