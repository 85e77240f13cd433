//! Publishing what is committed, and the chores between two batches.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use onceward::publisher::{Broker, Publisher};
use onceward::source::{Batch, Dialect, Remedy, SourceError, SourceStore, Wake, Woken};
use onceward::{Clock, LastRow, SystemClock, breach, error_chain};

use super::records::Ahead;
use super::take_over::owned;
use super::work::{Tidied, Tidying};
use super::{Exit, Reader, SourceWorker, Standing, Stop, Term};
use crate::failpoint;
use crate::metrics as names;

/// After the last row a source counts as busy for this long.
const BUSY: Duration = Duration::from_millis(10);
/// Time between two looks for replay and discard requests.
const REQUESTS: Duration = Duration::from_secs(1);

impl<D: Dialect, Br: Broker> SourceWorker<D, Br> {
    /// Publishes until something ends the term.
    pub(super) async fn tail(&mut self, term: &mut Term<D, Br>, reader: &mut Reader<D>) -> Exit {
        match self.publish_for_ever(term, reader).await {
            Ok(never) => match never {},
            Err(exit) => exit,
        }
    }

    async fn publish_for_ever(
        &mut self,
        term: &mut Term<D, Br>,
        reader: &mut Reader<D>,
    ) -> Result<Infallible, Exit> {
        let mut fetched: Option<(Batch, Option<Ahead>)> = None;
        let mut last_rows = Instant::now();
        let mut woken = Woken::Hint;
        loop {
            if self.stop.is_cancelled() {
                return Err(Exit::Stop);
            }
            // Between batches, even when rows never end. What is fetched ahead stays good: chores do
            // not move the cursor it stands behind. A replay among them is no different from one
            // before the fetch: its copies are all behind that cursor, and it goes first.
            self.chores(term).await?;
            let (mut batch, mut ahead) = match fetched.take() {
                Some(fetched) => fetched,
                None => (self.fetch(term, reader).await?, None),
            };
            if breach::is_broken(breach::SNAPSHOT_CURSOR) {
                let last = term.standing.progress.last.map_or(0, |last| last.seq);
                batch.rows.retain(|row| row.seq > last);
                ahead = None;
            }
            let nothing = batch.rows.is_empty() && !batch.more;
            self.board.set_caught_up(nothing.then(Instant::now));
            reader.share.set_backlog(batch.more);
            if batch.rows.is_empty() {
                let time = if last_rows.elapsed() < BUSY {
                    Duration::from_millis(self.options.poll_busy_ms)
                } else {
                    reader.wake.idle_poll()
                };
                woken = tokio::select! {
                    woken = reader.wake.wait(time) => woken,
                    () = self.stop.clone().cancelled_owned() => return Err(Exit::Stop),
                };
                continue;
            }
            if woken == Woken::Timeout {
                reader.wake.found_unhinted();
                woken = Woken::Hint;
            }
            failpoint::hit(failpoint::FETCHED);
            fetched = self.publish_and_fetch(term, reader, &batch, ahead).await?;
            last_rows = Instant::now();
        }
    }

    /// Publishes one batch; if more rows wait, the next one is fetched and made ready meanwhile.
    async fn publish_and_fetch(
        &mut self,
        term: &mut Term<D, Br>,
        reader: &mut Reader<D>,
        batch: &Batch,
        ahead: Option<Ahead>,
    ) -> Result<Option<(Batch, Option<Ahead>)>, Exit> {
        if !batch.more {
            Box::pin(self.publish_batch(term, batch, ahead)).await?;
            return Ok(None);
        }
        let next = batch.next();
        let last = batch.rows.last().map(|row| LastRow {
            seq: row.seq,
            message_id: row.message_id,
        });
        let limits = reader.share.limits(&self.options);
        let ahead = ahead.or_else(|| self.make_ready(term, batch));
        // What the next batch will follow, if this one is published as a whole.
        let base = ahead.as_ref().map(|ahead| ahead.prepared.progress.clone());
        let (name, topics) = (self.name.clone(), term.topics.clone());
        let read_ahead = async {
            let fetched = reader.store.fetch(&next, last, limits).await?;
            let ahead =
                base.and_then(|base| Ahead::of(&name, &base, &fetched, &topics, SystemClock.now()));
            Ok((fetched, ahead))
        };
        let (published, fetched) =
            tokio::join!(Box::pin(self.publish_batch(term, batch, ahead)), read_ahead);
        published?;
        match fetched {
            Ok(fetched) => Ok(Some(fetched)),
            Err(error) => {
                self.reconnect(&mut reader.store, &term.standing, error)
                    .await?;
                Ok(None)
            }
        }
    }

