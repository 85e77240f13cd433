//! Renews the lease beside the work, so that a Kafka that blocks does not cost the source.

use std::time::{Duration, Instant};

use onceward::source::{Backlog, Dialect, LEASE_RENEW, LEASE_TTL, RelayEpoch, Remedy, SourceStore};
use onceward::{Clock, SourceName, SystemClock};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::meter::Meter;
use crate::status::Board;

/// Unpublished rows are counted up to here.
const COUNTED: u32 = 20_000;

/// Counting takes at most this part of the time.
const COUNT_EVERY: u32 = 10;

/// A lease being renewed. Dropping it stops the renewal and loses the connection.
pub(super) struct Lease<D: Dialect> {
    lost: CancellationToken,
    enough: CancellationToken,
    task: JoinSet<SourceStore<D>>,
}

impl<D: Dialect> Lease<D> {
    /// Renews `epoch` on the connection that claimed it: on SQLite that one holds the lock file.
    /// Writes the backlog to `board` on the way.
    pub(super) fn keep(
        name: SourceName,
        store: SourceStore<D>,
        epoch: RelayEpoch,
        board: Board,
    ) -> Self {
        let (lost, enough) = (CancellationToken::new(), CancellationToken::new());
        let mut task = JoinSet::new();
        let keeper = Keeper {
            meter: Meter::new(&name),
            name,
            epoch,
            board,
            lost: lost.clone(),
            enough: enough.clone(),
        };
        task.spawn(keeper.renew(store));
        Self { lost, enough, task }
    }

    /// Comes when the lease is lost: another relay claimed, or the database did not answer for the
    /// lease's whole time.
    pub(super) fn lost(&self) -> impl Future<Output = ()> + Send + use<D> {
        self.lost.clone().cancelled_owned()
    }

    /// Ends the renewal and gives the connection back.
    pub(super) async fn end(mut self) -> Option<SourceStore<D>> {
        self.enough.cancel();
        self.task.join_next().await?.ok()
    }
}

struct Keeper {
    name: SourceName,
    epoch: RelayEpoch,
    board: Board,
    meter: Meter,
    lost: CancellationToken,
    enough: CancellationToken,
}

impl Keeper {
    async fn renew<D: Dialect>(self, mut store: SourceStore<D>) -> SourceStore<D> {
        // Counted from before the claim or renewal was sent: the database's clock started later.
        let mut held_since = Instant::now();
        let mut wait = LEASE_RENEW;
        let mut count_at = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.enough.clone().cancelled_owned() => return store,
            }
            let asked = Instant::now();
            let outcome = tokio::select! {
                outcome = tokio::time::timeout(LEASE_TTL, store.renew(self.epoch)) => outcome,
                () = self.enough.clone().cancelled_owned() => return store,
            };
            wait = LEASE_RENEW;
            match outcome {
                Ok(Ok(())) => {
                    held_since = asked;
                    let begun = Instant::now();
                    if begun >= count_at {
                        let counting = tokio::time::timeout(LEASE_TTL, self.count(&mut store));
                        let counted = counting.await.is_ok();
                        count_at = begun + begun.elapsed() * COUNT_EVERY;
                        if !counted {
                            // Nothing answers. The connection is in the midst of something, with a limit of its own.
                            let _ = tokio::time::timeout(LEASE_TTL, store.reconnect()).await;
                            wait = Duration::from_millis(100);
                        }
                    }
                }
                Ok(Err(error)) if error.remedy() == Remedy::Reconnect => {
                    tracing::warn!(source = %self.name, error = %error, "lease not renewed; trying again");
                    let _ = tokio::time::timeout(LEASE_TTL, store.reconnect()).await;
                    wait = Duration::from_millis(100);
                }
                Ok(Err(error)) => {
                    tracing::debug!(source = %self.name, error = %error, "lease lost");
                    self.lost.cancel();
                    return store;
                }
                Err(_) => {
                    let _ = tokio::time::timeout(LEASE_TTL, store.reconnect()).await;
                    wait = Duration::from_millis(100);
                }
            }
            if held_since.elapsed() > LEASE_TTL {
                self.lost.cancel();
                return store;
            }
        }
    }

    /// Counts what waits, on this connection: it goes on while Kafka blocks the worker.
    async fn count<D: Dialect>(&self, store: &mut SourceStore<D>) {
        // An idle worker has just looked.
        let caught_up = self.board.caught_up();
        if caught_up.is_some_and(|at| at.elapsed() < LEASE_RENEW) {
            self.show(Backlog::default());
            return;
        }
        let cursor = match self.board.read().cursor {
            Some(cursor) => cursor,
            // Not taken over yet: the mirror is the best that is known.
            None => match store.mirror().await {
                Ok(mirror) => mirror.map_or_else(D::genesis, |mirror| mirror.cursor),
                Err(_) => return,
            },
        };
        // Else the next renewal tells what is wrong.
        if let Ok(backlog) = store.backlog(&cursor, COUNTED).await {
            self.show(backlog);
        }
    }

    fn show(&self, backlog: Backlog) {
        let now = SystemClock.now();
        let age = backlog.oldest.map(|at| now.saturating_sub(at).max(0));
        self.meter.backlog(backlog.rows, age.unwrap_or(0));
        self.board.write(|status| {
            status.unpublished_rows = Some(backlog.rows);
            status.unpublished_capped = backlog.capped;
            status.oldest_age_ms = age.map(|age| age / 1000);
        });
    }
}
