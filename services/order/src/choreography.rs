//! Orders without a coordinator: this service begins them, and sees from what the others say where they stand.
//!
//! ```text
//! pending ──inventory-updated──────────────────────────▶ completed
//!    │ └────payment-failed────────────────────────────────────────────────▶ failed
//!    ├──────inventory-failed──▶ cancelling ──payment-refunded───────────────▶ │
//!    └──────the deadline──────▶ cancelling ──and inventory-released too──────▶ │
//! ```
//! In the pipeline `order_delivered` completes it; `delivery_failed` is undone by payment, inventory and shipping,
//! and the deadline by delivery too.
//!
//! Which facts were heard is kept as the order's steps, so their order does not matter.

use std::sync::Arc;
use std::time::Duration;

use contracts::choreography::{
    InventoryFailed, InventoryReleased, InventoryUpdated, OrderTimedOut, PaymentFailed,
    PaymentProcessed, PaymentRefunded,
};
use contracts::{order, pipeline};
use onceward::consumer::{Handler, HandlerError, Handlers};
use onceward::{Clock, Error, Event, MessageContext, Outbox, Tx};
use onceward_saga::{
    Deadline, Passed, ProcessView, SagaBackend, SagaError, SagaStatus, TIMED_OUT, TimerOwner,
};
use uuid::Uuid;

use crate::domain::{Choreographed, OrderStatus};
use crate::sql::{self, Locked, Said};

/// `owner_kind` of the orders' deadlines.
const OWNER_KIND: &str = "order";

/// A fact about an order, as this service hears it.
trait Fact: Event {
    fn order_id(&self) -> Uuid;
    /// Why it fails the order, if it does.
    fn reason(&self) -> Option<&str>;
}

macro_rules! facts {
    ($($message:ty => $reason:expr;)*) => {
        $(impl Fact for $message {
            fn order_id(&self) -> Uuid {
                self.order_id
            }
            fn reason(&self) -> Option<&str> {
                let reason: fn(&Self) -> Option<&str> = $reason;
                reason(self)
            }
        })*

        /// Adds a handler for each fact of a choreographed order.
        pub(crate) fn follow<B: SagaBackend>(
            handlers: Handlers<B>,
            choreography: &Choreography,
        ) -> Handlers<B> {
            handlers$(.on::<$message, _>(choreography.clone()))*
        }
    };
}

facts! {
    PaymentProcessed => |_| None;
    PaymentFailed => |m| Some(&m.reason);
    PaymentRefunded => |_| None;
    InventoryUpdated => |_| None;
    InventoryFailed => |m| Some(&m.reason);
    InventoryReleased => |_| None;
    pipeline::OrderPaid => |_| None;
    pipeline::PaymentFailed => |m| Some(&m.reason);
    pipeline::PaymentRefunded => |_| None;
    pipeline::InventoryReserved => |_| None;
    pipeline::InventoryFailed => |m| Some(&m.reason);
    pipeline::InventoryReleased => |_| None;
    pipeline::OrderShipped => |_| None;
    pipeline::ShipmentReturned => |_| None;
    pipeline::OrderDelivered => |_| None;
    pipeline::DeliveryFailed => |m| Some(&m.reason);
    pipeline::DeliveryCancelled => |_| None;
}

/// Begins choreographed orders, and moves them on.
#[derive(Debug, Clone)]
pub struct Choreography {
    outbox: Outbox,
    deadline: Duration,
    payment_first: ProcessView,
    pipeline: ProcessView,
}

impl Choreography {
    /// Orders that must be complete within `deadline`.
    pub fn new(outbox: Outbox, deadline: Duration) -> Self {
        Self {
            outbox,
            deadline,
            payment_first: payment_first(),
            pipeline: the_pipeline(),
        }
    }

    fn view(&self, flow: Choreographed) -> &ProcessView {
        match flow {
            Choreographed::PaymentFirst => &self.payment_first,
            Choreographed::Pipeline => &self.pipeline,
        }
    }

    /// Arms the deadline of a new order.
    pub(crate) async fn begin<B: SagaBackend>(
        &self,
        tx: &mut Tx<'static, B>,
        order_id: Uuid,
    ) -> Result<(), SagaError> {
        let clock = self.outbox.clock();
        deadline_of(order_id)
            .arm(tx, clock.as_ref(), self.deadline)
            .await
    }

    /// Says a fact of its own about an order, and notes it.
    async fn say<B: SagaBackend, E: Event>(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        order_id: Uuid,
        fact: &E,
    ) -> Result<(), SagaError> {
        let message_id = self.outbox.append(tx, context, fact).await?;
        let said = Said {
            order_id,
            topic: self.outbox.routing().topic(E::TYPE),
            at: self.outbox.clock().now(),
            message_id: Some(message_id.0),
            source: Some(self.outbox.source().as_str()),
            event: fact,
        };
        Ok(said.note(tx).await?)
    }

