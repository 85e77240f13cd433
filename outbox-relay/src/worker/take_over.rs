//! From standby to a term: look, claim, fence, read, check.

use std::sync::Arc;
use std::time::{Duration, Instant};

use onceward::publisher::{Broker, BrokerError, CommittedProgress, PublishOutcome, Publisher};
use onceward::source::{
    Claim, Dialect, Loss, Mirror, ProgressPlace, RelayEpoch, Remedy, SourceError, SourceStore,
};
use onceward::{ProgressRecord, breach, error_chain};

use super::lease::Lease;
use super::standing::Standing;
use super::topics::Topics;
use super::work::Work;
use super::{Exit, Reader, Share, SourceWorker, Stop, Term};
use crate::failpoint;
use crate::metrics as names;
use crate::phase::Input;

/// How long a standby waits between two asks for the lease.
const ASK: Duration = Duration::from_millis(250);
/// How long a database may take to answer a standby; longer than it may wait for a lock.
const ANSWER: Duration = Duration::from_secs(10);
/// Terms in a row that published nothing before it is an alarm.
const FRUITLESS: u32 = 5;
/// A term that lasted longer has not failed at once, even if it published nothing.
const LASTING: Duration = Duration::from_secs(10);
/// How long a look is good for.
const LOOK: Duration = Duration::from_secs(10);

impl<D: Dialect, Br: Broker> SourceWorker<D, Br> {
    /// From standby to the end of one ownership.
    pub(super) async fn own_once(&mut self) -> Exit {
        let (store, epoch) = match self.stand_by().await {
            Ok(claimed) => claimed,
            Err(exit) => return exit,
        };
        let lease = Lease::keep(self.name.clone(), store, epoch, self.board.clone());
        let exit = tokio::select! {
            exit = Box::pin(self.own(epoch)) => exit,
            () = lease.lost() => Exit::Lost("the lease is lost".into()),
        };
        let store = lease.end().await;
        if let (Exit::Stop | Exit::Broken(_), Some(mut store)) = (&exit, store) {
            // CRASH: died here = the lease runs out by itself.
            failpoint::hit(failpoint::RELEASING);
            let release = tokio::time::timeout(Duration::from_millis(500), store.release(epoch));
            if !matches!(release.await, Ok(Ok(()))) {
                tracing::warn!(source = %self.name, "lease not released; it runs out by itself");
            }
        }
        exit
    }

    /// Waits until the source can be claimed, and claims it.
    async fn stand_by(&mut self) -> Result<(SourceStore<D>, RelayEpoch), Exit> {
        let stop = self.stop.clone();
        let mut store = self.open_store().await?;
        let mut looked: Option<Instant> = None;
        loop {
            self.step(Input::LeaseFree)?;
            if looked.is_none_or(|at| at.elapsed() > LOOK) {
                tokio::select! {
                    outcome = Box::pin(self.look(&mut store)) => outcome?,
                    () = stop.clone().cancelled_owned() => return Err(Exit::Stop),
                }
                looked = Some(Instant::now());
            }
            self.step(Input::Ours)?;
            let claim = store.claim(&self.options.instance_id, self.may_retake);
            let claim = in_time(claim).await?;
            self.may_retake = false;
            match claim {
                Claim::Owned(epoch) => {
                    // CRASH: died here = the lease runs out; nothing is fenced yet.
                    failpoint::hit(failpoint::CLAIMED);
                    self.step(Input::Claimed)?;
                    tracing::info!(source = %self.name, epoch = epoch.0, "source claimed");
                    let owner = self.options.instance_id.clone();
                    self.board.write(|status| {
                        status.owner = Some(owner);
                        status.relay_epoch = Some(epoch.0);
                    });
                    return Ok((store, epoch));
                }
                Claim::Held { owner, expires_in } => {
                    self.step(Input::NotClaimed)?;
                    let fight = self.is_fought_for();
                    self.meter.alarm(fight);
                    // The owner tells: what we saw last would stand here for ever.
                    self.meter.backlog(0, 0);
                    self.board.write(|status| {
                        status.owner = Some(owner);
                        status.relay_epoch = None;
                        status.unpublished_rows = None;
                        status.oldest_age_ms = None;
                        status.alarm = fight;
                        status.last_error = None;
                        status.way_out = None;
                    });
                    self.pause(expires_in.clamp(Duration::from_millis(20), ASK))
                        .await?;
                }
            }
        }
    }

