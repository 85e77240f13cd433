//! The unit of work: `db.write(async |tx| …)`.
//!
//! Every write of a process goes through one writer thread per [`Db`]. On SQLite it commits
//! several units of work together, each in its own savepoint, because a commit costs an fsync
//! whatever is in it. On Postgres each has its own transaction and connection.
//!
//! The thread is also what makes the signature possible: the closure's future never leaves it, so
//! it need not be `Send`, and a generic caller need not prove that it is.

pub(crate) mod gate;
mod group;
mod hint;
mod job;
mod lane;
mod open;
mod trouble;
mod writer;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use sqlx::Pool;
use tokio::sync::oneshot;

use crate::{Backend, Error, Tx};

pub use hint::HINT_CHANNEL;
pub(crate) use job::note_append;
use job::{Job, JobOf};
pub(crate) use open::parse_postgres;
pub use open::{postgres_options, sqlite_options, sqlite_pool_options};
pub use trouble::connect_trouble;
use writer::{NotTaken, Writer};

/// Longest time a unit of work may take unless told otherwise.
pub const WRITE_TIME_LIMIT: Duration = Duration::from_secs(1);

/// A database with an outbox, as a service holds it. Cheap to clone; the last clone that is
/// dropped ends the writer.
#[derive(Debug)]
pub struct Db<B: Backend> {
    pool: Pool<B>,
    writer: Writer<B>,
    hint: hint::Hint,
    write_time_limit: Duration,
}

/// Limits of a [`Db`].
#[derive(Debug, Clone, Copy)]
pub struct OpenOptions {
    /// Longest time a unit of work may take; then it is cancelled and rolled back.
    pub write_time_limit: Duration,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            write_time_limit: WRITE_TIME_LIMIT,
        }
    }
}

impl<B: Backend> Clone for Db<B> {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            writer: self.writer.clone(),
            hint: self.hint.clone(),
            write_time_limit: self.write_time_limit,
        }
    }
}

/// Why a unit of work did not commit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError<E> {
    /// The closure said no; its transaction was rolled back.
    #[error("the unit of work was refused")]
    Refused(E),
    /// The database failed before anything was committed; trying again is safe.
    #[error("the unit of work was not committed")]
    NotCommitted(#[source] Error),
    /// COMMIT was sent and no answer came: the work may or may not be durable. Ask again with the
    /// same `Idempotency-Key`.
    #[error("the commit's outcome is unknown")]
    CommitUnknown(#[source] Error),
    /// The closure took longer than the time limit; it was cancelled and rolled back.
    #[error("the unit of work took longer than {limit:?}, it was rolled back")]
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// The closure panicked; it was rolled back.
    #[error("the unit of work panicked, it was rolled back: {message}")]
    Panicked {
        /// What it panicked with.
        message: String,
    },
    /// `write` was called inside a unit of work: it would wait for the one it is part of.
    #[error("a unit of work can't be begun inside another one; pass its transaction on")]
    Nested,
    /// Too many units of work wait already; nothing was committed.
    #[error("too many units of work are waiting")]
    Overloaded,
    /// The [`Db`] was closed; nothing was committed.
    #[error("the database was closed")]
    Closed,
}

/// The outcome of a unit of work to come. Dropping it does not cancel the work.
#[derive(Debug)]
#[must_use = "the outcome is known only when this is awaited"]
pub struct Write<T, E> {
    answer: Result<Answer<T, E>, Option<WriteError<E>>>,
}

type Answer<T, E> = oneshot::Receiver<Result<T, WriteError<E>>>;

impl<T, E> Unpin for Write<T, E> {}

impl<T, E> Future for Write<T, E> {
    type Output = Result<T, WriteError<E>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.answer {
            Ok(receiver) => Pin::new(receiver).poll(cx).map(|answer| {
                // The writer answers every job that it takes, so an answer that is missing means
                // that its thread died with the job, perhaps in the middle of COMMIT.
                answer.unwrap_or_else(|_| {
                    Err(WriteError::CommitUnknown(Error::Database {
                        doing: "unit of work",
                        source: sqlx::Error::WorkerCrashed,
                    }))
                })
            }),
            Err(refusal) => Poll::Ready(Err(refusal.take().unwrap_or(WriteError::Closed))),
        }
    }
}