    fn make_ready(&self, term: &Term<D, Br>, batch: &Batch) -> Option<Ahead> {
        if !term.parked.is_empty() {
            return None;
        }
        let (standing, now) = (&term.standing.progress, SystemClock.now());
        Ahead::of(&self.name, standing, batch, &term.topics, now)
    }

    async fn fetch(
        &mut self,
        term: &mut Term<D, Br>,
        reader: &mut Reader<D>,
    ) -> Result<Batch, Exit> {
        loop {
            let progress = &term.standing.progress;
            let found = reader.store.fetch(
                &progress.cursor,
                progress.last,
                reader.share.limits(&self.options),
            );
            // Beside it, so that rows that come next go at once.
            match tokio::join!(found, term.publisher.get_ready()).0 {
                Ok(batch) => return Ok(batch),
                Err(error) => {
                    self.reconnect(&mut reader.store, &term.standing, error)
                        .await?;
                }
            }
        }
    }

    /// A new connection in place of one that broke, or the end of the term. What it leads to may be
    /// another server by now (a failover), so it is held against the progress before it is read or
    /// written: a mirror written first would hide what that server has lost.
    async fn reconnect(
        &mut self,
        store: &mut SourceStore<D>,
        standing: &Standing,
        error: SourceError,
    ) -> Result<(), Exit> {
        let mut error = error;
        loop {
            if error.remedy() != Remedy::Reconnect {
                return Err(owned(error));
            }
            self.database_trouble(&error).await?;
            let outcome = match store.reconnect().await {
                Ok(()) => {
                    let place = standing.place();
                    store.verify_between(&standing.progress, place).await
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok(()) => return Ok(()),
                Err(again) => error = again,
            }
        }
    }

    fn chores_are_due(&self, term: &Term<D, Br>) -> bool {
        term.work.is_back()
            || self.mirror_is_due(term)
            || self.requests_are_due()
            || self.sweeping
            || self.appointments.has_changed().unwrap_or(false)
            || term.topics.is_stale(self.refresh_interval())
    }

    fn refresh_interval(&self) -> Duration {
        Duration::from_millis(self.options.topics_refresh_ms)
    }

    /// Mirror, requests, topics, janitor: each when due. Nothing is in flight in Kafka. What writes into
    /// the database goes on beside the batches that follow.
    async fn chores(&mut self, term: &mut Term<D, Br>) -> Result<(), Exit> {
        if !self.chores_are_due(term) {
            return Ok(());
        }
        if let Some(outcome) = term.work.back().await {
            self.tidied(term, outcome).await?;
        }
        if self.requests_are_due() && !term.work.is_away() {
            // Another one may wait behind it: look again at once.
            if !Box::pin(self.next_request(term)).await? {
                self.requests_at = Some(Instant::now());
            }
        }
        if term.topics.is_stale(self.refresh_interval()) {
            self.refresh_topics(term).await?;
        }
        if self.appointments.has_changed().unwrap_or(false) {
            self.appointments.mark_unchanged();
            self.sweeping = true;
        }
        if (self.sweeping || self.mirror_is_due(term)) && !term.work.is_away() {
            self.mirrored_at = Some(Instant::now());
            term.work.tidy(Tidying {
                epoch: term.epoch,
                standing: term.standing.clone(),
                sweep: self.sweeping.then(|| self.sweep()),
            });
        }
        Ok(())
    }

    fn requests_are_due(&self) -> bool {
        self.requests_at.is_none_or(|at| at.elapsed() >= REQUESTS)
    }

    fn mirror_is_due(&self, term: &Term<D, Br>) -> bool {
        let interval = Duration::from_millis(self.options.mirror_ms);
        !term.standing.mirrored && self.mirrored_at.is_none_or(|at| at.elapsed() >= interval)
    }

    /// Mirror and janitor have written, or could not.
    async fn tidied(
        &mut self,
        term: &mut Term<D, Br>,
        outcome: Result<Tidied, SourceError>,
    ) -> Result<(), Exit> {
        let Some(done) = self.stored(term, outcome).await? else {
            return Ok(());
        };
        term.standing.mirrored = term.standing.offset == done.mirrored;
        if let Some(deleted) = done.swept {
            self.meter.add(names::SWEPT, deleted);
            self.sweeping = deleted >= u64::from(self.options.janitor_chunk_rows);
        }
        Ok(())
    }

    /// One chunk of the janitor's work: what may be deleted, and how much of it.
    fn sweep(&self) -> (i64, u32) {
        let kept = i64::try_from(self.options.retention_seconds)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000);
        let older_than = SystemClock.now().saturating_sub(kept);
        (older_than, self.options.janitor_chunk_rows)
    }