    /// Reads progress without a producer of our own: what belongs to another database, epoch or
    /// cluster stops here, and fences nobody.
    async fn look(&mut self, store: &mut SourceStore<D>) -> Result<(), Exit> {
        self.broker
            .ensure_progress_topic(&self.name)
            .await
            .map_err(unreachable)?;
        let identity = in_time(store.identity()).await?;
        let mirror = in_time(store.mirror()).await?;
        let from = mirror.as_ref().map(|mirror| mirror.progress_offset);
        let found = self
            .broker
            .look(&self.name, from)
            .await
            .map_err(unreachable)?;
        match found.record {
            Some((offset, progress)) => {
                let place = ProgressPlace {
                    offset,
                    topic_id: &found.topic_id,
                    cluster_id: &found.cluster_id,
                };
                // The owner may have moved both on since the two were read; only what can't come
                // from that is a stop here. Take-over checks the rest when nothing moves any more.
                if progress.source_id != identity.source_id || progress.epoch != identity.epoch {
                    store
                        .verify_between(&progress, place)
                        .await
                        .map_err(unowned)?;
                }
                Ok(())
            }
            // The mirror as read *before* the look: another relay's first start may have written both
            // since.
            None => match mirror {
                None => Ok(()),
                Some(mirror) => self.look_again(mirror.passed).await,
            },
        }
    }

    /// Progress that the mirror knows of was not seen. A commit is answered before its markers are written,
    /// and until then a look finds nothing of a first start: so read to the end of what is under way
    /// before calling it a loss.
    async fn look_again(&mut self, passed: i64) -> Result<(), Exit> {
        let found = self.broker.read_progress(&self.name, None).await;
        match found.map_err(unreachable)?.record {
            Some(_) => Err(Exit::Unreachable(
                "the first progress was not visible yet".into(),
            )),
            None if breach::is_broken(breach::PROGRESS_IS_THERE) => Ok(()),
            None => Err(unowned(SourceError::Lost(Loss::ProgressMissing { passed }))),
        }
    }

    /// Works until the ownership ends: term after term.
    async fn own(&mut self, epoch: RelayEpoch) -> Exit {
        let stop = self.stop.clone();
        let mut anew = 0_u32;
        loop {
            let outcome = tokio::select! {
                outcome = Box::pin(self.open_term(epoch)) => outcome,
                () = stop.clone().cancelled_owned() => return Exit::Stop,
            };
            let exit = match outcome {
                Ok((mut term, mut reader)) => {
                    let (begun, offset) = (Instant::now(), term.standing.offset);
                    if anew >= FRUITLESS {
                        self.alarm_fruitless(anew);
                    }
                    let exit = Box::pin(self.tail(&mut term, &mut reader)).await;
                    // What failed at once fails again at once: not a reason to try faster.
                    if term.standing.offset > offset || begun.elapsed() > LASTING {
                        anew = 0;
                    }
                    if matches!(exit, Exit::Stop) && !term.standing.mirrored {
                        let write = self.write_mirror(&mut term);
                        let _ = tokio::time::timeout(Duration::from_millis(400), write).await;
                    }
                    exit
                }
                Err(exit) => exit,
            };
            let exit = match exit {
                Exit::Broken(stop) => self.believe(epoch, stop).await,
                other => other,
            };
            let Exit::Anew(reason) = exit else {
                return exit;
            };
            tracing::warn!(source = %self.name, reason, "taking over anew");
            self.board.write(|status| status.last_error = Some(reason));
            if let Err(exit) = self.step(Input::Anew) {
                return exit;
            }
            // At once the first time, then slower: an unreachable Kafka stays so for a while.
            let wait = Duration::from_millis(50_u64.saturating_mul(u64::from(anew)).min(1_000));
            anew = anew.saturating_add(1);
            if let Err(exit) = self.pause(wait).await {
                return exit;
            }
        }
    }

    fn alarm_fruitless(&self, times: u32) {
        self.meter.alarm(true);
        self.board.write(|status| {
            tracing::error!(source = %self.name, times, reason = status.last_error,
                "taking over anew again and again without publishing anything");
            status.alarm = true;
            status.way_out = Some(
                "the reason tells what Kafka answers; the source goes on by itself".to_owned(),
            );
        });
    }

