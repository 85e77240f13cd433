//! Runs sagas: starts them, hands them replies and timers, in the caller's transaction.

use std::collections::HashMap;
use std::sync::Arc;

use onceward::consumer::{Handler, HandlerError};
use onceward::{Clock, MessageContext, Outbox, Tx, trace};
use serde::Serialize;
use tracing::{Instrument, Span};
use uuid::Uuid;

use crate::decide::{Decision, Input, begin, decide};
use crate::timer::rows;
use crate::{
    Illegal, Operation, SagaBackend, SagaDefinition, SagaError, SagaId, SagaMessage, SagaStatus,
    TimerOwner, log,
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
        let saga_id = definition.saga_id(subject);
        let data = serde_json::to_value(data).map_err(|source| SagaError::Encode {
            what: "saga data",
            source,
        })?;
        let (state, decision) = begin(definition, subject, data).map_err(illegal(saga_id))?;
        let now = self.outbox.clock().now();
        if !log::insert_instance(tx, context, &state, now).await? {
            return Ok(Started::Already(saga_id));
        }
        log::write(tx, context, &self.outbox, saga_id, 0, &state, decision).await?;
        tracing::debug!(saga.id = %saga_id, saga.definition = definition.name(), "saga started");
        Ok(Started::First(saga_id))
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
        let at = message.step_ref().clone();
        let payload = serde_json::to_value(message).map_err(|source| SagaError::Encode {
            what: E::TYPE,
            source,
        })?;
        let saga_id = at.saga_id;
        let input = Input::Reply {
            message_type: E::TYPE.to_owned(),
            at,
            payload,
        };
        self.take(tx, Some(context), saga_id, &input).await
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
        let input = Input::Operated(operation);
        let moved = self.take(tx, None, saga_id, &input).await?;
        tracing::info!(saga.id = %saga_id, %verb, "an operator stepped in");
        Ok(moved)
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
        let locked = log::lock(tx, saga_id).await?;
        let locked = locked.ok_or(SagaError::UnknownSaga(saga_id))?;
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
        let moved = self
            .carry_out(tx, Some(&story), locked, &Input::TimerFired(name))
            .instrument(export)
            .instrument(log)
            .await?;
        Ok(Fired::Now(match moved {
            Moved::To(status) => status,
            Moved::Nowhere => before,
        }))
    }

    async fn take<B: SagaBackend>(
        &self,
        tx: &mut Tx<'static, B>,
        context: Option<&MessageContext>,
        saga_id: SagaId,
        input: &Input,
    ) -> Result<Moved, SagaError> {
        let locked = log::lock(tx, saga_id).await?;
        let locked = locked.ok_or(SagaError::UnknownSaga(saga_id))?;
        self.carry_out(tx, context, locked, input).await
    }

    /// Decides and writes. What no message causes (timers, operators) goes on in the story the
    /// saga was started in.
    async fn carry_out<B: SagaBackend>(
        &self,
        tx: &mut Tx<'static, B>,
        context: Option<&MessageContext>,
        locked: log::Locked,
        input: &Input,
    ) -> Result<Moved, SagaError> {
        let log::Locked { mut state, story } = locked;
        let key = (state.definition.clone(), state.definition_version);
        let Some(definition) = self.definitions.get(&key) else {
            return Err(SagaError::UnknownDefinition {
                name: key.0,
                version: key.1,
            });
        };
        let saga_id = state.saga_id;
        let decision: Decision = decide(definition, &state, input).map_err(illegal(saga_id))?;
        if decision.is_empty() {
            return Ok(Moved::Nowhere);
        }
        let (from, before) = (state.version, state.status);
        decision.events.iter().for_each(|event| state.apply(event));
        let context = context.unwrap_or(&story);
        log::write(tx, context, &self.outbox, saga_id, from, &state, decision).await?;
        if state.status == SagaStatus::Stuck && before != SagaStatus::Stuck {
            tracing::error!(saga.id = %saga_id, "saga is stuck: a compensation failed for good");
        }
        Ok(Moved::To(state.status))
    }
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
