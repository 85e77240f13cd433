//! One unit of work in a transaction of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{Pool, Transaction};

use super::gate::CommitGate;
use super::job::{Failure, Job, Ran};
use crate::fault::is_victim_code;
use crate::{Backend, Error, Tx, metrics};

/// Tries of a unit of work that the database makes a victim, the first included.
const TRIES: u32 = 5;
/// Longest wait for a rollback; then the connection is left to the pool to clean up or to close.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(1);

/// Where units of work run alone: a pool to begin on, and on SQLite the gate of its connection.
#[derive(Debug)]
pub(super) struct Lane<B: Backend> {
    pub(super) pool: Pool<B>,
    pub(super) gate: Option<Arc<CommitGate>>,
    pub(super) limit: Duration,
}

/// How a unit of work that ran alone left its lane. The job itself has been answered.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// It committed, and there is something to publish.
    pub(super) appended: bool,
    /// The connection may not be used again: nobody knows what state it is in.
    pub(super) broken: bool,
}

/// What came of one try.
enum Tried {
    Answer { appended: bool },
    Fail(Failure),
    Again(Error),
}

impl<B: Backend> Lane<B> {
    pub(super) fn plain(pool: Pool<B>, limit: Duration) -> Self {
        Self {
            pool,
            gate: None,
            limit,
        }
    }

    /// Runs one unit of work in its own transaction and answers it.
    pub(super) async fn run_alone(&self, mut job: Box<dyn Job<B>>) -> Left {
        let mut left = Left::default();
        for attempt in 1..=TRIES {
            match self.try_once(&mut *job, &mut left).await {
                Tried::Answer { appended } => {
                    left.appended = appended;
                    job.answer();
                    return left;
                }
                Tried::Fail(failure) => {
                    job.fail(failure);
                    return left;
                }
                Tried::Again(error) if attempt == TRIES || left.broken => {
                    job.fail(Failure::NotCommitted(error));
                    return left;
                }
                Tried::Again(_) => tokio::time::sleep(back_off(attempt)).await,
            }
        }
        left
    }

    async fn try_once(&self, job: &mut dyn Job<B>, left: &mut Left) -> Tried {
        let mut tx: Tx<'static, B> = match self.pool.begin_with(B::BEGIN).await {
            Ok(tx) => tx,
            Err(error) => return Tried::Fail(not_committed("begin", error)),
        };
        let begun = Instant::now();
        if let Some(gate) = &self.gate {
            gate.begun();
        }
        let ran = job.run(&mut tx, self.limit).await;
        let lost = self.gate.as_ref().is_some_and(|gate| gate.lost());
        left.broken |= lost;
        match ran {
            Ran::Done { .. } if lost => {
                Tried::Fail(not_committed("unit of work", sqlx::Error::BeginFailed))
            }
            Ran::Done { appended } => {
                note_group(1, begun);
                self.commit(tx, appended, left).await
            }
            Ran::Refused { rerun } => {
                roll_back(tx).await;
                if rerun {
                    let victim = sqlx::Error::Protocol("chosen as a victim too often".into());
                    return Tried::Again(Error::database("unit of work")(victim));
                }
                Tried::Answer { appended: false }
            }
            Ran::TimedOut(limit) => {
                roll_back(tx).await;
                Tried::Fail(Failure::TimedOut(limit))
            }
            Ran::Panicked(message) => {
                roll_back(tx).await;
                Tried::Fail(Failure::Panicked(message))
            }
        }
    }

    async fn commit(&self, mut tx: Tx<'static, B>, appended: bool, left: &mut Left) -> Tried {
        // Postgres answers COMMIT of a failed transaction with success and a ROLLBACK tag, which
        // sqlx does not show: a closure that swallowed an error would be told that it is durable.
        if let Some(check) = B::BEFORE_COMMIT
            && let Err(error) = sqlx::query(check).execute(&mut *tx).await
        {
            roll_back(tx).await;
            return Tried::Fail(not_committed("commit", error));
        }
        // CRASH: died before COMMIT is durable = nothing of it happened; after = all of it did, and
        // the caller did not hear. Its Idempotency-Key tells.
        match commit(tx, self.gate.as_deref()).await {
            Ok(()) => Tried::Answer { appended },
            Err(error) if B::refuses_commit(&error) => {
                left.broken |= B::GROUP_COMMIT;
                if is_victim_code(&error) {
                    return Tried::Again(Error::database("commit")(error));
                }
                Tried::Fail(not_committed("commit", error))
            }
            Err(error) => {
                left.broken |= B::GROUP_COMMIT;
                Tried::Fail(Failure::CommitUnknown(Error::database("commit")(error)))
            }
        }
    }
}

/// Commits; on SQLite through the gate.
pub(super) async fn commit<B: Backend>(
    tx: Transaction<'static, B>,
    gate: Option<&CommitGate>,
) -> Result<(), sqlx::Error> {
    let begun = Instant::now();
    let committed = match gate {
        None => tx.commit().await,
        Some(gate) => {
            gate.open();
            let committed = tx.commit().await;
            gate.shut();
            committed
        }
    };
    ::metrics::histogram!(metrics::WRITE_COMMIT_SECONDS).record(begun.elapsed());
    if let Err(error) = &committed
        && !B::refuses_commit(error)
    {
        ::metrics::counter!(metrics::WRITE_COMMITS_UNKNOWN).increment(1);
    }
    committed
}

/// A transaction of so many units of work is about to commit.
pub(super) fn note_group(members: u32, begun: Instant) {
    ::metrics::histogram!(metrics::WRITE_GROUP).record(members);
    ::metrics::histogram!(metrics::WRITE_OPEN_SECONDS).record(begun.elapsed());
}

/// Rolls back explicitly: dropping a transaction only queues it. A failure leaves nothing behind
/// that could commit.
pub(super) async fn roll_back<B: Backend>(tx: Transaction<'static, B>) {
    match tokio::time::timeout(ROLLBACK_TIMEOUT, tx.rollback()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "rollback failed"),
        Err(_) => tracing::debug!("rollback did not end in time"),
    }
}

pub(super) fn not_committed(doing: &'static str, error: sqlx::Error) -> Failure {
    Failure::NotCommitted(Error::database(doing)(error))
}

/// 2, 4, 8 … ms, half of it by chance, so that two victims of each other do not meet again.
fn back_off(attempt: u32) -> Duration {
    let most = 2_u64.pow(attempt.min(6));
    Duration::from_millis(rand::random_range(most / 2..=most))
}
