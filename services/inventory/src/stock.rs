//! Stock and reservations.

use std::sync::Arc;

use contracts::choreography::{
    self, InventoryFailed, InventoryReleased, InventoryUpdated, PaymentProcessed,
};
use contracts::{inventory, order};
use onceward::consumer::{Handler, HandlerError};
use onceward::{Backend, Clock, MessageContext, Micros, QueryResult, Tx};
use onceward_saga::{Answer, Outcome, Participant, Performer, Reaction};
use sqlx::Row;
use uuid::Uuid;

/// Why a reservation is refused: less is there.
pub const INSUFFICIENT: &str = "insufficient inventory";
/// Why a reservation is refused: there is no such product.
pub const UNKNOWN_PRODUCT: &str = "unknown product";

/// Sets stock aside, gives it back, and counts it as sold.
#[derive(Debug, Clone)]
pub struct Stock {
    clock: Arc<dyn Clock>,
}

impl Stock {
    /// Takes the time from `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }

    pub(crate) fn now(&self) -> Micros {
        self.clock.now()
    }

    /// Sets pieces aside for an order; `Some` reason if they are not.
    pub(crate) async fn reserve<B: Backend>(
        &self,
        tx: &mut Tx<'static, B>,
        order_id: Uuid,
        product_id: &str,
        quantity: i64,
    ) -> Result<Option<&'static str>, sqlx::Error> {
        if quantity <= 0 {
            return Ok(Some("invalid quantity"));
        }
        let now = self.now();
        // One statement takes the row's lock and looks at what is there: two orders for the last
        // piece can't both find it.
        let taken = sqlx::query(
            "update product set stock = stock - $2, reserved = reserved + $2, updated_at = $3 \
             where product_id = $1 and stock >= $2",
        )
        .bind(product_id.to_owned())
        .bind(quantity)
        .bind(now)
        .execute(&mut **tx)
        .await?
        .rows_affected();
        if taken == 0 {
            let known = sqlx::query("select 1 from product where product_id = $1")
                .bind(product_id.to_owned())
                .fetch_optional(&mut **tx)
                .await?;
            let reason = if known.is_some() {
                INSUFFICIENT
            } else {
                UNKNOWN_PRODUCT
            };
            return Ok(Some(reason));
        }
        sqlx::query(
            "insert into reservation (order_id, product_id, quantity, state, created_at, \
             updated_at) values ($1, $2, $3, 'reserved', $4, $4) \
             on conflict (order_id) do update set state = 'reserved', \
             quantity = excluded.quantity, updated_at = excluded.updated_at",
        )
        .bind(order_id)
        .bind(product_id.to_owned())
        .bind(quantity)
        .bind(now)
        .execute(&mut **tx)
        .await?;
        Ok(None)
    }

    /// Gives an order's pieces back, if any are set aside.
    pub(crate) async fn release<B: Backend>(
        &self,
        tx: &mut Tx<'static, B>,
        order_id: Uuid,
    ) -> Result<(), sqlx::Error> {
        let Some((product_id, quantity)) = self.close(tx, order_id, "released").await? else {
            return Ok(());
        };
        sqlx::query(
            "update product set stock = stock + $2, reserved = reserved - $2, updated_at = $3 \
             where product_id = $1",
        )
        .bind(product_id)
        .bind(quantity)
        .bind(self.now())
        .execute(&mut **tx)
        .await?;
        Ok(())
    }

    /// Moves a reservation that still is `reserved` on, and says what it was about.
    async fn close<B: Backend>(
        &self,
        tx: &mut Tx<'static, B>,
        order_id: Uuid,
        state: &str,
    ) -> Result<Option<(String, i64)>, sqlx::Error> {
        let row = sqlx::query(
            "update reservation set state = $2, updated_at = $3 \
             where order_id = $1 and state = 'reserved' returning product_id, quantity",
        )
        .bind(order_id)
        .bind(state.to_owned())
        .bind(self.now())
        .fetch_optional(&mut **tx)
        .await?;
        row.map(|row| Ok((row.try_get("product_id")?, row.try_get("quantity")?)))
            .transpose()
    }
}

