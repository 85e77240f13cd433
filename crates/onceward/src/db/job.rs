//! One unit of work, its type erased, on its way through the writer.

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::sync::oneshot;

use super::WriteError;
use crate::fault::{database_error, is_victim, is_victim_code, panic_text};
use crate::{Backend, BoxError, Error, Tx, metrics};

tokio::task_local! {
    /// Set while a closure runs: whether it appended to the outbox.
    static UNIT: Cell<bool>;
}

/// Tells the unit of work that there is something to publish, so that it sends a hint.
pub(crate) fn note_append() {
    // Outside a unit of work (a user's own transaction) nobody wants to know.
    let _outside = UNIT.try_with(|appended| appended.set(true));
}

pub(super) fn inside_unit_of_work() -> bool {
    UNIT.try_with(|_| ()).is_ok()
}

/// How the closure ended. Nothing is committed yet.
#[derive(Debug)]
pub(super) enum Ran {
    /// It returned `Ok`; `appended` if it wrote to the outbox.
    Done { appended: bool },
    /// It returned `Err`, which the job keeps; `rerun` if the database asked for another try.
    Refused { rerun: bool },
    /// It took too long and was cancelled.
    TimedOut(Duration),
    /// It panicked.
    Panicked(String),
}

/// What a job is told at its end, unless it committed or was refused by its own closure.
#[derive(Debug)]
pub(super) enum Failure {
    NotCommitted(Error),
    CommitUnknown(Error),
    TimedOut(Duration),
    Panicked(String),
}

/// A unit of work of any type.
pub(super) trait Job<B: Backend>: Send {
    /// Runs the closure once and keeps what it returned.
    fn run<'a>(
        &'a mut self,
        tx: &'a mut Tx<'static, B>,
        limit: Duration,
    ) -> Pin<Box<dyn Future<Output = Ran> + 'a>>;
    /// Answers with what the last run returned: after COMMIT, or after the rollback of a refusal.
    fn answer(self: Box<Self>);
    /// Answers that it failed.
    fn fail(self: Box<Self>, failure: Failure);
}

pub(super) struct JobOf<T, E, F> {
    work: F,
    /// Whether a refusal is the database's wish for another try.
    rerun: fn(&E) -> bool,
    /// Until it has begun.
    submitted: Option<Instant>,
    returned: Option<Result<T, E>>,
    sender: oneshot::Sender<Result<T, WriteError<E>>>,
}

impl<T, E, F> JobOf<T, E, F> {
    pub(super) fn new(
        work: F,
        rerun: fn(&E) -> bool,
        sender: oneshot::Sender<Result<T, WriteError<E>>>,
    ) -> Self {
        Self {
            work,
            rerun,
            submitted: Some(Instant::now()),
            returned: None,
            sender,
        }
    }
}

impl<B, T, E, F> Job<B> for JobOf<T, E, F>
where
    B: Backend,
    F: for<'t> AsyncFn(&'t mut Tx<'static, B>) -> Result<T, E> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    fn run<'a>(
        &'a mut self,
        tx: &'a mut Tx<'static, B>,
        limit: Duration,
    ) -> Pin<Box<dyn Future<Output = Ran> + 'a>> {
        match self.submitted.take() {
            Some(at) => ::metrics::histogram!(metrics::WRITE_WAIT_SECONDS).record(at.elapsed()),
            None => ::metrics::counter!(metrics::WRITE_RERUNS).increment(1),
        }
        Box::pin(UNIT.scope(Cell::new(false), async move {
            let closure = AssertUnwindSafe((self.work)(tx)).catch_unwind();
            match tokio::time::timeout(limit, closure).await {
                Ok(Ok(returned)) => {
                    let ran = match &returned {
                        Ok(_) => Ran::Done {
                            appended: UNIT.with(Cell::get),
                        },
                        Err(refusal) => Ran::Refused {
                            rerun: (self.rerun)(refusal),
                        },
                    };
                    self.returned = Some(returned);
                    ran
                }
                Ok(Err(panic)) => Ran::Panicked(panic_text(&*panic).to_owned()),
                Err(_elapsed) => Ran::TimedOut(limit),
            }
        }))
    }

    fn answer(self: Box<Self>) {
        // A caller that went away is no concern of the writer's.
        let _gone = match self.returned {
            Some(Ok(value)) => self.sender.send(Ok(value)),
            Some(Err(refusal)) => self.sender.send(Err(WriteError::Refused(refusal))),
            None => Ok(()),
        };
    }

    fn fail(self: Box<Self>, failure: Failure) {
        let error = match failure {
            Failure::NotCommitted(error) => WriteError::NotCommitted(error),
            Failure::CommitUnknown(error) => WriteError::CommitUnknown(error),
            Failure::TimedOut(limit) => WriteError::TimedOut { limit },
            Failure::Panicked(message) => WriteError::Panicked { message },
        };
        let _gone = self.sender.send(Err(error));
    }
}

/// Whether the database chose this unit of work as the victim of a deadlock or of a serialization
/// failure. Seen only in errors whose type we know; those of a user's own type count as refusals.
pub(super) fn is_known_victim<E: 'static>(refusal: &E) -> bool {
    let refusal: &dyn Any = refusal;
    if let Some(error) = refusal.downcast_ref::<sqlx::Error>() {
        return is_victim(error);
    }
    if let Some(error) = refusal.downcast_ref::<Error>() {
        return is_victim(error);
    }
    let boxed = refusal.downcast_ref::<BoxError>();
    boxed.is_some_and(|error| database_error(&**error).is_some_and(is_victim_code))
}
