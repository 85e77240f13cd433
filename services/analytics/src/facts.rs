//! Messages in: each adds one to its minute, and tells something about its order.

use contracts::{choreography, customer, delivery, inventory, order, payment, pipeline};
use onceward::consumer::{Handler, HandlerError, Handlers};
use onceward::{Backend, Event, MessageContext, Micros, Outbox, Tx};
use skeleton::Money;
use uuid::Uuid;

/// Microseconds of a minute.
pub(crate) const MINUTE: Micros = 60_000_000;

/// What a message tells about its order.
enum Fact {
    /// It was placed, for so much.
    Placed(i64),
    /// It ended so.
    Ended(&'static str),
    /// Something was confirmed undone.
    Undone,
    /// Nothing that is not counted anyway.
    Nothing,
}

/// A message that is counted.
trait Heard: Event {
    fn order_id(&self) -> Uuid;
    fn fact(&self) -> Fact;
}

macro_rules! heard {
    ($($message:ty => $fact:expr;)*) => {$(
        impl Heard for $message {
            fn order_id(&self) -> Uuid {
                self.order_id
            }
            fn fact(&self) -> Fact {
                let fact: fn(&Self) -> Fact = $fact;
                fact(self)
            }
        }
    )*

    /// A handler for each of these messages.
    pub fn handlers<B: Backend>(facts: Facts) -> Handlers<B> {
        Handlers::default()$(.on::<$message, _>(facts.clone()))*
    }
    };
}

heard! {
    order::Created => |m| Fact::Placed(m.amount_minor);
    order::Completed => |_| Fact::Ended("completed");
    order::Cancelled => |_| Fact::Ended("cancelled");
    customer::Validated => |_| Fact::Nothing;
    customer::Rejected => |_| Fact::Nothing;
    customer::Released => |_| Fact::Undone;
    inventory::Validated => |_| Fact::Nothing;
    inventory::Rejected => |_| Fact::Nothing;
    inventory::Reserved => |_| Fact::Nothing;
    inventory::Failed => |_| Fact::Nothing;
    inventory::Released => |_| Fact::Undone;
    payment::Completed => |_| Fact::Nothing;
    payment::Failed => |_| Fact::Nothing;
    payment::Refunded => |_| Fact::Undone;
    delivery::Scheduled => |_| Fact::Nothing;
    delivery::Failed => |_| Fact::Nothing;
    delivery::Cancelled => |_| Fact::Undone;
    choreography::OrderCreated => |m| Fact::Placed(m.amount_minor);
    choreography::OrderTimedOut => |_| Fact::Nothing;
    choreography::PaymentProcessed => |_| Fact::Nothing;
    choreography::PaymentFailed => |_| Fact::Nothing;
    choreography::PaymentRefunded => |_| Fact::Undone;
    choreography::InventoryUpdated => |_| Fact::Nothing;
    choreography::InventoryFailed => |_| Fact::Nothing;
    choreography::InventoryReleased => |_| Fact::Undone;
    pipeline::OrderCreated => |m| Fact::Placed(m.amount_minor);
    pipeline::OrderTimedOut => |_| Fact::Nothing;
    pipeline::OrderPaid => |_| Fact::Nothing;
    pipeline::PaymentFailed => |_| Fact::Nothing;
    pipeline::PaymentRefunded => |_| Fact::Undone;
    pipeline::InventoryReserved => |_| Fact::Nothing;
    pipeline::InventoryFailed => |_| Fact::Nothing;
    pipeline::InventoryReleased => |_| Fact::Undone;
    pipeline::OrderShipped => |_| Fact::Nothing;
    pipeline::ShipmentReturned => |_| Fact::Undone;
    pipeline::OrderDelivered => |_| Fact::Nothing;
    pipeline::DeliveryFailed => |_| Fact::Nothing;
    pipeline::DeliveryCancelled => |_| Fact::Undone;
}

/// Counts what is said about orders.
#[derive(Debug, Clone)]
pub struct Facts {
    outbox: Outbox,
}

impl Facts {
    /// Facts by topic, as this outbox routes them, and by its clock where a message does not say when it was
    /// written.
    pub fn new(outbox: Outbox) -> Self {
        Self { outbox }
    }
}

impl<B: Backend, M: Heard> Handler<B, M> for Facts {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        message: M,
    ) -> Result<(), HandlerError> {
        let written = context.caused_at;
        let at = written.unwrap_or_else(|| self.outbox.clock().now());
        let order_id = message.order_id();
        // The topics are in no order to each other: the row is made by whichever comes first.
        match message.fact() {
            Fact::Placed(amount_minor) => {
                let amount = Money::of_message(amount_minor)?;
                sqlx::query(
                    "insert into order_fact (order_id, created_at, amount_minor) \
                     values ($1, $2, $3) on conflict (order_id) do update \
                     set created_at = excluded.created_at, amount_minor = excluded.amount_minor",
                )
                .bind(order_id)
                .bind(at)
                .bind(amount.minor())
                .execute(&mut **tx)
                .await?;
            }
            Fact::Ended(outcome) => {
                sqlx::query(
                    "insert into order_fact (order_id, ended_at, outcome) values ($1, $2, $3) \
                     on conflict (order_id) do update \
                     set ended_at = excluded.ended_at, outcome = excluded.outcome",
                )
                .bind(order_id)
                .bind(at)
                .bind(outcome.to_owned())
                .execute(&mut **tx)
                .await?;
            }
            Fact::Undone => {
                sqlx::query(
                    "insert into order_fact (order_id, undone) values ($1, 1) \
                     on conflict (order_id) do update set undone = 1",
                )
                .bind(order_id)
                .execute(&mut **tx)
                .await?;
            }
            Fact::Nothing => {}
        }
        // Last: every batch of this minute writes these few rows, so they are locked for short.
        sqlx::query(
            "insert into minute_count (minute, topic, messages) values ($1, $2, 1) \
             on conflict (minute, topic) do update set messages = minute_count.messages + 1",
        )
        .bind(at - at.rem_euclid(MINUTE))
        .bind(self.outbox.routing().topic(M::TYPE).to_owned())
        .execute(&mut **tx)
        .await?;
        Ok(())
    }
}