    /// Whether a stop found while owning is one. A relay that was replaced without noticing (frozen,
    /// cut off) compares its old progress with what its successor wrote and swept since, which looks
    /// like a loss. The successor claimed before it wrote: so the claim tells.
    async fn believe(&mut self, epoch: RelayEpoch, stop: Stop) -> Exit {
        let mut store = match self.reach().await {
            Ok(store) => store,
            Err(Exit::Stop) => return Exit::Stop,
            Err(_) => return Exit::Broken(stop),
        };
        match store.identity().await {
            Ok(identity) if identity.relay_epoch != epoch.0 => {
                Exit::Lost("another relay owns this source now".into())
            }
            _ => Exit::Broken(stop),
        }
    }

    /// A producer of our own, and the progress it resumes from.
    async fn open_term(&mut self, epoch: RelayEpoch) -> Result<(Term<D, Br>, Reader<D>), Exit> {
        let mut work = self.reach().await?;
        let (publisher, mirror, found) = self.fence_and_read(&mut work).await?;
        let mut term = Term {
            epoch,
            work: Work::new(work),
            publisher,
            // Until it is known: nothing.
            standing: Standing {
                progress: ProgressRecord::genesis(
                    onceward::SourceId(uuid::Uuid::nil()),
                    0,
                    D::genesis(),
                ),
                offset: -1,
                topic_id: found.topic_id,
                cluster_id: found.cluster_id,
                mirrored: true,
                full: None,
            },
            parked: Default::default(),
            topics: Topics::default(),
        };
        match found.record {
            Some((offset, progress)) => {
                if mirror.is_none() && progress.passed > 0 {
                    return Err(Exit::Broken(Stop::mirror_missing(
                        &self.name.progress_topic(),
                        progress.passed,
                    )));
                }
                term.standing.progress = progress;
                term.standing.offset = offset;
                if breach::is_broken(breach::POSITION_IN_KAFKA) {
                    term.standing.fall_back(mirror);
                }
            }
            None => {
                term.work
                    .store()
                    .await?
                    .progress_may_be_missing()
                    .await
                    .map_err(owned)?;
                self.genesis(&mut term).await?;
            }
        }
        let store = term.work.store().await?;
        let taken = store
            .take_over(epoch, &term.standing.progress, term.standing.place())
            .await;
        term.parked = taken.map_err(owned)?;
        // CRASH: died here = as after any stop: mirror and progress agree.
        failpoint::hit(failpoint::TAKEN_OVER);
        if term.standing.progress.position == 0 {
            failpoint::hit(failpoint::GENESIS_MIRRORED);
        }
        for topic in &self.options.accept_repartitioned {
            let counts = &mut term.standing.progress.partition_counts;
            if counts.remove(topic).is_some() {
                tracing::warn!(source = %self.name, topic, "its partition count now is accepted");
            }
        }
        let mut store = self.reach().await?;
        let wake = store.wake().await.map_err(owned)?;
        store
            .verify_between(&term.standing.progress, term.standing.place())
            .await
            .map_err(owned)?;
        self.step(Input::TakenOver)?;
        self.meter.count(names::TAKE_OVERS);
        let fight = self.is_fought_for();
        self.meter.alarm(fight);
        self.show_standing(&term);
        self.board.write(|status| {
            status.parked_keys = term.parked.len();
            status.alarm = fight;
            status.way_out = None;
        });
        tracing::info!(
            source = %self.name, epoch = epoch.0, position = term.standing.progress.position,
            passed = term.standing.progress.passed, "source taken over"
        );
        let share = Share::of(self.backlogs.clone());
        Ok((term, Reader { store, wake, share }))
    }

