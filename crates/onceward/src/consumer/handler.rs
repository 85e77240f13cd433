//! What a service writes: one function per message type.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use crate::trace::Scope;
use crate::{Backend, BoxError, DecodeError, Envelope, Event, MessageContext, Routing, Tx};

/// What a handler returns.
pub type HandlerFuture<'a> = Pin<Box<dyn Future<Output = Result<(), HandlerError>> + Send + 'a>>;

/// Why a message could not be handled.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// Try again later; later messages of the same key wait behind it. `after` is at least how
    /// long; the policy's back-off otherwise.
    #[error("to be tried again")]
    Retry {
        /// Least delay.
        after: Option<Duration>,
        /// Why.
        #[source]
        cause: BoxError,
    },
    /// Trying again can't help: the message becomes a dead letter and its key is parked.
    #[error("refused")]
    Reject(#[source] BoxError),
    /// The database failed: lost connection, deadlock and serialization failure are the batch's
    /// fault and use no attempt; any other error is retried as [`Self::Retry`]. After ten deadlocks
    /// of one message alone in its transaction it becomes a dead letter.
    #[error("database failed while handling")]
    Database(#[source] sqlx::Error),
}

impl From<sqlx::Error> for HandlerError {
    fn from(source: sqlx::Error) -> Self {
        Self::Database(source)
    }
}
impl From<DecodeError> for HandlerError {
    fn from(source: DecodeError) -> Self {
        Self::Reject(Box::new(source))
    }
}
impl From<crate::Error> for HandlerError {
    fn from(error: crate::Error) -> Self {
        match error {
            crate::Error::Database { source, .. } => Self::Database(source),
            other => Self::Reject(Box::new(other)),
        }
    }
}

/// Handles one message type. The transaction is open and the message claimed in it; whatever the
/// handler writes and appends commits together with the claim and the offset, or not at all.
///
/// May be called again for the same message after a rollback, never after a commit.
pub trait Handler<B: Backend, E: Event>: Send + Sync + 'static {
    /// Handles one message.
    fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        message: E,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;

    /// Handles messages that follow each other in the consumer's order (those of other types
    /// between them end the run), with the same effect as [`Self::handle`] of each in turn. The
    /// default is that loop; overwrite it where one statement can do for many ([`crate::bulk`]). Called with
    /// what one inbox insert has claimed, 1 to 256 messages.
    ///
    /// Log lines and spans of one message belong [`MessageContext::within`] its context; the default
    /// sees to it.
    ///
    /// An error or panic blames nobody: all is rolled back, and each message is given to
    /// [`Self::handle`] alone.
    fn handle_batch(
        &self,
        tx: &mut Tx<'static, B>,
        messages: Vec<(MessageContext, E)>,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send {
        async move {
            for (context, message) in messages {
                let handled = self.handle(tx, &context, message);
                context.within(handled).await?;
            }
            Ok(())
        }
    }
}

/// A [`Handler`] without its message type.
trait Erased<B: Backend>: Send + Sync {
    fn one<'a>(
        &'a self,
        tx: &'a mut Tx<'static, B>,
        scope: Scope<'a>,
        envelope: &'a Envelope,
    ) -> HandlerFuture<'a>;
    fn many<'a>(
        &'a self,
        tx: &'a mut Tx<'static, B>,
        scope: Scope<'a>,
        envelopes: &'a [&'a Envelope],
    ) -> HandlerFuture<'a>;
}

struct Typed<H, E>(H, PhantomData<fn(E)>);

