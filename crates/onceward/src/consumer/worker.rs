//! The loop's state: what is held and pending, how it is claimed, and what trouble does to it. The
//! work itself is done by [`super::round`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::batch::Stop;
use super::claim::{Guard, Owned, claim, hold, set_stopped};
use super::entry::Entry;
use super::error_text::chain;
use super::options::jittered;
use super::queue::Queues;
use super::subscriber::Item;
use super::{
    AssignedPartition, Command, ConsumerOptions, ConsumerState, Handle, Handlers, PartitionStatus,
    Retention, StartAt, Subscription, TopicPartition,
};
use crate::{Backend, Clock, Db, Error, Tx, WriteError, metrics};

/// A partition this instance has claimed.
pub(super) struct Held {
    pub(super) guard: Guard,
    pub(super) topic_id: String,
    /// As committed in the database.
    pub(super) next_offset: i64,
    /// Of the record before `next_offset` when it was claimed.
    leader_epoch: Option<i32>,
    /// Nothing of it was handled since the claim.
    pub(super) fresh: bool,
    /// Behind the last record taken from the line; below it nothing is taken twice.
    pub(super) position: i64,
    pub(super) queues: Queues,
    pub(super) retention: Retention,
    pub(super) log_end: Option<i64>,
    /// Everything below this offset was taken, and nothing came since.
    pub(super) end: Option<i64>,
    pub(super) advanced: Instant,
    pub(super) paused: bool,
    pub(super) stopped: Option<String>,
}

pub(super) struct Worker<B: Backend> {
    pub(super) db: Db<B>,
    pub(super) handlers: Arc<Handlers<B>>,
    pub(super) options: Arc<ConsumerOptions>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) subscription: Subscription,
    pub(super) handle: Handle,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) generation: u64,
    pub(super) held: BTreeMap<TopicPartition, Held>,
    pub(super) pending: VecDeque<Arc<Entry>>,
    /// Records of one batch at most: few after a claim and twice as many after each batch, so that one that
    /// ends the process takes few others with it.
    pub(super) eased: usize,
    /// The message that ended in a deadlock while it was alone in its transaction, and how often.
    pub(super) deadlocked: Blamed,
    /// The same of one that took longer than a unit of work may.
    pub(super) slow: Blamed,
    /// How many of `pending` are run one by one, after a failure.
    pub(super) careful: usize,
    /// Some of `pending` were handled before, as after an offset that was set back.
    pub(super) look_first: bool,
    /// Database trouble: no work before this.
    pub(super) not_before: Option<Instant>,
    pub(super) fault_count: u32,
    pub(super) reassign_at: Option<Instant>,
    pub(super) fences: VecDeque<Instant>,
    pub(super) uncommitted: BTreeSet<TopicPartition>,
    pub(super) committed_at: Instant,
    pub(super) requests_at: Instant,
    pub(super) janitor_at: Instant,
}

/// Why a transaction of the loop did not come about.
pub(super) enum Failure {
    Stop(Stop),
    CommitUnknown(String),
}

impl<E: Into<Stop>> From<WriteError<E>> for Failure
where
    WriteError<E>: std::error::Error + 'static,
{
    fn from(error: WriteError<E>) -> Self {
        match error {
            WriteError::Refused(stop) => Self::Stop(stop.into()),
            WriteError::CommitUnknown(error) => Self::CommitUnknown(chain(&error)),
            other => Self::Stop(Stop::Fault(chain(&other))),
        }
    }
}

impl Failure {
    /// In words.
    fn text(self) -> String {
        match self {
            Self::CommitUnknown(why) | Self::Stop(Stop::Fault(why) | Stop::Deadlock(why)) => why,
            Self::Stop(Stop::Fenced(at)) => format!("a newer owner has claimed {at}"),
            Self::Stop(Stop::OneByOne) => "a message failed".to_owned(),
            Self::Stop(Stop::LookFirst) => "some of the messages are known".to_owned(),
        }
    }
}

/// A message and how often in a row.
pub(super) type Blamed = Option<(TopicPartition, i64, u32)>;

/// Offsets go to Kafka at most this often.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Longest pause after a deadlock: it is over, and the messages behind the one to blame wait.
const DEADLOCK_BACKOFF: Duration = Duration::from_millis(500);
/// More fenced batches than this within a minute are an alarm.
const FENCED_ALARM: usize = 3;

