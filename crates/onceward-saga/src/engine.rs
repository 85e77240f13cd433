//! Runs sagas: starts them, hands them replies and timers, in the caller's transaction.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use onceward::consumer::{Handler, HandlerError};
use onceward::{Clock, MessageContext, Outbox, Tx, trace};
use serde::Serialize;
use tracing::{Instrument, Span};
use uuid::Uuid;

use crate::decide::{Input, begin, decide};
use crate::log::{self, Decided, Locked};
use crate::timer::rows;
use crate::{
    Illegal, Operation, SagaBackend, SagaDefinition, SagaError, SagaId, SagaMessage, SagaStatus,
    TimerOwner,
};

/// The sagas of one process: definitions and the outbox their messages go to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sagas {
    definitions: Arc<HashMap<(String, i32), SagaDefinition>>,
    outbox: Outbox,
}

/// What starting a saga came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It began.
    First(SagaId),
    /// There is one about this subject already; nothing was changed.
    Already(SagaId),
}

/// What a reply or an operation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// The saga took note, and now stands there.
    To(SagaStatus),
    /// It came twice, or too late to matter; nothing was changed.
    Nowhere,
}

/// What firing a timer came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fired {
    /// It fired, and the saga now stands there.
    Now(SagaStatus),
    /// It is not armed any more, or not due yet; nothing was changed.
    NotArmed,
}

impl Sagas {
    /// No definitions yet; messages go to `outbox`.
    pub fn new(outbox: Outbox) -> Self {
        Self {
            definitions: Arc::default(),
            outbox,
        }
    }

    /// Adds a definition. The last one of a name and version counts.
    #[must_use]
    pub fn with(mut self, definition: SagaDefinition) -> Self {
        let key = (definition.name().to_owned(), definition.version());
        Arc::make_mut(&mut self.definitions).insert(key, definition);
        self
    }

    /// Where its messages go.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Starts the saga of this definition about `subject`. Starting it again changes nothing, also
    /// concurrently and under another message id.
    ///
    /// # Errors
    /// [`SagaError`]; nothing may be committed then.
    pub async fn start<B: SagaBackend>(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        definition: &SagaDefinition,
        subject: &str,
        data: &(impl Serialize + Sync),
    ) -> Result<Started, SagaError> {
        let saga = (context, subject, data);
        let started = self.start_all(tx, definition, &[saga]).await?;
        // One for each.
        let started = started.first().copied();
        Ok(started.unwrap_or_else(|| Started::Already(definition.saga_id(subject))))
    }

