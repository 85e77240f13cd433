//! Replay and discard: wishes of an operator, carried out by the owner, one at a time.
//!
//! A replay publishes the copies of a parked key in order. It may take several Kafka transactions;
//! each one's progress says how far the replay came, and only after a known commit are the copies
//! deleted. While it runs no batch is published, so the key's later rows can't overtake.

use onceward::publisher::Broker;
use onceward::source::{Dialect, FetchLimits, OutboxRow, Request};
use onceward::{Clock, ReplayProgress, RequestKind, SystemClock};

use super::publish::{GivenUp, Sent};
use super::records::{self, Unready};
use super::{Exit, SourceWorker, Stop, Term};
use crate::failpoint;
use crate::metrics as names;

impl<D: Dialect, Br: Broker> SourceWorker<D, Br> {
    /// Carries out the next request, if there is one and the committed cursor has passed all
    /// copies of its key. Otherwise batches go first. Says whether it did something.
    pub(super) async fn next_request(&mut self, term: &mut Term<D, Br>) -> Result<bool, Exit> {
        let after = term
            .standing
            .progress
            .replay
            .as_ref()
            .map_or(0, |replay| replay.number);
        let store = term.work.store().await?;
        let request = store.next_request(term.epoch, after).await;
        let Some(request) = self.stored(term, request).await?.flatten() else {
            return Ok(false);
        };
        let store = term.work.store().await?;
        let passed = store
            .copies_passed(&term.standing.progress.cursor, &request)
            .await;
        if self.stored(term, passed).await? != Some(true) {
            return Ok(false);
        }
        // CRASH: died here = the successor finds the request running, with the same number.
        failpoint::hit(failpoint::REQUEST_TAKEN);
        match request.kind {
            RequestKind::Discard => {
                let store = term.work.store().await?;
                let discarded = store.discard(term.epoch, &request).await;
                if let Some(count) = self.stored(term, discarded).await? {
                    tracing::warn!(source = %self.name, topic = request.topic, rows = count,
                        "parked rows discarded");
                }
            }
            RequestKind::Replay => self.replay(term, &request).await?,
        }
        self.reload_parked(term).await?;
        Ok(true)
    }

    async fn replay(&mut self, term: &mut Term<D, Br>, request: &Request) -> Result<(), Exit> {
        let mut after = i64::MIN;
        let mut limits = FetchLimits {
            max_rows: self.options.batch_rows,
            max_bytes: self.options.batch_bytes,
        };
        let most = limits.max_rows;
        loop {
            let store = term.work.store().await?;
            let copies = store.copies(request, after, limits).await;
            let Some(copies) = self.stored(term, copies).await? else {
                continue;
            };
            let Some(last) = copies.last() else {
                return self.end_empty(term, request, after).await;
            };
            let last_seq = last.seq;
            let store = term.work.store().await?;
            let more = store.copies(request, last_seq, ONE).await;
            let Some(more) = self.stored(term, more).await? else {
                continue;
            };
            let replay = request.replayed(last_seq, more.is_empty());
            match self.replay_some(term, &copies, &replay).await? {
                Sent::Committed => {
                    // CRASH: died here = the copies are published and still stored; take-over
                    // reads the replay in the progress and deletes them before it goes on.
                    failpoint::hit(failpoint::REPLAY_COMMITTED);
                    self.meter.add(names::REPLAYED, copies.len() as u64);
                    self.settle(term, &replay).await?;
                    failpoint::hit(failpoint::REPLAY_SETTLED);
                    if replay.done {
                        tracing::info!(source = %self.name, topic = request.topic, "key replayed");
                        return Ok(());
                    }
                    (after, limits.max_rows) = (last_seq, most);
                }
                Sent::GivenUp(GivenUp { reason, .. }) => {
                    return self.refuse(term, request, &reason).await;
                }
                Sent::Refused { reason, .. } if copies.len() == 1 => {
                    return self.refuse(term, request, &reason).await;
                }
                // By prefix only: what stands before the suspect, then the suspect alone.
                Sent::Refused { record, .. } => {
                    limits.max_rows = u32::try_from(record.max(1)).unwrap_or(1);
                }
                Sent::TryAgain => {}
            }
        }
    }

    /// The key stays parked, and the operator reads why.
    async fn refuse(
        &mut self,
        term: &mut Term<D, Br>,
        request: &Request,
        reason: &str,
    ) -> Result<(), Exit> {
        tracing::error!(source = %self.name, topic = request.topic, reason,
            "replay refused; the key stays parked");
        let store = term.work.store().await?;
        let refused = store.refuse(term.epoch, request, reason).await;
        self.stored(term, refused).await?;
        Ok(())
    }

    async fn replay_some(
        &mut self,
        term: &mut Term<D, Br>,
        copies: &[OutboxRow],
        replay: &ReplayProgress,
    ) -> Result<Sent, Exit> {
        if let Some(record) = records::nameless(copies, |_| true) {
            return Ok(Sent::Refused {
                record,
                reason: records::NO_TOPIC_NAME.to_owned(),
            });
        }
        let missing = term.topics.missing(copies.iter());
        if !missing.is_empty() {
            self.learn_topics(term, missing).await?;
        }
        let prepared = records::prepare(
            &self.name,
            &term.standing.progress,
            copies,
            |_| true,
            &term.topics,
            SystemClock.now(),
        );
        let mut prepared = match prepared {
            Ok(prepared) => prepared,
            Err(Unready::UnknownTopic { topic, .. }) => {
                let given_up = self.hold_for_topic(&topic).await?;
                return Ok(given_up.map_or(Sent::TryAgain, Sent::GivenUp));
            }
            Err(Unready::Repartitioned { topic, before, now }) => {
                return Err(Exit::Broken(Stop::repartitioned(&topic, before, now)));
            }
        };
        prepared.progress.replay = Some(replay.clone());
        // CRASH: died here = nothing of this part is published; the successor begins it again.
        failpoint::hit(failpoint::REPLAY_PUBLISHING);
        self.send(term, &prepared.records, prepared.progress).await
    }

    /// Deletes what a known commit published; goes on trying, because going on without it would
    /// publish the copies a second time.
    async fn settle(
        &mut self,
        term: &mut Term<D, Br>,
        replay: &ReplayProgress,
    ) -> Result<(), Exit> {
        loop {
            let store = term.work.store().await?;
            let settled = store.finish_replay(term.epoch, replay).await;
            if self.stored(term, settled).await?.is_some() {
                return Ok(());
            }
        }
    }

    /// No copies are left: either the last part is published and its clean-up done, or there never
    /// were any.
    async fn end_empty(
        &mut self,
        term: &mut Term<D, Br>,
        request: &Request,
        after: i64,
    ) -> Result<(), Exit> {
        if after == i64::MIN {
            let store = term.work.store().await?;
            let refused = store
                .refuse(term.epoch, request, "nothing is parked under this key")
                .await;
            self.stored(term, refused).await?;
        }
        Ok(())
    }
}

const ONE: FetchLimits = FetchLimits {
    max_rows: 1,
    max_bytes: u64::MAX,
};