    /// Writes the mirror of what is known to be committed, and waits for it.
    pub(super) async fn write_mirror(&mut self, term: &mut Term<D, Br>) -> Result<(), Exit> {
        failpoint::hit(failpoint::MIRRORING);
        let store = term.work.store().await?;
        let written = store
            .write_mirror(term.epoch, &term.standing.progress, term.standing.place())
            .await;
        if self.stored(term, written).await?.is_some() {
            // CRASH: died here = mirror and progress agree; before = the mirror is older, and the
            // take-over counts the rows in between.
            failpoint::hit(failpoint::MIRRORED);
            term.standing.mirrored = true;
            self.mirrored_at = Some(Instant::now());
        }
        Ok(())
    }

    async fn refresh_topics(&mut self, term: &mut Term<D, Br>) -> Result<(), Exit> {
        // Not reachable now: the next batch will tell; the old counts still hold.
        let stop = self.stop.clone();
        let refreshed = tokio::select! {
            refreshed = term.topics.refresh(&self.broker, None) => refreshed,
            // A dead broker lets the question wait for many seconds.
            () = stop.cancelled_owned() => return Err(Exit::Stop),
        };
        if let Err(error) = refreshed {
            tracing::debug!(source = %self.name, error = %error, "partition counts not refreshed");
            term.topics.postpone();
            return Ok(());
        }
        for (topic, before) in &term.standing.progress.partition_counts {
            match term.topics.get(topic) {
                Some((_, now))
                    if now != *before && !breach::is_broken(breach::PARTITIONS_ARE_KEPT) =>
                {
                    return Err(Exit::Broken(Stop::repartitioned(topic, *before, now)));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Loads what is parked, after a request changed it.
    pub(super) async fn reload_parked(&mut self, term: &mut Term<D, Br>) -> Result<(), Exit> {
        loop {
            let store = term.work.store().await?;
            let parked = store.parked_keys().await;
            if let Some(parked) = self.stored(term, parked).await? {
                self.board.write(|status| status.parked_keys = parked.len());
                term.parked = parked;
                return Ok(());
            }
        }
    }

    /// A write's result: the value, or `None` after a new connection was made because the old one
    /// broke (then the caller tries again; every write of ours may repeat).
    pub(super) async fn stored<T>(
        &mut self,
        term: &mut Term<D, Br>,
        outcome: Result<T, SourceError>,
    ) -> Result<Option<T>, Exit> {
        match outcome {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                let store = term.work.store().await?;
                self.reconnect(store, &term.standing, error).await?;
                Ok(None)
            }
        }
    }

    /// The database did not answer: says so and waits a little.
    pub(super) async fn database_trouble(&mut self, error: &SourceError) -> Result<(), Exit> {
        let text = error_chain(error);
        self.board.write(|status| {
            if status.last_error.as_ref() != Some(&text) {
                tracing::warn!(source = %self.name, error = text, "database trouble; trying again");
            }
            status.last_error = Some(text);
        });
        self.pause(Duration::from_millis(200)).await
    }
}
