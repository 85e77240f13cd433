//! Messages in: the projection of an order's steps and status.

use contracts::{customer, delivery, inventory, order, payment};
use onceward::consumer::{Handler, HandlerError, Handlers};
use onceward::{Backend, Event, MessageContext, Outbox, Tx};
use uuid::Uuid;

use crate::domain::OrderStatus;
use crate::sql::{self, Said};

/// What a message means to an order's status.
enum Meaning<'a> {
    /// A step, no more.
    Step,
    /// The order is given up and being undone.
    Cancelling(&'a str),
    /// The order is given up and undone.
    Failed(&'a str),
    /// Done.
    Completed,
}

/// A message about an order, as the projection reads it.
trait Told: Event {
    fn order_id(&self) -> Uuid;
    fn meaning(&self) -> Meaning<'_>;
}

macro_rules! said {
    ($($message:ty => $meaning:expr;)*) => {
        $(impl Told for $message {
            fn order_id(&self) -> Uuid {
                self.order_id
            }
            fn meaning(&self) -> Meaning<'_> {
                let meaning: fn(&Self) -> Meaning<'_> = $meaning;
                meaning(self)
            }
        })*

        /// The projection for every message type of an order with a coordinator, and of every order's end.
        pub(crate) fn handlers<B: Backend>(projection: Projection) -> Handlers<B> {
            Handlers::default()$(.on::<$message, _>(projection.clone()))*
        }
    };
}

said! {
    order::Completed => |_| Meaning::Completed;
    order::Cancelled => |m| Meaning::Failed(&m.reason);
    customer::Validate => |_| Meaning::Step;
    customer::Validated => |_| Meaning::Step;
    customer::Rejected => |_| Meaning::Step;
    customer::Release => |m| Meaning::Cancelling(&m.reason);
    customer::Released => |_| Meaning::Step;
    inventory::Validate => |_| Meaning::Step;
    inventory::Validated => |_| Meaning::Step;
    inventory::Rejected => |_| Meaning::Step;
    inventory::Reserve => |_| Meaning::Step;
    inventory::Reserved => |_| Meaning::Step;
    inventory::Failed => |_| Meaning::Step;
    inventory::Release => |m| Meaning::Cancelling(&m.reason);
    inventory::Released => |_| Meaning::Step;
    payment::Process => |_| Meaning::Step;
    payment::Completed => |_| Meaning::Step;
    payment::Failed => |_| Meaning::Step;
    payment::Refund => |m| Meaning::Cancelling(&m.reason);
    payment::Refunded => |_| Meaning::Step;
    delivery::Schedule => |_| Meaning::Step;
    delivery::Scheduled => |_| Meaning::Step;
    delivery::Failed => |_| Meaning::Step;
    delivery::Cancel => |m| Meaning::Cancelling(&m.reason);
    delivery::Cancelled => |_| Meaning::Step;
}

/// Follows what is said about orders.
#[derive(Debug, Clone)]
pub struct Projection {
    outbox: Outbox,
}

impl Projection {
    /// A projection by this outbox's clock, of steps called as it routes them.
    pub fn new(outbox: Outbox) -> Self {
        Self { outbox }
    }
}

impl<B: Backend, M: Told> Handler<B, M> for Projection {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        message: M,
    ) -> Result<(), HandlerError> {
        self.handle_batch(tx, vec![(context.clone(), message)])
            .await
    }

    async fn handle_batch(
        &self,
        tx: &mut Tx<'static, B>,
        messages: Vec<(MessageContext, M)>,
    ) -> Result<(), HandlerError> {
        let now = self.outbox.clock().now();
        let topic = self.outbox.routing().topic(M::TYPE);
        let mut said = Vec::with_capacity(messages.len());
        for (context, message) in &messages {
            let order_id = message.order_id();
            // The status first: on Postgres it locks the order's row, and the step's foreign key then
            // needs no second lock.
            let (status, reason) = match message.meaning() {
                Meaning::Step => (None, None),
                Meaning::Cancelling(reason) => (Some(OrderStatus::Cancelling), Some(reason)),
                Meaning::Failed(reason) => (Some(OrderStatus::Failed), Some(reason)),
                Meaning::Completed => (Some(OrderStatus::Completed), None),
            };
            if let Some(status) = status {
                sql::move_to(tx, order_id, status, reason, now).await?;
            }
            said.push(Said::handled(order_id, topic, now, context, message));
        }
        sql::note(tx, &said).await?;
        Ok(())
    }
}
