//! A participant's side of a saga: commands and their cancels commute.
//!
//! There is no order across topics: `inventory.release` can arrive before `inventory.reserve`.
//! Both therefore insert or lock the SAME row first, and whichever comes second sees the first:
//!
//! ```text
//!            command: perform            command again: the stored reply again
//! (no row) ────────────────▶ done ───┐
//!    │  │                            │ cancel: undo, confirm
//!    │  └──command────────▶ refused ─┤
//!    │                               ▼
//!    └──cancel: confirm────────▶ cancelled   command: refused; cancel again: confirmed again
//! ```
//!
//! A row is never deleted: it must outlive the retention of the topics, and a command that is
//! older than that is refused as [`EXPIRED`].

use std::sync::Arc;
use std::time::Duration;

use onceward::consumer::{Handler, HandlerError, Handlers};
use onceward::{Backend, Event, MessageContext, Micros, Outbox, RawMessage, Tx};

use crate::step_row::{
    Answered, Cancel, Claim, answer, cancel_step, claim_all, found, key, stored, unwritable,
};
use crate::{Refusal, SagaMessage};

/// Why a command that is too old is refused.
pub const EXPIRED: &str = "expired";
/// Why a command that comes after its cancel is refused.
pub const CANCELLED: &str = "cancelled";

/// A reply that refuses the command `C`.
pub trait Refuses<C>: Refusal {
    /// Refuses `command`.
    fn refuse(command: &C, reason: String) -> Self;
}

/// A reply that confirms the cancel `C`.
pub trait Confirms<C>: SagaMessage {
    /// Confirms `cancel`.
    fn confirm(cancel: &C) -> Self;
}

/// What carrying out a command came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<D> {
    /// It is done; this reply says so.
    Done(D),
    /// It is not done, nor will it be; why, in words a customer may read. Nothing of it may have
    /// been written.
    Refused(String),
}

/// One who carries out a saga's commands. Duplicates, late commands and the replies are taken care of; only what is
/// done is written here.
pub trait Performer<B: Backend>: Send + Sync + 'static {
    /// The wish to do something, or to know it.
    type Command: SagaMessage + Clone;
    /// "Done", or "yes".
    type Done: SagaMessage;
    /// "No, because …"
    type Refused: Refuses<Self::Command>;

    /// Carries out a command, for the first time. Runs with the step's row locked, in the
    /// transaction that also stores the reply.
    ///
    /// # Errors
    /// An error rolls everything back, and the message is handled again.
    fn perform(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        command: &Self::Command,
    ) -> impl Future<Output = Result<Answer<Self::Done>, HandlerError>> + Send;
}

/// One whose steps can be undone. Cancels that overtake their command are taken care of.
pub trait Participant<B: Backend>: Performer<B> {
    /// The wish to undo it if it happened.
    type Cancel: SagaMessage;
    /// "It is not done, nor will it be."
    type Cancelled: Confirms<Self::Cancel>;

    /// Undoes what `perform` has done for this very command. Called at most once for it, and never
    /// for a command that was refused or never came.
    ///
    /// # Errors
    /// An error rolls everything back, and the message is handled again; one that never succeeds
    /// ends as a dead letter, and the saga waits for the confirmation.
    fn undo(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        command: &Self::Command,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;
}

/// Settings of a participant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParticipantOptions {
    /// A command written longer ago than this is refused as [`EXPIRED`]. At least the retention of
    /// its topic, so that only what was replayed or held up for days is hit; default 7 days.
    pub expire_after: Duration,
}