impl<B: Backend> Worker<B> {
    pub(super) fn new(
        db: Db<B>,
        handlers: Arc<Handlers<B>>,
        options: Arc<ConsumerOptions>,
        clock: Arc<dyn Clock>,
        subscription: Subscription,
        handle: Handle,
        commands: mpsc::UnboundedSender<Command>,
    ) -> Self {
        let now = Instant::now();
        Self {
            db,
            handlers,
            options,
            clock,
            subscription,
            handle,
            commands,
            generation: 0,
            held: BTreeMap::new(),
            pending: VecDeque::new(),
            eased: 1,
            deadlocked: None,
            slow: None,
            careful: 0,
            look_first: false,
            not_before: None,
            fault_count: 0,
            reassign_at: None,
            fences: VecDeque::new(),
            uncommitted: BTreeSet::new(),
            committed_at: now,
            requests_at: now,
            janitor_at: now,
        }
    }

    /// How many records may be taken now.
    pub(super) fn room(&self) -> usize {
        let bytes: usize = self.pending.iter().map(|entry| entry.bytes).sum();
        if bytes >= self.options.max_batch_bytes {
            return 0;
        }
        self.options
            .max_batch_records
            .saturating_sub(self.pending.len())
    }

    /// Claims the partitions, however long the database takes; `None` when stopping.
    pub(super) async fn assigned(
        &mut self,
        generation: u64,
        partitions: Vec<AssignedPartition>,
        stop: &CancellationToken,
    ) -> Option<Vec<StartAt>> {
        self.revoked();
        let partitions = Arc::new(partitions);
        loop {
            match self.claim_all(Arc::clone(&partitions)).await {
                Ok(held) => {
                    self.held = held;
                    break;
                }
                Err(failure) => self.fault(&failure.text()),
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(self.backoff()) => {}
            }
        }
        self.recovered();
        self.eased = 1;
        self.generation = generation;
        self.publish_status();
        let starts = self.held.values().map(|held| {
            if let Some(why) = &held.stopped {
                tracing::error!(consumer = %self.options.name, error = why, "partition stopped");
            }
            StartAt {
                at: held.guard.at.clone(),
                offset: held.stopped.is_none().then_some(held.next_offset),
                leader_epoch: held.leader_epoch,
            }
        });
        Some(starts.collect())
    }

