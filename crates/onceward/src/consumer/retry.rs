//! Work on the queues: due messages, and the operator's requests. Only the partition's owner does
//! it, guarded by its `owner_epoch`.

use std::sync::Arc;
use std::time::Instant;

use super::batch::{MAX_SAVEPOINTS, Stop, Verdict, handle, time_left};
use super::claim::{Guard, Owned, hold};
use super::dead_letter::{self, Request};
use super::error_text::{Logged, chain, logged};
use super::inbox::{InboxState, move_state};
use super::queue::{QueueId, Waiting};
use super::{ConsumerOptions, HandlerError, Handlers, waiting};
use crate::trace::{Scope, TraceParent};
use crate::{Backend, Micros, RequestKind, Tx};

/// One queue's due messages, in order.
#[derive(Debug, Clone)]
pub(super) struct DueQueue {
    pub guard: Guard,
    pub id: QueueId,
    pub messages: Vec<Waiting>,
}

/// Due messages of several queues: one transaction.
pub(super) struct Due<B: Backend> {
    pub handlers: Arc<Handlers<B>>,
    pub options: Arc<ConsumerOptions>,
    pub now: Micros,
    pub queues: Vec<DueQueue>,
    /// One more deadlock is the message's failure, see [`super::batch::MAX_DEADLOCKS`].
    pub last_try: bool,
    /// The one message has failed, see [`super::batch::MAX_TIMEOUTS`].
    pub too_slow: bool,
    /// The span of the batch that they came in, if they were never tried.
    pub span: Option<TraceParent>,
}

/// What became of a waiting message; the queue's memory changes by it after the commit.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tried {
    Handled,
    /// It was not waiting any more.
    Gone,
    Again {
        attempts: u32,
        due_at: Micros,
        failed: Logged,
    },
    Dead {
        failed: Logged,
    },
}

impl<B: Backend> Due<B> {
    /// Writes down that these are tried for the first time since the claim. A message that ended the
    /// process often enough becomes a dead letter here, untried.
    pub(super) async fn note(&self, tx: &mut Tx<'static, B>) -> Result<Option<Tried>, Stop> {
        let mut dead = None;
        for queue in &self.queues {
            let (name, at) = (&self.options.name, &queue.guard.at);
            for message in &queue.messages {
                let most = self.options.retry.max_attempts;
                if waiting::try_first(tx, name, at, *message, most).await? {
                    continue;
                }
                let Some(entry) = waiting::load(tx, name, at, message.offset).await? else {
                    continue;
                };
                let reason = "it ended the process each time it was handled";
                let error = HandlerError::Reject(reason.into());
                let (from, to) = (InboxState::Waiting, InboxState::Dead);
                move_state(tx, name, &entry.identity, from, to, self.now).await?;
                let tries = message.attempts;
                dead_letter::bury(tx, &self.options, &entry, tries, reason, self.now).await?;
                waiting::delete(tx, name, at, message.offset).await?;
                dead = Some(Tried::Dead {
                    failed: Logged::new(&entry, &error),
                });
            }
            // CRASH: died before the commit that follows = as before the claim; after it = the attempt
            // counts, whatever becomes of it, and the next claim tries again.
            if hold(tx, name, &queue.guard).await? == Owned::Fenced {
                return Err(Stop::Fenced(at.clone()));
            }
        }
        Ok(dead)
    }