impl<B: Backend, E: Event, H: Handler<B, E>> Erased<B> for Typed<H, E> {
    fn one<'a>(
        &'a self,
        tx: &'a mut Tx<'static, B>,
        scope: Scope<'a>,
        envelope: &'a Envelope,
    ) -> HandlerFuture<'a> {
        Box::pin(async move {
            let (context, processing) = scope.process(envelope);
            let handled = async {
                let message = envelope.decode::<E>()?;
                self.0.handle(tx, &context, message).await
            };
            let handled = context.within(handled).await;
            processing.ended(&handled);
            handled
        })
    }

    fn many<'a>(
        &'a self,
        tx: &'a mut Tx<'static, B>,
        scope: Scope<'a>,
        envelopes: &'a [&'a Envelope],
    ) -> HandlerFuture<'a> {
        Box::pin(async move {
            let decoded = envelopes.iter().map(|envelope| envelope.decode::<E>());
            let decoded = decoded.collect::<Result<Vec<_>, _>>()?;
            let mut all = Vec::new();
            let messages = envelopes.iter().zip(decoded).map(|(envelope, message)| {
                let (context, processing) = scope.process(envelope);
                all.extend(processing.if_exported());
                (context, message)
            });
            let messages = messages.collect();
            let handled = self.0.handle_batch(tx, messages).await;
            for processing in all {
                processing.ended(&handled);
            }
            handled
        })
    }
}

/// The message types a consumer knows, each with its handler.
pub struct Handlers<B: Backend> {
    by_type: HashMap<&'static str, Box<dyn Erased<B>>>,
}

impl<B: Backend> Default for Handlers<B> {
    fn default() -> Self {
        Self {
            by_type: HashMap::new(),
        }
    }
}

impl<B: Backend> std::fmt::Debug for Handlers<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.by_type.keys()).finish()
    }
}

impl<B: Backend> Handlers<B> {
    /// Handles messages of type `E` by `handler`. The last one registered for a type counts.
    #[must_use]
    pub fn on<E: Event, H: Handler<B, E>>(mut self, handler: H) -> Self {
        self.by_type
            .insert(E::TYPE, Box::new(Typed(handler, PhantomData)));
        self
    }

    /// The topics that these messages come by: what a consumer of them reads.
    pub fn topics(&self, routing: &Routing) -> BTreeSet<String> {
        let types = self.by_type.keys();
        types.map(|known| routing.topic(known).to_owned()).collect()
    }

    /// Runs the handler of the envelope's type.
    ///
    /// # Errors
    /// [`HandlerError::Reject`] for a type that nobody registered or a payload that is not of it; else what
    /// the handler returns.
    pub async fn dispatch(
        &self,
        tx: &mut Tx<'static, B>,
        envelope: &Envelope,
    ) -> Result<(), HandlerError> {
        let scope = Scope::default();
        self.dispatch_within(tx, scope, envelope).await
    }

    /// [`Self::dispatch`] for a consumer's batch, which spans tell of.
    pub(super) async fn dispatch_within(
        &self,
        tx: &mut Tx<'static, B>,
        scope: Scope<'_>,
        envelope: &Envelope,
    ) -> Result<(), HandlerError> {
        self.of(envelope)?.one(tx, scope, envelope).await
    }

    /// Runs [`Handler::handle_batch`] of envelopes that all have the first one's type, as a consumer does with
    /// messages that follow each other.
    ///
    /// # Errors
    /// As [`Self::dispatch`]; it does not say whose.
    pub async fn dispatch_batch(
        &self,
        tx: &mut Tx<'static, B>,
        envelopes: &[&Envelope],
    ) -> Result<(), HandlerError> {
        let scope = Scope::default();
        self.dispatch_batch_within(tx, scope, envelopes).await
    }

    /// [`Self::dispatch_batch`] for a consumer's batch, which spans tell of.
    pub(super) async fn dispatch_batch_within(
        &self,
        tx: &mut Tx<'static, B>,
        scope: Scope<'_>,
        envelopes: &[&Envelope],
    ) -> Result<(), HandlerError> {
        match envelopes {
            [] => Ok(()),
            [one] => self.dispatch_within(tx, scope, one).await,
            [first, ..] => self.of(first)?.many(tx, scope, envelopes).await,
        }
    }

    fn of(&self, envelope: &Envelope) -> Result<&dyn Erased<B>, HandlerError> {
        let message_type = envelope.message_type.as_deref();
        match message_type.and_then(|known| self.by_type.get(known)) {
            Some(handler) => Ok(&**handler),
            None => Err(HandlerError::Reject(match message_type {
                Some(unknown) => format!("no handler for message type {unknown}").into(),
                None => "the record has no message type (header ce_type)".into(),
            })),
        }
    }
}
