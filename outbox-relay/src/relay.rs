//! The component: many sources, one worker each.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use onceward::DatabaseUrl;
use onceward::publisher::Broker;
use onceward::source::{DatabaseKind, Dialect};
use sqlx::{Postgres, Sqlite};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::janitor::Schedule;
use crate::options::RelayOptions;
use crate::phase::Phase;
use crate::status::{Board, Handle};
use crate::worker::{Backlogs, Parts, SourceWorker};

/// Why a relay did not start, or did not end in order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The options don't fit; every problem is named.
    #[error("invalid options: {}", .0.join("; "))]
    Options(Vec<String>),
    /// The janitor's schedule did not start.
    #[error("the janitor's schedule did not start")]
    Schedule(#[source] tokio_cron_scheduler::JobSchedulerError),
    /// A worker panicked: a bug. The other sources went on until the stop.
    #[error("the worker of a source panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// Relays sources to one Kafka cluster. Several processes may run the same sources: one works at a
/// time, the others take over when it is gone.
#[derive(Debug)]
pub struct Relay<Br: Broker> {
    options: Arc<RelayOptions>,
    broker: Br,
    handle: Handle,
}

impl<Br: Broker> Relay<Br> {
    /// Checks the options. Opens nothing yet.
    ///
    /// # Errors
    /// [`RelayError::Options`] with everything that is wrong.
    pub fn new(options: RelayOptions, broker: Br) -> Result<Self, RelayError> {
        let problems = options.validate();
        if !problems.is_empty() {
            return Err(RelayError::Options(problems));
        }
        let boards = options
            .sources
            .iter()
            .map(|source| Board::new(source.name.clone(), kind(&source.url).as_str()))
            .collect();
        Ok(Self {
            handle: Handle::new(&options.instance_id, boards),
            options: Arc::new(options),
            broker,
        })
    }

    /// A cheap view of what the relay does; stays valid while and after it runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Works until `stop` is cancelled, then finishes or aborts the open Kafka transactions, writes
    /// the mirrors and releases the leases, within [`RelayOptions::stop_ms`] and 0.7 s. A source that
    /// needs a person stops alone; see [`Handle::status`].
    ///
    /// # Errors
    /// [`RelayError::Schedule`], [`RelayError::Panicked`]; trouble with Kafka or a database is waited
    /// out.
    pub async fn run(self, stop: CancellationToken) -> Result<(), RelayError> {
        let schedule = Schedule::start(&self.options.janitor_schedule)
            .await
            .map_err(RelayError::Schedule)?;
        let backlogs = Backlogs::default();
        let mut workers = JoinSet::new();
        let mut boards = HashMap::new();
        for (source, board) in self.options.sources.iter().zip(self.handle.boards()) {
            let parts = Parts {
                source: source.clone(),
                options: self.options.clone(),
                broker: self.broker.clone(),
                board: board.clone(),
                backlogs: backlogs.clone(),
                appointments: schedule.appointments(),
                stop: stop.clone(),
            };
            // The URL decides here, once.
            let worker = match kind(&source.url) {
                DatabaseKind::Sqlite => workers.spawn(boxed::<Sqlite, Br>(parts)),
                DatabaseKind::Postgres => workers.spawn(boxed::<Postgres, Br>(parts)),
            };
            boards.insert(worker.id(), board);
        }
        let mut outcome = Ok(());
        while let Some(ended) = workers.join_next().await {
            if let Err(error) = ended {
                tracing::error!(error = %error, "a worker panicked");
                if let Some(board) = boards.get(&error.id()) {
                    board.write(|status| {
                        status.state = Phase::Stopped;
                        status.alarm = true;
                        status.last_error = Some(format!("bug: the worker ended: {error}"));
                        status.way_out = Some("restart the relay, and report this line".to_owned());
                    });
                }
                outcome = Err(RelayError::Panicked(error));
            }
        }
        schedule.shutdown().await;
        outcome
    }
}

/// Here, where the database is a parameter, the compiler sees that the future is `Send`; for a named
/// one it can't follow sqlx's lifetimes.
fn boxed<D: Dialect, Br: Broker>(parts: Parts<Br>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(work::<D, Br>(parts))
}

/// Opens the source's database, however long that takes, and works.
async fn work<D: Dialect, Br: Broker>(parts: Parts<Br>) {
    let (stop, finishing) = (parts.stop.clone(), parts.options.stop_ms);
    let worker = SourceWorker::<D, Br>::new(parts);
    // A stuck database or broker call must not hold the process up beyond its time.
    tokio::select! {
        () = worker.run() => {}
        () = overdue(stop, Duration::from_millis(finishing)) => {
            tracing::warn!("a source did not stop in time; its lease runs out by itself");
        }
    }
}

/// For what follows the end of the open Kafka transaction: mirror and lease.
const LAST_WRITES: Duration = Duration::from_millis(700);

async fn overdue(stop: CancellationToken, finishing: Duration) {
    stop.cancelled_owned().await;
    tokio::time::sleep(finishing + LAST_WRITES).await;
}

/// By the URL's scheme, which [`RelayOptions::validate`] has accepted.
pub(crate) fn kind(url: &DatabaseUrl) -> DatabaseKind {
    DatabaseKind::of(url.reveal()).unwrap_or(DatabaseKind::Postgres)
}
