//! Credit, set aside for orders, given back and spent, and who has it.

use std::sync::Arc;

use contracts::customer::{Rejected, Release, Released, Validate, Validated};
use contracts::order;
use onceward::consumer::{Handler, HandlerError};
use onceward::{Backend, Clock, MessageContext, Micros, QueryResult, Tx};
use onceward_saga::{Answer, Participant, Performer};
use skeleton::Money;
use sqlx::Row;
use uuid::Uuid;

/// Why an order is rejected: with the others under way it comes to more than the limit.
pub const EXCEEDED: &str = "credit limit exceeded";
/// Why an order is rejected: nobody knows the customer.
pub const UNKNOWN_CUSTOMER: &str = "unknown customer";
/// The customer whose first order makes one without credit, so that every order is rejected.
pub const WITHOUT_CREDIT: &str = "user_without_credit";

/// Makes a customer unless there is one of this user id: the row, if it is new.
pub(crate) async fn make_customer<B: Backend>(
    tx: &mut Tx<'_, B>,
    customer_id: Uuid,
    user_id: &str,
    name: &str,
    limit: Money,
    now: Micros,
) -> Result<Option<B::Row>, sqlx::Error> {
    sqlx::query(
        "insert into customer (customer_id, user_id, name, limit_minor, created_at, updated_at) \
         values ($1, $2, $3, $4, $5, $5) on conflict (user_id) do nothing returning *",
    )
    .bind(customer_id)
    .bind(user_id)
    .bind(name)
    .bind(limit.minor())
    .bind(now)
    .fetch_optional(&mut **tx)
    .await
}

/// Sets credit aside, gives it back, and counts it as spent.
#[derive(Debug, Clone)]
pub struct Credit {
    clock: Arc<dyn Clock>,
    limit_of_new: Option<Money>,
}

impl Credit {
    /// Takes the time from `clock`. Customers nobody has made get this credit, or are rejected.
    pub fn new(clock: Arc<dyn Clock>, limit_of_new: Option<Money>) -> Self {
        Self {
            clock,
            limit_of_new,
        }
    }

    /// The credit of a customer whom the first order makes.
    fn limit_of_new(&self, user_id: &str) -> Option<Money> {
        match user_id {
            WITHOUT_CREDIT => self.limit_of_new.map(|_| Money::cents(0)),
            _ => self.limit_of_new,
        }
    }

    /// Sets credit aside for an order; `Some` reason if it is not.
    async fn reserve<B: Backend>(
        &self,
        tx: &mut Tx<'static, B>,
        order_id: Uuid,
        user_id: &str,
        amount: Money,
    ) -> Result<Option<&'static str>, sqlx::Error> {
        let now = self.clock.now();
        if let Some(limit) = self.limit_of_new(user_id) {
            // By the id of the order that makes it: a rebuild makes the same customer again.
            make_customer(tx, order_id, user_id, user_id, limit, now).await?;
        }
        // One statement takes the row's lock and looks at what is left: two orders for the last of it
        // can't both have it.
        let taken = sqlx::query(
            "update customer set reserved_minor = reserved_minor + $2, updated_at = $3 \
             where user_id = $1 and reserved_minor + $2 <= limit_minor",
        )
        .bind(user_id.to_owned())
        .bind(amount.minor())
        .bind(now)
        .execute(&mut **tx)
        .await?
        .rows_affected();
        if taken == 0 {
            let known = sqlx::query("select 1 from customer where user_id = $1")
                .bind(user_id.to_owned())
                .fetch_optional(&mut **tx)
                .await?;
            return Ok(Some(match known {
                Some(_) => EXCEEDED,
                None => UNKNOWN_CUSTOMER,
            }));
        }
        sqlx::query(
            "insert into credit (order_id, user_id, amount_minor, state, created_at, updated_at) \
             values ($1, $2, $3, 'reserved', $4, $4)",
        )
        .bind(order_id)
        .bind(user_id.to_owned())
        .bind(amount.minor())
        .bind(now)
        .execute(&mut **tx)
        .await?;
        Ok(None)
    }

    /// Ends an order's claim to credit, if it still has one: `released`, or `spent`.
    async fn close<B: Backend>(
        &self,
        tx: &mut Tx<'static, B>,
        order_id: Uuid,
        state: &'static str,
    ) -> Result<(), sqlx::Error> {
        let now = self.clock.now();
        let row = sqlx::query(
            "update credit set state = $2, updated_at = $3 \
             where order_id = $1 and state = 'reserved' returning user_id, amount_minor",
        )
        .bind(order_id)
        .bind(state)
        .bind(now)
        .fetch_optional(&mut **tx)
        .await?;
        let Some(row) = row else { return Ok(()) };
        let (user_id, amount): (String, i64) =
            (row.try_get("user_id")?, row.try_get("amount_minor")?);
        let spent = if state == "spent" { amount } else { 0 };
        sqlx::query(
            "update customer set reserved_minor = reserved_minor - $2, \
             spent_minor = spent_minor + $3, updated_at = $4 where user_id = $1",
        )
        .bind(user_id)
        .bind(amount)
        .bind(spent)
        .bind(now)
        .execute(&mut **tx)
        .await?;
        Ok(())
    }
}

impl<B: Backend> Performer<B> for Credit {
    type Command = Validate;
    type Done = Validated;
    type Refused = Rejected;

    async fn perform(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        command: &Validate,
    ) -> Result<Answer<Validated>, HandlerError> {
        let amount = Money::of_message(command.amount_minor)?;
        let (order_id, user_id) = (command.order_id, &command.user_id);
        if let Some(reason) = self.reserve(tx, order_id, user_id, amount).await? {
            return Ok(Answer::Refused(reason.to_owned()));
        }
        Ok(Answer::Done(Validated {
            saga: command.saga.clone(),
            order_id,
        }))
    }
}

impl<B: Backend> Participant<B> for Credit {
    type Cancel = Release;
    type Cancelled = Released;

    async fn undo(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        command: &Validate,
    ) -> Result<(), HandlerError> {
        self.close(tx, command.order_id, "released").await?;
        Ok(())
    }
}

/// A completed order is paid: the customer may order for as much again.
impl<B: Backend> Handler<B, order::Completed> for Credit {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        message: order::Completed,
    ) -> Result<(), HandlerError> {
        self.close(tx, message.order_id, "spent").await?;
        Ok(())
    }
}
