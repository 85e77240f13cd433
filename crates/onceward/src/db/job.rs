//! One unit of work, its type erased, on its way through the writer.

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::oneshot;

use super::WriteError;
use crate::{Backend, Error, Tx};

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
    returned: Option<Result<T, E>>,
    sender: oneshot::Sender<Result<T, WriteError<E>>>,
}

impl<T, E, F> JobOf<T, E, F> {
    pub(super) fn new(work: F, sender: oneshot::Sender<Result<T, WriteError<E>>>) -> Self {
        Self {
            work,
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
        Box::pin(UNIT.scope(Cell::new(false), async move {
            let closure = AssertUnwindSafe((self.work)(tx)).catch_unwind();
            match tokio::time::timeout(limit, closure).await {
                Ok(Ok(returned)) => {
                    let ran = match &returned {
                        Ok(_) => Ran::Done {
                            appended: UNIT.with(Cell::get),
                        },
                        Err(refusal) => Ran::Refused {
                            rerun: asks_for_rerun(refusal),
                        },
                    };
                    self.returned = Some(returned);
                    ran
                }
                Ok(Err(panic)) => Ran::Panicked(panic_message(&*panic)),
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

fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".into())
}

/// Whether the database chose this unit of work as the victim of a deadlock or of a serialization
/// failure. Seen only in errors whose type we know; those of a user's own type count as refusals.
fn asks_for_rerun<E: 'static>(refusal: &E) -> bool {
    let refusal: &dyn Any = refusal;
    let source = match refusal.downcast_ref::<sqlx::Error>() {
        Some(error) => Some(error),
        None => match refusal.downcast_ref::<Error>() {
            Some(Error::Database { source, .. }) => Some(source),
            _ => None,
        },
    };
    source.is_some_and(is_victim)
}

/// `serialization_failure` or `deadlock_detected`.
pub(super) fn is_victim(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .and_then(|e| e.code())
        .is_some_and(|code| code == "40001" || code == "40P01")
}