    /// Tries each queue's messages in order until one fails. The answers name queue and offset.
    pub(super) async fn run(
        &self,
        tx: &mut Tx<'static, B>,
    ) -> Result<Vec<(usize, i64, Tried)>, Stop> {
        let begun = Instant::now();
        let mut outcomes = Vec::new();
        'queues: for (index, queue) in self.queues.iter().enumerate() {
            for message in &queue.messages {
                let out_of_time = begun.elapsed() > self.options.max_batch_time;
                if outcomes.len() >= MAX_SAVEPOINTS || (out_of_time && !outcomes.is_empty()) {
                    break 'queues;
                }
                let tried = self.try_one(tx, queue, *message, begun).await?;
                let goes_on = matches!(tried, Tried::Handled | Tried::Gone);
                outcomes.push((index, message.offset, tried));
                if !goes_on {
                    break;
                }
            }
        }
        for queue in &self.queues {
            // CRASH: died before the commit that follows = these messages wait as before, with
            // their attempts. Died after it = they are handled, or wait with one attempt more.
            if hold(tx, &self.options.name, &queue.guard).await? == Owned::Fenced {
                return Err(Stop::Fenced(queue.guard.at.clone()));
            }
        }
        Ok(outcomes)
    }

    async fn try_one(
        &self,
        tx: &mut Tx<'static, B>,
        queue: &DueQueue,
        message: Waiting,
        begun: Instant,
    ) -> Result<Tried, Stop> {
        let (name, at) = (&self.options.name, &queue.guard.at);
        let Some(entry) = waiting::load(tx, name, at, message.offset).await? else {
            return Ok(Tried::Gone);
        };
        let (from, to) = (InboxState::Waiting, InboxState::Handled);
        if !move_state(tx, name, &entry.identity, from, to, self.now).await? {
            waiting::delete(tx, name, at, message.offset).await?;
            return Ok(Tried::Gone);
        }
        let limit = time_left(&self.options, begun);
        let scope = Scope {
            consumer: name.as_str(),
            batch: self.span,
        };
        let handled = handle(&self.handlers, scope, tx, &entry, limit, self.too_slow).await?;
        let error = match handled.settled(self.last_try)? {
            Ok(()) => {
                waiting::delete(tx, name, at, message.offset).await?;
                return Ok(Tried::Handled);
            }
            Err(error) => error,
        };
        let attempts = message.attempts.saturating_add(1);
        let failed = Logged::new(&entry, &error);
        match Verdict::of(&error, attempts, &self.options, self.now) {
            Verdict::Again { due_at, error } => {
                move_state(tx, name, &entry.identity, to, from, self.now).await?;
                waiting::postpone(tx, name, &entry, attempts, due_at, &error).await?;
                Ok(Tried::Again {
                    attempts,
                    due_at,
                    failed,
                })
            }
            Verdict::Dead { reason } => {
                move_state(tx, name, &entry.identity, to, InboxState::Dead, self.now).await?;
                dead_letter::bury(tx, &self.options, &entry, attempts, &reason, self.now).await?;
                waiting::delete(tx, name, at, message.offset).await?;
                Ok(Tried::Dead { failed })
            }
        }
    }
}

/// One request: one transaction.
pub(super) struct Carry<B: Backend> {
    pub handlers: Arc<Handlers<B>>,
    pub options: Arc<ConsumerOptions>,
    pub now: Micros,
    pub guard: Guard,
    /// It has failed, see [`super::batch::MAX_TIMEOUTS`].
    pub too_slow: bool,
    pub request: Request,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Carried {
    /// The dead letter is gone; its queue goes on.
    Done { id: QueueId },
    /// It stays dead, or was not dead any more; `logged` is what of `why` may be logged.
    Refused { why: String, logged: String },
}

impl<B: Backend> Carry<B> {
    pub(super) async fn run(&self, tx: &mut Tx<'static, B>) -> Result<Carried, Stop> {
        let carried = self.carry_out(tx).await?;
        let refusal = match &carried {
            Carried::Done { .. } => None,
            Carried::Refused { why, .. } => Some(why.as_str()),
        };
        dead_letter::close_request(tx, self.request.id, refusal, self.now).await?;
        // CRASH: died before the commit that follows = the request stands as it was asked. Died
        // after it = the message is handled or given up, and its key's queue goes on.
        if hold(tx, &self.options.name, &self.guard).await? == Owned::Fenced {
            return Err(Stop::Fenced(self.guard.at.clone()));
        }
        Ok(carried)
    }

    async fn carry_out(&self, tx: &mut Tx<'static, B>) -> Result<Carried, Stop> {
        let begun = Instant::now();
        let (name, Request { at, offset, .. }) = (&self.options.name, &self.request);
        let gone = || {
            let why = "it is not a dead letter any more".to_owned();
            let logged = why.clone();
            Carried::Refused { why, logged }
        };
        let Some((entry, attempts)) = dead_letter::load(tx, name, at, *offset).await? else {
            return Ok(gone());
        };
        let id = QueueId::of(entry.envelope.message_key.as_ref(), entry.offset);
        let dead = InboxState::Dead;
        let (to, end) = match self.request.kind {
            RequestKind::Replay => (InboxState::Handled, "replayed"),
            RequestKind::Discard => (InboxState::Discarded, "discarded"),
        };
        if !move_state(tx, name, &entry.identity, dead, to, self.now).await? {
            return Ok(gone());
        }
        if self.request.kind == RequestKind::Replay {
            let limit = time_left(&self.options, begun);
            let scope = Scope::of(name.as_str());
            let handled = handle(&self.handlers, scope, tx, &entry, limit, self.too_slow).await?;
            if let Err(error) = handled.settled(false)? {
                let reason = chain(&error);
                move_state(tx, name, &entry.identity, to, dead, self.now).await?;
                let attempts = attempts.saturating_add(1);
                dead_letter::still_dead(tx, name, &entry, attempts, &reason).await?;
                let logged = logged(&error);
                return Ok(Carried::Refused {
                    why: reason,
                    logged,
                });
            }
        }
        dead_letter::finish(tx, name, at, *offset, end).await?;
        Ok(Carried::Done { id })
    }
}