impl<B: Backend> Performer<B> for Stock {
    type Command = inventory::Reserve;
    type Done = inventory::Reserved;
    type Refused = inventory::Failed;

    async fn perform(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        command: &inventory::Reserve,
    ) -> Result<Answer<inventory::Reserved>, HandlerError> {
        let (product_id, quantity) = (&command.product_id, command.quantity);
        if let Some(reason) = self
            .reserve(tx, command.order_id, product_id, quantity)
            .await?
        {
            return Ok(Answer::Refused(reason.to_owned()));
        }
        Ok(Answer::Done(inventory::Reserved {
            saga: command.saga.clone(),
            order_id: command.order_id,
            product_id: command.product_id.clone(),
            quantity: command.quantity,
        }))
    }
}

impl<B: Backend> Participant<B> for Stock {
    type Cancel = inventory::Release;
    type Cancelled = inventory::Released;

    async fn undo(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        command: &inventory::Reserve,
    ) -> Result<(), HandlerError> {
        self.release(tx, command.order_id).await?;
        Ok(())
    }
}

/// Tells whether there is enough, before anything is set aside: it changes nothing, so nothing is undone.
#[derive(Debug, Clone, Copy)]
pub struct Availability;

impl<B: Backend> Performer<B> for Availability {
    type Command = inventory::Validate;
    type Done = inventory::Validated;
    type Refused = inventory::Rejected;

    async fn perform(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        command: &inventory::Validate,
    ) -> Result<Answer<inventory::Validated>, HandlerError> {
        let stock: Option<i64> =
            sqlx::query_scalar("select stock from product where product_id = $1")
                .bind(command.product_id.clone())
                .fetch_optional(&mut **tx)
                .await?;
        Ok(match stock {
            None => Answer::Refused(UNKNOWN_PRODUCT.to_owned()),
            Some(stock) if stock < command.quantity => Answer::Refused(INSUFFICIENT.to_owned()),
            Some(_) => Answer::Done(inventory::Validated {
                saga: command.saga.clone(),
                order_id: command.order_id,
            }),
        })
    }
}

/// An order without a coordinator has its pieces set aside once it is paid.
impl<B: Backend> Reaction<B> for Stock {
    const PROCESS: &'static str = choreography::PROCESS;
    const STEP: &'static str = "inventory";
    type Fact = PaymentProcessed;
    type Done = InventoryUpdated;
    type Refused = InventoryFailed;
    type Undone = InventoryReleased;

    async fn react(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        paid: &PaymentProcessed,
    ) -> Result<Outcome<InventoryUpdated, InventoryFailed>, HandlerError> {
        let (order_id, product_id, quantity) = (paid.order_id, &paid.product_id, paid.quantity);
        if let Some(reason) = self.reserve(tx, order_id, product_id, quantity).await? {
            let reason = reason.to_owned();
            return Ok(Outcome::Refused(InventoryFailed { order_id, reason }));
        }
        Ok(Outcome::Done(InventoryUpdated {
            order_id,
            product_id: product_id.clone(),
            quantity,
        }))
    }

    async fn undo(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        paid: &PaymentProcessed,
    ) -> Result<(), HandlerError> {
        self.release(tx, paid.order_id).await?;
        Ok(())
    }
}

/// A completed order's stock has left the house.
impl<B: Backend> Handler<B, order::Completed> for Stock {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        message: order::Completed,
    ) -> Result<(), HandlerError> {
        let Some((product_id, quantity)) = self.close(tx, message.order_id, "sold").await? else {
            return Ok(());
        };
        sqlx::query(
            "update product set reserved = reserved - $2, sold = sold + $2, updated_at = $3 \
             where product_id = $1",
        )
        .bind(product_id)
        .bind(quantity)
        .bind(self.now())
        .execute(&mut **tx)
        .await?;
        Ok(())
    }
}