    async fn claim_all(
        &self,
        partitions: Arc<Vec<AssignedPartition>>,
    ) -> Result<BTreeMap<TopicPartition, Held>, Failure> {
        let (source_id, now) = (self.subscription.source_id, self.clock.now());
        // Each partition in a unit of work of its own: together, many partitions with long queues
        // could never be read within the time of one.
        let claims = partitions.iter().map(|partition| {
            let (options, partition) = (Arc::clone(&self.options), partition.clone());
            self.db.write(async move |tx: &mut Tx<'static, B>| {
                let (name, owner) = (&options.name, options.instance_id.as_deref());
                let claimed = claim(tx, name, owner, source_id, &partition, now).await?;
                let queues = Queues::load(tx, name, &partition.at).await?;
                // CRASH: died after the commit = the epoch is raised and nobody reads; the next
                // claim raises it again. Every older owner is fenced either way.
                Ok::<_, Error>((claimed, queues))
            })
        });
        // To the end of all, even if one fails: a claim that is left behind in the writer's queue
        // would fence the next try's.
        let claims = futures::future::join_all(claims).await;
        claims
            .into_iter()
            .zip(partitions.iter())
            .map(|(claimed, found)| {
                let (claimed, queues) = claimed?;
                let held = Held {
                    guard: Guard {
                        at: claimed.at.clone(),
                        owner_epoch: claimed.owner_epoch,
                    },
                    topic_id: claimed.topic_id,
                    next_offset: claimed.next_offset,
                    leader_epoch: claimed.leader_epoch,
                    fresh: true,
                    position: claimed.next_offset,
                    queues,
                    retention: found.retention,
                    log_end: Some(found.log_end),
                    end: None,
                    advanced: Instant::now(),
                    paused: false,
                    stopped: claimed.stopped,
                };
                Ok((claimed.at, held))
            })
            .collect()
    }

    /// Nothing is ours any more.
    pub(super) fn revoked(&mut self) {
        self.held.clear();
        self.pending.clear();
        self.uncommitted.clear();
        self.careful = 0;
        self.reassign_at = None;
        self.generation = 0;
        self.publish_status();
    }

    pub(super) fn log_end(&mut self, at: &TopicPartition, offset: i64) {
        if let Some(held) = self.held.get_mut(at) {
            held.log_end = Some(offset);
        }
        self.publish_status();
    }

    pub(super) fn trouble(&mut self, what: Option<String>) {
        self.handle.change(|status| status.trouble = what);
    }

    /// Says it once for each reason.
    pub(super) fn refused(&mut self, what: String) {
        let before = self.handle.set_refusal(Some(what.clone()));
        if before.as_ref() != Some(&what) {
            tracing::error!(consumer = %self.options.name, reason = what,
                "Kafka refuses this consumer; it goes on by itself once that is mended");
        }
        self.trouble(Some(what));
    }

    /// Kafka works.
    pub(super) fn well(&mut self) {
        self.handle.set_refusal(None);
        self.trouble(None);
    }

    /// Says it each time, for as long as the two take turns.
    pub(super) fn instance_conflict(&mut self) {
        let id = self.options.instance_id.as_deref().unwrap_or_default();
        let what = format!("another process runs with the same instance id {id:?}");
        tracing::error!(consumer = %self.options.name, instance = id,
            "another process runs with the same instance id: the two take turns, each dropping the \
             other's work; give each instance an id of its own");
        let labels = [("consumer", self.options.name.to_string())];
        ::metrics::counter!(metrics::INSTANCE_CONFLICTS, &labels).increment(1);
        self.trouble(Some(what));
    }

    /// The position is not in the log: stop this partition, the others go on.
    pub(super) async fn out_of_range(&mut self, at: &TopicPartition, reason: String) {
        let Some(held) = self.held.get_mut(at) else {
            return;
        };
        tracing::error!(consumer = %self.options.name, error = reason, "partition stopped");
        held.stopped = Some(reason.clone());
        let (name, guard) = (self.options.name.clone(), held.guard.clone());
        self.pending.retain(|entry| entry.at != *at);
        self.careful = self.careful.min(self.pending.len());
        self.command(Command::Pause(at.clone()));
        let stored = self
            .db
            .write(async move |tx: &mut Tx<'static, B>| {
                // A newer owner knows better.
                match hold(tx, &name, &guard).await {
                    Ok(Owned::Fenced) => Ok(()),
                    Ok(Owned::Mine) => set_stopped(tx, &name, &guard.at, Some(&reason)).await,
                    Err(error) => Err(Error::database("partition stop")(error)),
                }
            })
            .await;
        if let Err(error) = stored {
            self.fault(&Failure::from(error).text());
        }
        self.publish_status();
    }

    /// Takes records from the line into memory; what is not ours or was taken before is dropped.
    pub(super) fn take(&mut self, items: impl Iterator<Item = Item>) {
        for item in items {
            match item {
                Item::Record { generation, record } if generation == self.generation => {
                    let Some(held) = self.held.get_mut(&record.at) else {
                        continue;
                    };
                    if record.offset < held.position || held.stopped.is_some() {
                        continue;
                    }
                    held.position = record.offset + 1;
                    held.log_end = held.log_end.max(Some(held.position));
                    held.end = None;
                    let entry = Entry::new(record, &held.topic_id);
                    self.pending.push_back(Arc::new(entry));
                }
                Item::End {
                    generation,
                    at,
                    offset,
                } if generation == self.generation => {
                    if let Some(held) = self.held.get_mut(&at)
                        && held.position <= offset
                    {
                        held.end = Some(offset);
                    }
                }
                // Of an assignment that is over.
                Item::Record { .. } | Item::End { .. } => {}
            }
        }
    }

    /// How long there is nothing to do unless something comes in.
    pub(super) fn idle_time(&self) -> Duration {
        let now = Instant::now();
        if let Some(at) = self.not_before {
            return at.saturating_duration_since(now);
        }
        let mut idle = self.requests_at.saturating_duration_since(now);
        if let Some(at) = self.reassign_at {
            idle = idle.min(at.saturating_duration_since(now));
        }
        let held = self.held.values().filter(|held| held.stopped.is_none());
        if let Some(due) = held.filter_map(|held| held.queues.next_due()).min() {
            let micros = u64::try_from(due - self.clock.now()).unwrap_or(0);
            idle = idle.min(Duration::from_micros(micros));
        }
        if self.pending.is_empty() {
            idle
        } else {
            Duration::ZERO
        }
    }

    pub(super) fn failed(&mut self, failure: Failure) {
        match failure {
            // Nothing was committed; what is in memory still holds.
            Failure::Stop(Stop::Fault(why)) => self.fault(&why),
            Failure::Stop(Stop::Deadlock(why)) => {
                self.fault(&why);
                let soon = Instant::now() + jittered(DEADLOCK_BACKOFF, 0.5);
                self.not_before = self.not_before.min(Some(soon));
            }
            Failure::Stop(Stop::OneByOne) => self.careful = self.pending.len(),
            Failure::Stop(Stop::LookFirst) => self.look_first = true,
            Failure::Stop(Stop::Fenced(at)) => {
                let now = Instant::now();
                self.fences.push_back(now);
                ::metrics::counter!(metrics::FENCED, "consumer" => self.options.name.to_string())
                    .increment(1);
                let count = self.fenced_last_minute();
                tracing::warn!(consumer = %self.options.name, partition = %at, count,
                    "fenced: a newer owner has claimed, all work is dropped");
                if count > FENCED_ALARM {
                    tracing::error!(consumer = %self.options.name, count,
                        "fenced again and again: do two instances share partitions?");
                }
                self.revoked();
                let wait = Duration::from_secs(1) + jittered(Duration::from_millis(250), 1.0);
                self.reassign_at = Some(now + wait);
            }
            Failure::CommitUnknown(why) => {
                // What is in memory may be behind the database: claim, and read it again.
                self.fault(&format!("outcome of a commit is unknown: {why}"));
                self.revoked();
                self.reassign_at = self.not_before;
            }
        }
    }

    fn fenced_last_minute(&mut self) -> usize {
        while let Some(first) = self.fences.front()
            && first.elapsed() > Duration::from_secs(60)
        {
            self.fences.pop_front();
        }
        self.fences.len()
    }

    fn fault(&mut self, why: &str) {
        self.fault_count = self.fault_count.saturating_add(1);
        ::metrics::counter!(metrics::BATCH_FAULTS, "consumer" => self.options.name.to_string())
            .increment(1);
        tracing::warn!(consumer = %self.options.name, error = why, attempt = self.fault_count,
            "database trouble: the batch runs again");
        self.trouble(Some(why.to_owned()));
        self.not_before = Some(Instant::now() + self.backoff());
    }

    /// Doubles from 20 ms to 5 s.
    fn backoff(&self) -> Duration {
        let doubled = Duration::from_millis(10 << self.fault_count.clamp(1, 9));
        jittered(doubled.min(Duration::from_secs(5)), 0.5)
    }

    pub(super) fn recovered(&mut self) {
        if self.fault_count > 0 {
            self.fault_count = 0;
            self.trouble(None);
        }
    }

    pub(super) fn command(&self, command: Command) {
        // A closed line means that the subscriber is gone, which ends the loop anyway.
        let _ = self.commands.send(command);
    }

    pub(super) fn commit_offsets(&mut self, now: bool) {
        let due = now || self.committed_at.elapsed() >= COMMIT_INTERVAL;
        if !due || self.uncommitted.is_empty() {
            return;
        }
        self.committed_at = Instant::now();
        let offsets = std::mem::take(&mut self.uncommitted);
        let offsets = offsets.into_iter().filter_map(|at| {
            let next_offset = self.held.get(&at)?.next_offset;
            Some((at, next_offset))
        });
        let command = Command::Commit {
            offsets: offsets.collect(),
            metadata: self.subscription.metadata(),
        };
        self.command(command);
    }

    /// The loop ends: a last word to Kafka.
    pub(super) fn stop(&mut self) {
        self.commit_offsets(true);
    }

    pub(super) fn count(&self, metric: &'static str, at: &TopicPartition) {
        self.count_many(metric, &at.topic, 1);
    }

    pub(super) fn count_many(&self, metric: &'static str, topic: &str, count: u64) {
        let labels = [
            ("consumer", self.options.name.to_string()),
            ("topic", topic.to_owned()),
        ];
        ::metrics::counter!(metric, &labels).increment(count);
    }

    pub(super) fn publish_status(&mut self) {
        let fenced_last_minute = self.fenced_last_minute();
        let partitions: Vec<_> = self
            .held
            .values()
            .map(|held| PartitionStatus {
                at: held.guard.at.clone(),
                next_offset: held.next_offset,
                log_end: held.log_end,
                waiting: held.queues.waiting_count(),
                dead_keys: held.queues.dead_key_count(),
                paused: held.paused,
                stopped: held.stopped.clone(),
            })
            .collect();
        let joining = partitions.is_empty() && self.generation == 0;
        let gauge = |metric: &'static str, value: usize| {
            let labels = [("consumer", self.options.name.to_string())];
            let value = u32::try_from(value).unwrap_or(u32::MAX);
            ::metrics::gauge!(metric, &labels).set(value);
        };
        gauge(metrics::WAITING, partitions.iter().map(|p| p.waiting).sum());
        gauge(
            metrics::DEAD_KEYS,
            partitions.iter().map(|p| p.dead_keys).sum(),
        );
        gauge(
            metrics::STOPPED,
            partitions.iter().filter(|p| p.stopped.is_some()).count(),
        );
        let lag: i64 = partitions.iter().filter_map(PartitionStatus::lag).sum();
        gauge(metrics::LAG, usize::try_from(lag).unwrap_or(usize::MAX));
        self.handle.change(|status| {
            status.fenced_last_minute = fenced_last_minute;
            status.partitions = partitions;
            status.state = if joining {
                ConsumerState::Joining
            } else {
                ConsumerState::Running
            };
        });
    }
}
