//! The writer thread: takes units of work and runs them, on Postgres side by side, on SQLite in
//! groups.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use sqlx::pool::PoolOptions;
use sqlx::{Connection, Pool};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::{JoinSet, LocalSet};
use tokio_util::sync::CancellationToken;

use super::job::Job;
use super::lane::Lane;
use super::{group, hint::Hint};
use crate::{Backend, metrics};

/// Units of work that may wait; more are refused at once instead of being answered late.
const QUEUE: usize = 10_000;
/// Units of work that run at the same time on Postgres, each with a connection.
const LANES: u32 = 8;
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that was idle for this long is asked whether it lives before it is used: of one that was just
/// used the question costs a round trip in each unit of work.
const TESTED_AFTER: Duration = Duration::from_secs(1);

pub(super) type Options<B> = <<B as sqlx::Database>::Connection as Connection>::Options;

/// `None` after `close`.
type Queue<B> = Sender<Box<dyn Job<B>>>;

/// Hands units of work to the thread. Cheap to clone; the thread ends with the last clone.
#[derive(Debug)]
pub(super) struct Writer<B: Backend> {
    jobs: Arc<Mutex<Option<Queue<B>>>>,
    ended: CancellationToken,
}

impl<B: Backend> Clone for Writer<B> {
    fn clone(&self) -> Self {
        Self {
            jobs: Arc::clone(&self.jobs),
            ended: self.ended.clone(),
        }
    }
}

/// Why a job was not taken.
pub(super) enum NotTaken {
    Closed,
    Full,
}

impl<B: Backend> Writer<B> {
    pub(super) fn start(options: Options<B>, limit: Duration, hint: Hint) -> Self {
        let (sender, jobs) = mpsc::channel(QUEUE);
        let ended = CancellationToken::new();
        let at_end = ended.clone().drop_guard();
        let spawned = thread::Builder::new()
            .name("onceward-writer".into())
            .spawn(move || {
                let _at_end = at_end;
                work::<B>(options, limit, hint, jobs);
            });
        if let Err(error) = spawned {
            // The receiver went with the closure: every `submit` says `Closed`.
            tracing::error!(%error, "the writer thread could not be started");
        }
        Self {
            jobs: Arc::new(Mutex::new(Some(sender))),
            ended,
        }
    }

    pub(super) fn submit(&self, job: Box<dyn Job<B>>) -> Result<(), NotTaken> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        match &*jobs {
            None => Err(NotTaken::Closed),
            Some(jobs) => {
                let taken = jobs.try_send(job);
                note_waiting(jobs.max_capacity() - jobs.capacity());
                taken.map_err(|refusal| match refusal {
                    TrySendError::Full(_) => NotTaken::Full,
                    TrySendError::Closed(_) => NotTaken::Closed,
                })
            }
        }
    }

    /// Waits until the thread has ended, however it does.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Takes no more jobs and waits for those that were taken.
    pub(super) async fn close(&self) {
        drop(
            self.jobs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        self.ended().await;
    }
}

/// The thread's life. Its runtime is its own: its connections' sockets are polled where they are
/// used, and it does not matter which runtime its callers have, or when that ends.
fn work<B: Backend>(
    options: Options<B>,
    limit: Duration,
    hint: Hint,
    jobs: Receiver<Box<dyn Job<B>>>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the writer thread has no runtime");
            return;
        }
    };
    let local = LocalSet::new();
    if B::GROUP_COMMIT {
        local.block_on(&runtime, group::work::<B>(options, limit, jobs));
    } else {
        local.block_on(&runtime, side_by_side::<B>(options, limit, hint, jobs));
    }
}

/// Each unit of work in its own transaction, [`LANES`] at a time.
async fn side_by_side<B: Backend>(
    options: Options<B>,
    limit: Duration,
    hint: Hint,
    mut jobs: Receiver<Box<dyn Job<B>>>,
) {
    let pool: Pool<B> = pool(options.clone(), LANES);
    let stop = CancellationToken::new();
    let hints = tokio::task::spawn_local(hint.clone().send_all::<B>(options, stop.clone()));
    let lanes = Arc::new(Semaphore::new(LANES as usize));
    let mut running = JoinSet::new();
    while let Some(job) = jobs.recv().await {
        note_waiting(jobs.len());
        let Ok(lane) = Arc::clone(&lanes).acquire_owned().await else {
            break;
        };
        let (pool, hint) = (pool.clone(), hint.clone());
        running.spawn_local(async move {
            let _lane = lane;
            if Lane::plain(pool, limit).run_alone(job).await.appended {
                hint.note();
            }
        });
        while running.try_join_next().is_some() {}
    }
    while running.join_next().await.is_some() {}
    stop.cancel();
    let _joined = hints.await;
    pool.close().await;
}

/// Tells the queue's length.
pub(super) fn note_waiting(jobs: usize) {
    ::metrics::gauge!(metrics::WRITE_QUEUE).set(u32::try_from(jobs).unwrap_or(u32::MAX));
}

/// A pool of the writer's own. Lazy: a database that is down fails units of work, not the start. All
/// connections are opened in the background nevertheless, and replaced when they age: opening one takes
/// longer than most units of work, and those that come together after a quiet time would all wait for it.
pub(super) fn pool<B: Backend>(options: Options<B>, connections: u32) -> Pool<B> {
    PoolOptions::new()
        .max_connections(connections)
        .min_connections(connections)
        .acquire_timeout(CONNECT_TIMEOUT)
        .test_before_acquire(false)
        .before_acquire(|connection: &mut B::Connection, used| {
            Box::pin(async move {
                if used.idle_for > TESTED_AFTER {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(options)
}
