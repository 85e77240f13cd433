//! Messages in: news of an order asks for a notification, and a notification becomes a mail.
//!
//! ```text
//! payment.failed, order_delivered … ─▶ high_priority_notifications ─▶ mail, 0
//! order.completed, order_shipped …  ─▶ low_priority_notifications  ─▶ mail, 1
//! ```
//! Each arrow is one transaction with an inbox row: one mail for each piece of news.

use contracts::notification::{HighPriority, LowPriority, Notice, Notification};
use contracts::{choreography, delivery, order, payment, pipeline};
use onceward::consumer::{Handler, HandlerError, Handlers};
use onceward::{Backend, Event, MessageContext, Outbox, Tx};
use uuid::Uuid;

/// A message that the customer is told of.
trait News: Event {
    /// The notification it asks for: of high or of low priority.
    type Asked: Event;
    fn order_id(&self) -> Uuid;
    /// Whose order it is, if the message says so.
    fn user_id(&self) -> Option<&str>;
    fn asks(&self) -> Self::Asked;
}

macro_rules! news {
    ($($message:ty => $asked:ident $notice:ident, $user:expr, $reason:expr;)*) => {
        $(impl News for $message {
            type Asked = $asked;

            fn order_id(&self) -> Uuid {
                self.order_id
            }
            fn user_id(&self) -> Option<&str> {
                let user: fn(&Self) -> Option<&str> = $user;
                user(self)
            }
            fn asks(&self) -> $asked {
                let reason: fn(&Self) -> Option<&str> = $reason;
                let reason = reason(self).map(str::to_owned);
                $asked { order_id: self.order_id, notice: Notice::$notice, reason }
            }
        })*

        /// A handler for every message type it consumes.
        pub fn handlers<B: Backend>(reactions: Reactions) -> Handlers<B> {
            Handlers::default()
                .on::<order::Created, _>(Contacts)
                .on::<choreography::OrderCreated, _>(Contacts)
                $(.on::<$message, _>(reactions.clone()))*
                .on::<HighPriority, _>(reactions.clone())
                .on::<LowPriority, _>(reactions)
        }
    };
}

news! {
    order::Completed => LowPriority OrderCompleted, |_| None, |_| None;
    order::Cancelled => HighPriority OrderCancelled, |_| None, |m| Some(&m.reason);
    payment::Failed => HighPriority PaymentFailed, |_| None, |m| Some(&m.reason);
    delivery::Scheduled => LowPriority DeliveryScheduled, |_| None, |_| None;
    choreography::PaymentFailed => HighPriority PaymentFailed, |_| None, |m| Some(&m.reason);
    pipeline::OrderCreated => LowPriority OrderCreated, |m| Some(&m.user_id), |_| None;
    pipeline::OrderTimedOut => LowPriority OrderTimedOut, |m| Some(&m.user_id), |_| None;
    pipeline::OrderPaid => LowPriority OrderPaid, |m| Some(&m.user_id), |_| None;
    pipeline::PaymentFailed => HighPriority PaymentFailed, |m| Some(&m.user_id), |m| Some(&m.reason);
    pipeline::PaymentRefunded => LowPriority PaymentRefunded, |m| Some(&m.user_id), |_| None;
    pipeline::InventoryReserved => LowPriority InventoryReserved, |m| Some(&m.user_id), |_| None;
    pipeline::InventoryFailed => LowPriority InventoryFailed, |m| Some(&m.user_id), |m| Some(&m.reason);
    pipeline::InventoryReleased => LowPriority InventoryReleased, |m| Some(&m.user_id), |_| None;
    pipeline::OrderShipped => LowPriority OrderShipped, |m| Some(&m.user_id), |_| None;
    pipeline::ShipmentReturned => LowPriority ShipmentReturned, |m| Some(&m.user_id), |_| None;
    pipeline::OrderDelivered => HighPriority OrderDelivered, |m| Some(&m.user_id), |_| None;
    pipeline::DeliveryFailed => LowPriority DeliveryFailed, |m| Some(&m.user_id), |m| Some(&m.reason);
    pipeline::DeliveryCancelled => LowPriority DeliveryCancelled, |m| Some(&m.user_id), |_| None;
}

/// Asks for notifications, and makes mails of them.
#[derive(Debug, Clone)]
pub struct Reactions {
    outbox: Outbox,
}

impl Reactions {
    /// Reactions that ask through this outbox, and take the time from its clock.
    pub fn new(outbox: Outbox) -> Self {
        Self { outbox }
    }
}

/// A message that says whose order it is: the first of a style.
trait Placed: Event {
    fn whose(&self) -> (Uuid, &str);
}

impl Placed for order::Created {
    fn whose(&self) -> (Uuid, &str) {
        (self.order_id, &self.user_id)
    }
}

impl Placed for choreography::OrderCreated {
    fn whose(&self) -> (Uuid, &str) {
        (self.order_id, &self.user_id)
    }
}

/// Learns whose order it is.
#[derive(Debug, Clone, Copy)]
struct Contacts;

impl<B: Backend, M: Placed> Handler<B, M> for Contacts {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        _context: &MessageContext,
        message: M,
    ) -> Result<(), HandlerError> {
        let (order_id, user_id) = message.whose();
        learn(tx, order_id, user_id).await?;
        Ok(())
    }
}

async fn learn<B: Backend>(
    tx: &mut Tx<'static, B>,
    order_id: Uuid,
    user_id: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into contact (order_id, user_id) values ($1, $2) on conflict (order_id) do nothing",
    )
    .bind(order_id)
    .bind(user_id.to_owned())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

impl<B: Backend, M: News> Handler<B, M> for Reactions {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        message: M,
    ) -> Result<(), HandlerError> {
        if let Some(user_id) = message.user_id() {
            learn(tx, message.order_id(), user_id).await?;
        }
        self.outbox.append(tx, context, &message.asks()).await?;
        Ok(())
    }
}

/// A notification becomes a mail.
impl<B: Backend, const PRIORITY: i64> Handler<B, Notification<PRIORITY>> for Reactions
where
    Notification<PRIORITY>: Event,
{
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        asked: Notification<PRIORITY>,
    ) -> Result<(), HandlerError> {
        let Some(message_id) = context.causation_id else {
            // Without an id nothing could tell the mail from its repetition.
            return Err(HandlerError::Reject("the message has no id".into()));
        };
        sqlx::query(
            "insert into mail (mail_id, order_id, template, reason, priority, state, due_at, \
             created_at) values ($1, $2, $3, $4, $5, 'waiting', $6, $6)",
        )
        .bind(message_id.0)
        .bind(asked.order_id)
        .bind(asked.notice.as_str().to_owned())
        .bind(asked.reason)
        .bind(PRIORITY)
        .bind(self.outbox.clock().now())
        .execute(&mut **tx)
        .await?;
        Ok(())
    }
}
