//! Choreography: services react to each other's facts, and nobody commands.
//!
//! A [`Reaction`] does something because of a fact, and says what became of it as a fact of its own; others
//! react to that. What goes wrong is a fact too, and whoever has done something that is void by it undoes it
//! and says so. There is no order across topics, so the fact that voids can come before the one that
//! calls for the reaction; both therefore insert or lock the SAME row first, as a participant's command and
//! cancel do:
//!
//! ```text
//!            fact: react, say           fact again: nothing
//! (no row) ─────────────▶ done ────┐
//!    │  │                          │ void: undo, say
//!    │  └──fact──────▶ refused ────┤
//!    │                             ▼
//!    └──void: say─────────▶ cancelled   fact: nothing; void again: nothing
//! ```

use std::sync::Arc;

use onceward::consumer::{Handler, HandlerError};
use onceward::{Backend, Event, MessageContext, MessageKind, Micros, Outbox, RawMessage, Tx};
use serde::{Deserialize, Serialize};

use crate::step_row::{Answered, Cancel, Claim, answer, cancel_step, claim, stored, unwritable};
use crate::{SagaId, StepRef};

/// What a reaction came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<D, R> {
    /// It is done; this fact says so.
    Done(D),
    /// It is not done, nor will it be; this fact says so. Nothing of it may have been written.
    Refused(R),
}

/// On this fact do that, in one transaction: the domain's rows and what is said about them. That facts come
/// twice, late, or after what voids them is taken care of by [`Reacting`]; correlation and causation of what
/// is said are the fact's.
///
/// ```
/// use onceward::consumer::{HandlerError, Handlers};
/// use onceward::{Backend, Event, MessageContext, Micros, Outbox, SourceName, Tx};
/// use onceward_saga::{Outcome, Reacting, Reaction, UndoneBy};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Serialize, Deserialize, Event)]
/// #[event(type = "order-placed.v1", aggregate = "order", id = order)]
/// struct OrderPlaced { order: u64, cents: i64 }
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(type = "order-paid.v1", aggregate = "order", id = order)]
/// struct OrderPaid { order: u64 }
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(type = "order-unpaid.v1", aggregate = "order", id = order)]
/// struct OrderUnpaid { order: u64 }
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(type = "order-given-up.v1", aggregate = "order", id = order)]
/// struct OrderGivenUp { order: u64 }
///
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(type = "order-paid-back.v1", aggregate = "order", id = order)]
/// struct OrderPaidBack { order: u64 }
///
/// impl UndoneBy<OrderGivenUp> for OrderPaidBack {
///     fn undone_by(void: &OrderGivenUp, _at: Micros) -> Self { Self { order: void.order } }
/// }
///
/// struct Charge;
/// impl<B: Backend> Reaction<B> for Charge {
///     const PROCESS: &'static str = "shopping";
///     const STEP: &'static str = "payment";
///     type Fact = OrderPlaced;
///     type Done = OrderPaid;
///     type Refused = OrderUnpaid;
///     type Undone = OrderPaidBack;
///
///     async fn react(&self, _tx: &mut Tx<'static, B>, _context: &MessageContext, fact: &OrderPlaced)
///         -> Result<Outcome<OrderPaid, OrderUnpaid>, HandlerError> {
///         // insert into payment …
///         Ok(Outcome::Done(OrderPaid { order: fact.order }))
///     }
///     async fn undo(&self, _tx: &mut Tx<'static, B>, _context: &MessageContext, _fact: &OrderPlaced)
///         -> Result<(), HandlerError> {
///         // update payment …
///         Ok(())
///     }
/// }
///
/// # fn handlers<B: Backend>() -> Result<Handlers<B>, onceward::InvalidName> {
/// let outbox = Outbox::new(SourceName::new("payment")?);
/// let charge = Reacting::new(Charge, outbox);
/// let handlers = Handlers::default()
///     .on::<OrderPlaced, _>(charge.clone())
///     .on::<OrderGivenUp, _>(charge.voided());
/// # Ok(handlers)
/// # }
/// ```
pub trait Reaction<B: Backend>: Send + Sync + 'static {
    /// The process it is part of; with what the fact is about it names one run of it.
    const PROCESS: &'static str;
    /// Its name among the reactions of that process in this database.
    const STEP: &'static str;
    /// The fact it reacts to.
    type Fact: Event + Clone;
    /// "Done."
    type Done: Event;
    /// "No." [`Never`] if there is nothing to refuse.
    type Refused: Event;
    /// "It is not done, nor will it be": said of what was undone, and of what was void before it began.
    type Undone: Event;

    /// Does it, once for each thing a fact is about. Runs with the step's row locked, in the
    /// transaction that also writes what is said.
    ///
    /// # Errors
    /// An error rolls everything back, and the fact is handled again.
    fn react(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        fact: &Self::Fact,
    ) -> impl Future<Output = Result<Outcome<Self::Done, Self::Refused>, HandlerError>> + Send;

    /// Undoes what `react` has done because of this very fact. Called at most once for it, and never if it
    /// was refused or never came.
    ///
    /// # Errors
    /// An error rolls everything back, and the message is handled again.
    fn undo(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        fact: &Self::Fact,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;
}