impl Default for ParticipantOptions {
    fn default() -> Self {
        Self {
            expire_after: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }
}

/// Registers a participant for its command and its cancel.
#[must_use]
pub fn take_part<B: Backend, P: Participant<B>>(
    handlers: Handlers<B>,
    participant: P,
    outbox: Outbox,
    options: ParticipantOptions,
) -> Handlers<B> {
    let side = Side {
        participant: Arc::new(participant),
        outbox,
        options,
    };
    handlers
        .on::<P::Command, _>(OnCommand(side.clone()))
        .on::<P::Cancel, _>(OnCancel(side))
}

/// Registers one whose step is never undone, because it changes nothing or stands behind the pivot, for its command.
#[must_use]
pub fn take_commands<B: Backend, P: Performer<B>>(
    handlers: Handlers<B>,
    performer: P,
    outbox: Outbox,
    options: ParticipantOptions,
) -> Handlers<B> {
    handlers.on::<P::Command, _>(OnCommand(Side {
        participant: Arc::new(performer),
        outbox,
        options,
    }))
}

struct Side<P> {
    participant: Arc<P>,
    outbox: Outbox,
    options: ParticipantOptions,
}

impl<P> Clone for Side<P> {
    fn clone(&self) -> Self {
        Self {
            participant: Arc::clone(&self.participant),
            outbox: self.outbox.clone(),
            options: self.options.clone(),
        }
    }
}

struct OnCommand<P>(Side<P>);
struct OnCancel<P>(Side<P>);

impl<P> Side<P> {
    /// What a command comes to whose step has just been claimed.
    async fn first<'a, B: Backend>(
        &self,
        tx: &mut Tx<'static, B>,
        context: &'a MessageContext,
        command: &P::Command,
        now: Micros,
    ) -> Result<Answered<'a>, HandlerError>
    where
        P: Performer<B>,
    {
        let oldest = now.saturating_sub(micros(self.options.expire_after));
        let came_to = if context.caused_at.is_some_and(|written| written < oldest) {
            Answer::Refused(EXPIRED.to_owned())
        } else {
            self.participant.perform(tx, context, command).await?
        };
        let (state, reply) = match &came_to {
            Answer::Done(done) => ("done", RawMessage::of(done)),
            Answer::Refused(reason) => {
                let refused = P::Refused::refuse(command, reason.clone());
                ("refused", RawMessage::of(&refused))
            }
        };
        Ok(Answered {
            context,
            at: command.step_ref().clone(),
            asked: stored(command)?,
            state,
            reply: reply.map_err(unwritable)?,
        })
    }

    /// Answers a command whose step's row is there already.
    async fn again<B: Backend>(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        command: &P::Command,
        now: Micros,
    ) -> Result<(), HandlerError>
    where
        P: Performer<B>,
    {
        let at = command.step_ref();
        let row = found(tx, at).await?;
        match row.state.as_str() {
            "cancelled" => {
                let reply = P::Refused::refuse(command, CANCELLED.to_owned());
                self.outbox.append(tx, context, &reply).await?;
            }
            // A later try of a refused command is a new chance; anything else was answered.
            "refused" if at.attempt > row.attempt => {
                let answered = self.first(tx, context, command, now).await?;
                answer(tx, &self.outbox, vec![answered], now).await?;
            }
            _ => {
                let reply = row.repeated_reply(command)?;
                self.outbox.append_raw(tx, context, reply).await?;
            }
        }
        Ok(())
    }
}

impl<B: Backend, P: Performer<B>> Handler<B, P::Command> for OnCommand<P> {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        command: P::Command,
    ) -> Result<(), HandlerError> {
        self.handle_batch(tx, vec![(context.clone(), command)])
            .await
    }

    async fn handle_batch(
        &self,
        tx: &mut Tx<'static, B>,
        commands: Vec<(MessageContext, P::Command)>,
    ) -> Result<(), HandlerError> {
        let Self(side) = self;
        let now = side.outbox.clock().now();
        let steps = commands
            .iter()
            .map(|(_, command)| (command.step_ref(), command.aggregate_id()));
        let steps: Vec<_> = steps.collect();
        let mut claimed = claim_all(tx, &steps, Claim::Command, now).await?;
        let mut answers = Vec::with_capacity(commands.len());
        for (context, command) in &commands {
            if claimed.remove(&key(command.step_ref())) {
                let first = side.first(tx, context, command, now);
                answers.push(context.within(first).await?);
                continue;
            }
            // The row may be that of a command before it.
            answer(tx, &side.outbox, std::mem::take(&mut answers), now).await?;
            context
                .within(side.again(tx, context, command, now))
                .await?;
        }
        answer(tx, &side.outbox, answers, now).await
    }
}

impl<B: Backend, P: Participant<B>> Handler<B, P::Cancel> for OnCancel<P> {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        cancel: P::Cancel,
    ) -> Result<(), HandlerError> {
        let Self(side) = self;
        let now = side.outbox.clock().now();
        let at = cancel.step_ref();
        let subject = cancel.aggregate_id();
        if let Cancel::Undo(command) = cancel_step(tx, at, subject, now).await? {
            side.participant.undo(tx, context, &command).await?;
        }
        let reply = P::Cancelled::confirm(&cancel);
        side.outbox.append(tx, context, &reply).await?;
        Ok(())
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
