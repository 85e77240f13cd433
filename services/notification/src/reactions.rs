//! Messages in: news of an order asks for a notification, and a notification becomes a mail.
//!
//! ```text
//! payment.failed, order_delivered … ─▶ high_priority_notifications ─▶ mail, 0
//! order.completed, order_shipped …  ─▶ low_priority_notifications  ─▶ mail, 1
//! ```
//! Each arrow is one transaction with an inbox row: one mail for each piece of news.

use contracts::notification::{HighPriority, LowPriority, Notice};
use contracts::{choreography, delivery, order, payment, pipeline};
use onceward::consumer::{Handler, HandlerError, Handlers};
use onceward::{Backend, Event, MessageContext, Outbox, Tx};
use uuid::Uuid;

/// How urgent news is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Priority {
    High,
    Low,
}

/// A message that the customer is told of.
trait News: Event {
    const NOTICE: Notice;
    const PRIORITY: Priority;
    fn order_id(&self) -> Uuid;
    /// Whose order it is, if the message says so.
    fn user_id(&self) -> Option<&str>;
    fn reason(&self) -> Option<&str>;
}

macro_rules! news {
    ($($message:ty => $priority:ident $notice:ident, $user:expr, $reason:expr;)*) => {
        $(impl News for $message {
            const NOTICE: Notice = Notice::$notice;
            const PRIORITY: Priority = Priority::$priority;

            fn order_id(&self) -> Uuid {
                self.order_id
            }
            fn user_id(&self) -> Option<&str> {
                let user: fn(&Self) -> Option<&str> = $user;
                user(self)
            }
            fn reason(&self) -> Option<&str> {
                let reason: fn(&Self) -> Option<&str> = $reason;
                reason(self)
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
    order::Completed => Low OrderCompleted, |_| None, |_| None;
    order::Cancelled => High OrderCancelled, |_| None, |m| Some(&m.reason);
    payment::Failed => High PaymentFailed, |_| None, |m| Some(&m.reason);
    delivery::Scheduled => Low DeliveryScheduled, |_| None, |_| None;
    choreography::PaymentFailed => High PaymentFailed, |_| None, |m| Some(&m.reason);
    pipeline::OrderCreated => Low OrderCreated, |m| Some(&m.user_id), |_| None;
    pipeline::OrderTimedOut => Low OrderTimedOut, |m| Some(&m.user_id), |_| None;
    pipeline::OrderPaid => Low OrderPaid, |m| Some(&m.user_id), |_| None;
    pipeline::PaymentFailed => High PaymentFailed, |m| Some(&m.user_id), |m| Some(&m.reason);
    pipeline::PaymentRefunded => Low PaymentRefunded, |m| Some(&m.user_id), |_| None;
    pipeline::InventoryReserved => Low InventoryReserved, |m| Some(&m.user_id), |_| None;
    pipeline::InventoryFailed => Low InventoryFailed, |m| Some(&m.user_id), |m| Some(&m.reason);
    pipeline::InventoryReleased => Low InventoryReleased, |m| Some(&m.user_id), |_| None;
    pipeline::OrderShipped => Low OrderShipped, |m| Some(&m.user_id), |_| None;
    pipeline::ShipmentReturned => Low ShipmentReturned, |m| Some(&m.user_id), |_| None;
    pipeline::OrderDelivered => High OrderDelivered, |m| Some(&m.user_id), |_| None;
    pipeline::DeliveryFailed => Low DeliveryFailed, |m| Some(&m.user_id), |m| Some(&m.reason);
    pipeline::DeliveryCancelled => Low DeliveryCancelled, |m| Some(&m.user_id), |_| None;
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
        let (order_id, notice) = (message.order_id(), M::NOTICE);
        if let Some(user_id) = message.user_id() {
            learn(tx, order_id, user_id).await?;
        }
        let reason = message.reason().map(str::to_owned);
        match M::PRIORITY {
            Priority::High => {
                let high = HighPriority {
                    order_id,
                    notice,
                    reason,
                };
                self.outbox.append(tx, context, &high).await?;
            }
            Priority::Low => {
                let low = LowPriority {
                    order_id,
                    notice,
                    reason,
                };
                self.outbox.append(tx, context, &low).await?;
            }
        }
        Ok(())
    }
}

/// A mail to be written.
struct Mail {
    order_id: Uuid,
    notice: Notice,
    reason: Option<String>,
    /// 0 goes before 1.
    priority: i64,
}

impl Reactions {
    async fn write<B: Backend>(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        mail: Mail,
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
        .bind(mail.order_id)
        .bind(mail.notice.as_str().to_owned())
        .bind(mail.reason)
        .bind(mail.priority)
        .bind(self.outbox.clock().now())
        .execute(&mut **tx)
        .await?;
        Ok(())
    }
}

impl<B: Backend> Handler<B, HighPriority> for Reactions {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        asked: HighPriority,
    ) -> Result<(), HandlerError> {
        let mail = Mail {
            order_id: asked.order_id,
            notice: asked.notice,
            reason: asked.reason,
            priority: 0,
        };
        self.write(tx, context, mail).await
    }
}

impl<B: Backend> Handler<B, LowPriority> for Reactions {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        asked: LowPriority,
    ) -> Result<(), HandlerError> {
        let mail = Mail {
            order_id: asked.order_id,
            notice: asked.notice,
            reason: asked.reason,
            priority: 1,
        };
        self.write(tx, context, mail).await
    }
}