/// A fact that says of something that it is not done, nor will it be, because of the fact `V`.
pub trait UndoneBy<V>: Event {
    /// Says it at this time.
    fn undone_by(void: &V, at: Micros) -> Self;
}

/// What is never said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Never {}

impl Event for Never {
    const TYPE: &'static str = "never.v1";
    const KIND: MessageKind = MessageKind::Event;
    const AGGREGATE_TYPE: &'static str = "never";

    fn aggregate_id(&self) -> String {
        match *self {}
    }
}

/// Handles the fact of a [`Reaction`]; [`Self::voided`] handles what makes it void.
#[derive(Debug)]
pub struct Reacting<R> {
    reaction: Arc<R>,
    outbox: Outbox,
}

/// Handles facts that make a [`Reaction`] void. Made by [`Reacting::voided`].
#[derive(Debug)]
pub struct Voided<R>(Reacting<R>);

impl<R> Clone for Reacting<R> {
    fn clone(&self) -> Self {
        Self {
            reaction: Arc::clone(&self.reaction),
            outbox: self.outbox.clone(),
        }
    }
}

impl<R> Reacting<R> {
    /// A reaction that speaks through `outbox`.
    pub fn new(reaction: R, outbox: Outbox) -> Self {
        Self {
            reaction: Arc::new(reaction),
            outbox,
        }
    }

    /// The handler for facts after which it must be undone, or must not happen at all: of every type
    /// that [`Reaction::Undone`] is [`UndoneBy`].
    #[must_use]
    pub fn voided(&self) -> Voided<R> {
        Voided(self.clone())
    }

    fn now(&self) -> Micros {
        self.outbox.clock().now()
    }
}

/// The row of a reaction to what `message` is about.
fn step_of<B: Backend, R: Reaction<B>>(message: &impl Event) -> (StepRef, String) {
    let subject = message.aggregate_id();
    let run = SagaId::derived(R::PROCESS, &subject);
    (StepRef::first(run, R::STEP), subject)
}

impl<B: Backend, R: Reaction<B>> Handler<B, R::Fact> for Reacting<R> {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        fact: R::Fact,
    ) -> Result<(), HandlerError> {
        let (at, subject) = step_of::<B, R>(&fact);
        let now = self.now();
        if let Some(found) = claim(tx, &at, subject, Claim::Command, now).await? {
            tracing::debug!(
                step = R::STEP,
                state = found.state,
                "nothing left to react to"
            );
            return Ok(());
        }
        let (state, said) = match self.reaction.react(tx, context, &fact).await? {
            Outcome::Done(done) => ("done", RawMessage::of(&done)),
            Outcome::Refused(refused) => ("refused", RawMessage::of(&refused)),
        };
        let said = Answered {
            context,
            at,
            asked: stored(&fact)?,
            state,
            reply: said.map_err(unwritable)?,
        };
        answer(tx, &self.outbox, vec![said], now).await
    }
}

impl<B, R, V> Handler<B, V> for Voided<R>
where
    B: Backend,
    R: Reaction<B>,
    V: Event,
    R::Undone: UndoneBy<V>,
{
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        void: V,
    ) -> Result<(), HandlerError> {
        let Self(side) = self;
        let (at, subject) = step_of::<B, R>(&void);
        let now = side.now();
        match cancel_step(tx, &at, subject, now).await? {
            Cancel::Again => return Ok(()),
            Cancel::Nothing => {}
            Cancel::Undo(fact) => side.reaction.undo(tx, context, &fact).await?,
        }
        let undone = R::Undone::undone_by(&void, now);
        side.outbox.append(tx, context, &undone).await?;
        Ok(())
    }
}