    /// Fences every older producer, and reads the progress that nobody else can change any more.
    async fn fence_and_read(
        &mut self,
        store: &mut SourceStore<D>,
    ) -> Result<(Br::Publisher, Option<Mirror>, CommittedProgress), Exit> {
        let too_early = match breach::is_broken(breach::FENCE_FIRST) {
            true => self.broker.look(&self.name, None).await.ok(),
            false => None,
        };
        let publisher = loop {
            match self.broker.open(&self.name).await {
                Ok(publisher) => break publisher,
                Err(error) => self.broker_trouble(error).await?,
            }
        };
        // CRASH: died here = older producers are fenced, their open transaction is aborted.
        failpoint::hit(failpoint::OPENED);
        self.step(Input::Opened)?;
        let mirror = store.mirror().await.map_err(owned)?;
        let from = mirror.as_ref().map(|mirror| mirror.progress_offset);
        let found = loop {
            match self.broker.read_progress(&self.name, from).await {
                Ok(found) => break too_early.unwrap_or(found),
                Err(error) => self.broker_trouble(error).await?,
            }
        };
        failpoint::hit(failpoint::PROGRESS_READ);
        self.step(Input::ProgressRead)?;
        Ok((publisher, mirror, found))
    }

    /// The first start: progress in Kafka, then the mirror (by the take-over), then rows.
    async fn genesis(&mut self, term: &mut Term<D, Br>) -> Result<(), Exit> {
        let store = term.work.store().await?;
        let identity = store.identity().await.map_err(owned)?;
        let first = ProgressRecord::genesis(identity.source_id, identity.epoch, D::genesis());
        match term.publisher.publish(&Arc::default(), &first).await {
            PublishOutcome::Committed {
                progress_offset,
                dirty,
            } => {
                // CRASH: died here = genesis in Kafka without a mirror; the successor finds it and
                // writes the mirror.
                failpoint::hit(failpoint::GENESIS_COMMITTED);
                if dirty {
                    return Err(Exit::Anew("trouble while committing genesis".into()));
                }
                tracing::info!(source = %self.name, "first start: genesis committed");
                term.standing.progress = first;
                term.standing.offset = progress_offset;
                Ok(())
            }
            PublishOutcome::NotCommitted(refusal) => Err(Exit::Anew(refusal.to_string())),
            PublishOutcome::Unknown(reason) => Err(Exit::Anew(reason)),
            PublishOutcome::Fenced => Err(Exit::Lost("fenced by a newer relay".into())),
        }
    }

    /// A connection while nothing is owned: one try.
    async fn open_store(&mut self) -> Result<SourceStore<D>, Exit> {
        in_time(SourceStore::open(self.url.reveal(), &self.name)).await
    }

    /// A connection while the source is owned: tries until the lease is gone.
    pub(super) async fn reach(&mut self) -> Result<SourceStore<D>, Exit> {
        loop {
            match SourceStore::open(self.url.reveal(), &self.name).await {
                Ok(store) => return Ok(store),
                Err(error) if error.remedy() == Remedy::Reconnect => {
                    self.database_trouble(&error).await?;
                }
                Err(error) => return Err(owned(error)),
            }
        }
    }
}

/// What the database answers while nothing is owned; an owner is watched by its lease instead. A
/// connection that a network lost without a word must not keep a standby from taking over.
async fn in_time<T>(asked: impl Future<Output = Result<T, SourceError>>) -> Result<T, Exit> {
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(answer) => answer.map_err(unowned),
        Err(_) => Err(Exit::Unreachable("the database does not answer".into())),
    }
}

/// What a database error means before anything is owned.
fn unowned(error: SourceError) -> Exit {
    match error.remedy() {
        Remedy::Reconnect => Exit::Unreachable(error_chain(&error)),
        Remedy::StandBy => Exit::Unreachable(error.to_string()),
        Remedy::Halt => Exit::Broken(Stop::source(&error)),
    }
}

/// What it means while the source is owned.
pub(super) fn owned(error: SourceError) -> Exit {
    match error.remedy() {
        Remedy::Reconnect => Exit::Anew(error_chain(&error)),
        Remedy::StandBy => Exit::Lost(error.to_string()),
        Remedy::Halt => Exit::Broken(Stop::source(&error)),
    }
}

/// What Kafka's error means before anything is owned.
fn unreachable(error: BrokerError) -> Exit {
    match error {
        BrokerError::Unavailable(_) | BrokerError::Fenced => Exit::Unreachable(error.to_string()),
        BrokerError::Configuration(_) | BrokerError::HangingTransaction { .. } => {
            Exit::Refused(Stop::broker(&error))
        }
        BrokerError::Unreadable { .. } => Exit::Broken(Stop::broker(&error)),
    }
}
