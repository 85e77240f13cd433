//! Messages in: each that calls for a mail writes one.

use std::sync::Arc;

use contracts::{choreography, delivery, order, payment};
use onceward::consumer::{Handler, HandlerError, Handlers};
use onceward::{Backend, Clock, Event, MessageContext, Tx};
use uuid::Uuid;

use crate::templates::Template;

/// A message that calls for a mail.
trait News: Event {
    fn order_id(&self) -> Uuid;
    fn template(&self) -> Template;
    fn reason(&self) -> Option<&str>;
}

macro_rules! news {
    ($($message:ty => $template:ident, $reason:expr;)*) => {
        $(impl News for $message {
            fn order_id(&self) -> Uuid {
                self.order_id
            }
            fn template(&self) -> Template {
                Template::$template
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
        }
    };
}

news! {
    order::Completed => OrderCompleted, |_| None;
    order::Cancelled => OrderCancelled, |m| Some(&m.reason);
    payment::Failed => PaymentFailed, |m| Some(&m.reason);
    delivery::Scheduled => DeliveryScheduled, |_| None;
    choreography::PaymentFailed => PaymentFailed, |m| Some(&m.reason);
}

/// Writes mails.
#[derive(Debug, Clone)]
pub struct Reactions {
    clock: Arc<dyn Clock>,
}

impl Reactions {
    /// Reactions on this clock.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }
}

/// A message that says whose order it is: the first of either style.
trait Placed: Event {
    fn whose(self) -> (Uuid, String);
}

impl Placed for order::Created {
    fn whose(self) -> (Uuid, String) {
        (self.order_id, self.user_id)
    }
}

impl Placed for choreography::OrderCreated {
    fn whose(self) -> (Uuid, String) {
        (self.order_id, self.user_id)
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
        sqlx::query(
            "insert into contact (order_id, user_id) values ($1, $2) \
             on conflict (order_id) do nothing",
        )
        .bind(order_id)
        .bind(user_id)
        .execute(&mut **tx)
        .await?;
        Ok(())
    }
}

impl<B: Backend, M: News> Handler<B, M> for Reactions {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        message: M,
    ) -> Result<(), HandlerError> {
        let template = message.template();
        let Some(message_id) = context.causation_id else {
            // Without an id nothing could tell the mail from its repetition.
            return Err(HandlerError::Reject("the message has no id".into()));
        };
        let now = self.clock.now();
        sqlx::query(
            "insert into mail (mail_id, order_id, template, reason, priority, state, due_at, \
             created_at) values ($1, $2, $3, $4, $5, 'waiting', $6, $6)",
        )
        .bind(message_id.0)
        .bind(message.order_id())
        .bind(template.as_str().to_owned())
        .bind(message.reason().map(str::to_owned))
        .bind(template.priority())
        .bind(now)
        .execute(&mut **tx)
        .await?;
        Ok(())
    }
}