impl<B: Backend> Db<B> {
    /// Wraps a pool, which serves the reads; the writer opens connections of its own with the same
    /// options, so a SQLite database must be a file. [`Db::open`] sets those options right.
    pub fn new(pool: Pool<B>) -> Self {
        Self::with_options(pool, OpenOptions::default())
    }

    /// [`Self::new`] with other limits.
    pub fn with_options(pool: Pool<B>, options: OpenOptions) -> Self {
        let connect = (*pool.connect_options()).clone();
        let hint = hint::Hint::default();
        let write_time_limit = options.write_time_limit;
        let writer = Writer::start(connect, write_time_limit, hint.clone());
        Self {
            pool,
            writer,
            hint,
            write_time_limit,
        }
    }

    /// Longest time a unit of work may take.
    pub fn write_time_limit(&self) -> Duration {
        self.write_time_limit
    }

    /// Tells the relay that there is something to publish. [`Self::write`] does it by itself; for
    /// those who append in a transaction of their own. Best effort, never waits.
    pub fn hint(&self) {
        self.hint.note();
    }

    /// The pool, for reads. Writes go through [`Self::write`].
    pub fn pool(&self) -> &Pool<B> {
        &self.pool
    }

    /// Why this database can't be reached, as a sentence that says what to mend; see
    /// [`connect_trouble`].
    pub fn trouble(&self, error: &sqlx::Error) -> String {
        B::connect_trouble(&self.pool.connect_options(), error).unwrap_or_else(|| error.to_string())
    }

    /// Waits until nothing can be written any more: after [`Self::close`], or because the writer's
    /// thread died (a bug: a value that panics when it is dropped, or ours). Then every further
    /// unit of work is refused as [`WriteError::Closed`], for good: a process that did not close it
    /// itself should end, so that its supervisor starts another.
    pub async fn ended(&self) {
        self.writer.ended().await;
    }

    /// Ends it: units of work that were handed over are finished, further ones are refused.
    pub async fn close(&self) {
        self.writer.close().await;
        self.pool.close().await;
    }

    /// Runs `work` in one transaction and answers after COMMIT: `Ok` means durable.
    ///
    /// The closure may run again after a failure that is certain to have committed nothing, so it
    /// takes ids and times from outside. It may not call `write` itself, and it may not end the
    /// transaction. It runs although nobody awaits the answer.
    ///
    /// # Errors
    /// See [`WriteError`]; only [`WriteError::CommitUnknown`] may have committed.
    pub fn write<T, E, F>(&self, work: F) -> Write<T, E>
    where
        F: for<'t> AsyncFn(&'t mut Tx<'static, B>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        self.write_with(job::is_known_victim, work)
    }

    /// [`Self::write`] for errors of your own type: `rerun` tells whether the database asked for
    /// another try, having rolled back the victim of a deadlock or of a serialization failure.
    /// [`crate::is_victim`] does for every type that names the database's error as its source;
    /// `write` knows only [`sqlx::Error`], [`Error`] and [`crate::BoxError`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_with<T, E, F>(&self, rerun: fn(&E) -> bool, work: F) -> Write<T, E>
    where
        F: for<'t> AsyncFn(&'t mut Tx<'static, B>) -> Result<T, E> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        if job::inside_unit_of_work() {
            return Write {
                answer: Err(Some(WriteError::Nested)),
            };
        }
        let (sender, receiver) = oneshot::channel();
        let job: Box<dyn Job<B>> = Box::new(JobOf::new(work, rerun, sender));
        let answer = match self.writer.submit(job) {
            Ok(()) => Ok(receiver),
            Err(NotTaken::Closed) => Err(Some(WriteError::Closed)),
            Err(NotTaken::Full) => Err(Some(WriteError::Overloaded)),
        };
        Write { answer }
    }
}