    /// [`Self::start`] of several: what each was caused by, is about, and begins with.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_all<B: SagaBackend>(
        &self,
        tx: &mut Tx<'static, B>,
        definition: &SagaDefinition,
        sagas: &[(&MessageContext, &str, &(impl Serialize + Sync))],
    ) -> Result<Vec<Started>, SagaError> {
        let mut begun = Vec::with_capacity(sagas.len());
        for (context, subject, data) in sagas {
            let data = serde_json::to_value(data).map_err(|source| SagaError::Encode {
                what: "saga data",
                source,
            })?;
            let saga_id = definition.saga_id(subject);
            let (state, decision) = begin(definition, subject, data).map_err(illegal(saga_id))?;
            begun.push((*context, state, decision));
        }
        let rows = begun.iter().map(|(context, state, _)| (*context, state));
        let rows: Vec<_> = rows.collect();
        let now = self.outbox.clock().now();
        let mut new = log::insert_instances(tx, &rows, now).await?;
        let (mut started, mut decided) = (Vec::new(), Vec::new());
        for (context, after, decision) in begun {
            // About the same subject, the first one counts.
            if !new.remove(&after.saga_id) {
                started.push(Started::Already(after.saga_id));
                continue;
            }
            started.push(Started::First(after.saga_id));
            decided.push(Decided {
                context: Cow::Borrowed(context),
                from: 0,
                after,
                decision,
            });
        }
        log::write(tx, &self.outbox, &mut decided).await?;
        for Decided { context, after, .. } in &decided {
            let said = async {
                tracing::debug!(saga.id = %after.saga_id, saga.definition = definition.name(), "saga started");
            };
            context.within(said).await;
        }
        Ok(started)
    }

    /// Hands a participant's answer to its saga.
    ///
    /// # Errors
    /// [`SagaError`]; nothing may be committed then. One that is not `Storage` says the message
    /// can't ever be taken: a dead letter.
    pub async fn reply<B: SagaBackend, E: SagaMessage>(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        message: &E,
    ) -> Result<Moved, SagaError> {
        let messages = [(context, message)];
        let moved = self.reply_all(tx, &messages).await?;
        Ok(moved.first().copied().unwrap_or(Moved::Nowhere))
    }

    /// [`Self::reply`] of several, with the same effect as of each in turn.
    ///
    /// # Errors
    /// As [`Self::reply`]; which of them it was is not told.
    pub async fn reply_all<B: SagaBackend, E: SagaMessage>(
        &self,
        tx: &mut Tx<'static, B>,
        messages: &[(&MessageContext, &E)],
    ) -> Result<Vec<Moved>, SagaError> {
        let mut moved = Vec::with_capacity(messages.len());
        let mut rest = messages;
        while !rest.is_empty() {
            // Each decision needs to know the one before about the same saga.
            let mut met = HashSet::new();
            let mut is_new = |message: &E| met.insert(message.step_ref().saga_id);
            let about_others = rest.iter().take_while(|(_, message)| is_new(message));
            let (together, later) = rest.split_at(about_others.count());
            moved.extend(self.reply_each(tx, together).await?);
            rest = later;
        }
        Ok(moved)
    }

    /// Hands answers to as many sagas.
    async fn reply_each<B: SagaBackend, E: SagaMessage>(
        &self,
        tx: &mut Tx<'static, B>,
        messages: &[(&MessageContext, &E)],
    ) -> Result<Vec<Moved>, SagaError> {
        let ids = messages
            .iter()
            .map(|(_, message)| message.step_ref().saga_id);
        let ids: Vec<_> = ids.collect();
        let mut locked = log::lock(tx, &ids).await?;
        let mut taken = Vec::with_capacity(messages.len());
        for (context, message) in messages {
            let at = message.step_ref().clone();
            let saga_id = at.saga_id;
            let payload = serde_json::to_value(message).map_err(|source| SagaError::Encode {
                what: E::TYPE,
                source,
            })?;
            let saga = locked.remove(&saga_id);
            let saga = saga.ok_or(SagaError::UnknownSaga(saga_id))?;
            let input = Input::Reply {
                message_type: E::TYPE.to_owned(),
                at,
                payload,
            };
            taken.push((saga, Some(*context), input));
        }
        self.carry_out(tx, taken).await
    }

    /// Does what an operator wants, and writes to the saga's log who it was and why.
    ///
    /// # Errors
    /// [`SagaError`]; [`SagaError::Illegal`] for what makes no sense where the saga stands. Unless it
    /// is [`SagaError::Storage`], nothing was written, and the transaction may go on.
    pub async fn operate<B: SagaBackend>(
        &self,
        tx: &mut Tx<'static, B>,
        saga_id: SagaId,
        operation: Operation,
    ) -> Result<Moved, SagaError> {
        let verb = operation.verb;
        let saga = lock_one(tx, saga_id).await?;
        let input = Input::Operated(operation);
        let moved = self.carry_out(tx, vec![(saga, None, input)]).await?;
        tracing::info!(saga.id = %saga_id, %verb, "an operator stepped in");
        Ok(moved.first().copied().unwrap_or(Moved::Nowhere))
    }

    /// Fires one timer if it still is armed and its time has come.
    ///
    /// # Errors
    /// [`SagaError`]; nothing may be committed then.
    pub async fn fire<B: SagaBackend>(
        &self,
        tx: &mut Tx<'static, B>,
        saga_id: SagaId,
        timer: &str,
    ) -> Result<Fired, SagaError> {
        let locked = lock_one(tx, saga_id).await?;
        // After the lock, so that a reply that was waited for is seen, and the time is now.
        let now = B::timer_now(&mut **tx, self.outbox.clock().as_ref())
            .await
            .map_err(SagaError::database("timer clock"))?;
        if !rows::mark_fired(tx, log::OWNER_KIND, saga_id.0, timer, now).await? {
            return Ok(Fired::NotArmed);
        }
        let name = timer.parse().map_err(|error: crate::InvalidTimerName| {
            SagaError::Storage(onceward::Error::Corrupt {
                what: "timer name",
                reason: error.to_string(),
            })
        })?;
        let before = locked.state.status;
        let mut story = locked.story.clone();
        let (log, export) = timer_spans(saga_id, timer, &mut story);
        let input = Input::TimerFired(name);
        let moved = self
            .carry_out(tx, vec![(locked, Some(&story), input)])
            .instrument(export)
            .instrument(log)
            .await?;
        Ok(Fired::Now(match moved.first() {
            Some(Moved::To(status)) => *status,
            Some(Moved::Nowhere) | None => before,
        }))
    }

    /// Decides about each saga and writes. What no message causes (timers, operators) goes on in the story
    /// the saga was started in.
    async fn carry_out<B: SagaBackend>(
        &self,
        tx: &mut Tx<'static, B>,
        taken: Vec<(Locked, Option<&MessageContext>, Input)>,
    ) -> Result<Vec<Moved>, SagaError> {
        let mut moved = Vec::with_capacity(taken.len());
        let (mut decided, mut stuck) = (Vec::with_capacity(taken.len()), Vec::new());
        for (Locked { mut state, story }, context, input) in taken {
            let key = (state.definition.clone(), state.definition_version);
            let Some(definition) = self.definitions.get(&key) else {
                return Err(SagaError::UnknownDefinition {
                    name: key.0,
                    version: key.1,
                });
            };
            let decision = decide(definition, &state, &input).map_err(illegal(state.saga_id))?;
            if decision.is_empty() {
                moved.push(Moved::Nowhere);
                continue;
            }
            let (from, before) = (state.version, state.status);
            decision.events.iter().for_each(|event| state.apply(event));
            moved.push(Moved::To(state.status));
            if state.status == SagaStatus::Stuck && before != SagaStatus::Stuck {
                stuck.push(decided.len());
            }
            decided.push(Decided {
                context: context.map_or(Cow::Owned(story), Cow::Borrowed),
                from,
                after: state,
                decision,
            });
        }
        log::write(tx, &self.outbox, &mut decided).await?;
        for Decided { context, after, .. } in stuck.into_iter().map(|place| &decided[place]) {
            let said = async {
                tracing::error!(saga.id = %after.saga_id, "saga is stuck: a compensation failed for good");
            };
            context.within(said).await;
        }
        Ok(moved)
    }
}