    /// Looks where the order stands now, and writes what follows. The order's row is locked.
    ///
    /// CRASH: died before the caller's commit = nothing of it happened, and the fact or the timer comes
    /// again. After it = steps, status, deadline and last word, all of them.
    async fn move_on<B: SagaBackend>(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        order_id: Uuid,
        order: Locked,
        reason: Option<&str>,
    ) -> Result<(), SagaError> {
        if order.status.has_ended() {
            return Ok(());
        }
        let heard = sql::heard(tx, order_id)
            .await
            .map_err(storage("order steps"))?;
        let stands = self
            .view(order.choreographed)
            .status(|fact| heard.contains(fact));
        // The first reason counts.
        let reason = order.reason.or(reason.map(str::to_owned));
        let saga_id = order.choreographed.saga_id(order_id);
        let (status, reason) = match stands {
            SagaStatus::Running => return Ok(()),
            SagaStatus::Completed => {
                let completed = order::Completed { order_id, saga_id };
                self.outbox.append(tx, context, &completed).await?;
                (OrderStatus::Completed, None)
            }
            SagaStatus::Compensating | SagaStatus::Stuck => (OrderStatus::Cancelling, reason),
            SagaStatus::Compensated => {
                let cancelled = order::Cancelled {
                    order_id,
                    saga_id,
                    reason: reason.clone().unwrap_or_default(),
                };
                self.outbox.append(tx, context, &cancelled).await?;
                (OrderStatus::Failed, reason)
            }
        };
        let clock = self.outbox.clock();
        sql::move_to(tx, order_id, status, reason.as_deref(), clock.now())
            .await
            .map_err(storage("order update"))?;
        deadline_of(order_id).disarm(tx, clock.as_ref()).await
    }
}

impl<B: SagaBackend, M: Fact> Handler<B, M> for Choreography {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        message: M,
    ) -> Result<(), HandlerError> {
        let order_id = message.order_id();
        let Some(order) = sql::lock(tx, order_id).await? else {
            return Err(HandlerError::Reject(
                format!("there is no order {order_id}").into(),
            ));
        };
        let topic = self.outbox.routing().topic(M::TYPE);
        let now = self.outbox.clock().now();
        Said::handled(order_id, topic, now, context, &message)
            .note(tx)
            .await?;
        self.move_on(tx, context, order_id, order, message.reason())
            .await?;
        Ok(())
    }
}

/// Says that an order's time is up.
impl<B: SagaBackend> TimerOwner<B> for Choreography {
    const KIND: &'static str = OWNER_KIND;

    fn clock(&self) -> &Arc<dyn Clock> {
        self.outbox.clock()
    }

    async fn fire(
        &self,
        tx: &mut Tx<'static, B>,
        order_id: Uuid,
        _timer: &str,
    ) -> Result<(), SagaError> {
        let locked = sql::lock(tx, order_id).await.map_err(storage("order lock"));
        let order = locked?.ok_or_else(|| {
            SagaError::Storage(Error::Corrupt {
                what: "timer",
                reason: format!("there is no order {order_id}"),
            })
        })?;
        let clock = self.outbox.clock();
        if deadline_of(order_id).passed(tx, clock.as_ref()).await? == Passed::No {
            return Ok(());
        }
        // No message causes it: it goes on in the story the order was placed in.
        let context = order.story.clone();
        match order.choreographed {
            Choreographed::PaymentFirst => {
                let timed_out = OrderTimedOut { order_id };
                self.say(tx, &context, order_id, &timed_out).await?;
            }
            Choreographed::Pipeline => {
                let timed_out = pipeline::OrderTimedOut::of(order_id, &order.user_id, clock.now());
                self.say(tx, &context, order_id, &timed_out).await?;
            }
        }
        self.move_on(tx, &context, order_id, order, Some(TIMED_OUT))
            .await
    }
}

fn payment_first() -> ProcessView {
    let refunded = PaymentRefunded::TYPE;
    ProcessView::completed_by::<InventoryUpdated>()
        // Payment is the first: nobody has done anything.
        .failed_by::<PaymentFailed>(&[])
        .failed_by::<InventoryFailed>(&[refunded])
        .failed_by::<OrderTimedOut>(&[refunded, InventoryReleased::TYPE])
}

fn the_pipeline() -> ProcessView {
    use contracts::pipeline::*;
    let (refunded, released) = (PaymentRefunded::TYPE, InventoryReleased::TYPE);
    let (returned, cancelled) = (ShipmentReturned::TYPE, DeliveryCancelled::TYPE);
    ProcessView::completed_by::<OrderDelivered>()
        .failed_by::<PaymentFailed>(&[])
        .failed_by::<InventoryFailed>(&[refunded])
        .failed_by::<DeliveryFailed>(&[refunded, released, returned])
        .failed_by::<OrderTimedOut>(&[refunded, released, returned, cancelled])
}

fn deadline_of(order_id: Uuid) -> Deadline {
    Deadline {
        kind: OWNER_KIND,
        owner: order_id,
    }
}

fn storage(doing: &'static str) -> impl FnOnce(sqlx::Error) -> SagaError {
    move |source| SagaError::Storage(Error::database(doing)(source))
}