async fn lock_one<B: SagaBackend>(
    tx: &mut Tx<'static, B>,
    saga_id: SagaId,
) -> Result<Locked, SagaError> {
    let locked = log::lock(tx, &[saga_id]).await?.remove(&saga_id);
    locked.ok_or(SagaError::UnknownSaga(saga_id))
}

/// Hands every reply of any type to its saga: `handlers.on::<Charged, _>(sagas.clone())`.
impl<B: SagaBackend, E: SagaMessage> Handler<B, E> for Sagas {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        message: E,
    ) -> Result<(), HandlerError> {
        self.reply(tx, context, &message).await?;
        Ok(())
    }

    async fn handle_batch(
        &self,
        tx: &mut Tx<'static, B>,
        messages: Vec<(MessageContext, E)>,
    ) -> Result<(), HandlerError> {
        let messages = messages.iter().map(|(context, message)| (context, message));
        let messages: Vec<_> = messages.collect();
        self.reply_all(tx, &messages).await?;
        Ok(())
    }
}

/// The deadlines of steps, and the delays before retries.
impl<B: SagaBackend> TimerOwner<B> for Sagas {
    const KIND: &'static str = log::OWNER_KIND;

    fn clock(&self) -> &Arc<dyn Clock> {
        self.outbox.clock()
    }

    async fn fire(
        &self,
        tx: &mut Tx<'static, B>,
        owner: Uuid,
        timer: &str,
    ) -> Result<(), SagaError> {
        Self::fire(self, tx, SagaId(owner), timer).await?;
        Ok(())
    }
}

/// For the log and for export. A timer belongs to the trace its saga was started in.
fn timer_spans(saga_id: SagaId, timer: &str, story: &mut MessageContext) -> (Span, Span) {
    let log = tracing::info_span!(
        target: trace::LOG_ONLY, parent: None, "saga.timer", saga.id = %saga_id, timer,
        correlation.id = %story.correlation_id, trace.id = tracing::field::Empty,
    );
    if trace::bridge().is_none() {
        return (log, Span::none());
    }
    let export = tracing::info_span!(
        target: trace::EXPORT_ONLY, parent: None, "saga.timer", saga.id = %saga_id, timer,
    );
    if let Some(joined) = trace::join(&export, story) {
        log.record("trace.id", joined.trace_id_hex());
    }
    (log, export)
}

fn illegal(saga_id: SagaId) -> impl FnOnce(Illegal) -> SagaError {
    move |source| SagaError::Illegal { saga_id, source }
}
