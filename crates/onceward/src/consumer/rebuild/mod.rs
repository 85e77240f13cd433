//! A service's state made again from the topics, beside the live one, and held against it.
//!
//! ```text
//!  live database ── one snapshot: offsets, inbox order, rows ─────────────┐
//!                        │ to where it stands                             ▼
//!  topics ──────► History ──► the service's own handlers ──► shadow ──► compare
//!                 (one order over all partitions)            (SQLite)
//! ```
//!
//! The handlers are those the service runs with, so what they send is written to the shadow's
//! outbox, which no relay knows. They take the time from a [`MessageClock`]: a command of last
//! month is as old as it was last month.
//!
//! Within a partition the order is Kafka's. Over partitions it is the one in which the live service
//! took the messages, as far back as its inbox still tells, and before that the one in which they
//! were written: where two orders wanted the last piece at the same moment, the older part of a
//! rebuild may give it to the other.
//!
//! What did not come by messages can't be made again: rows written by HTTP requests, timers and
//! operators show as a difference, unless a migration brings them.

mod compare;
mod history;
mod live;
mod report;
mod shadow;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;

use super::batch::{Stop, attempt};
use super::dead_letter::bury;
use super::entry::Entry;
use super::error_text::chain;
use super::inbox::{self, Claim, ClaimError, InboxState};
use super::{ConsumerOptions, HandlerError, Handlers, SubscriberError, TopicPartition};
use crate::trace::Scope;
use crate::{Backend, Clock, ConsumerName, Db, Error, Micros, Routing, SystemClock, Tx};

pub use compare::{RowDifference, TableDifference, compare};
pub use history::{History, InvalidSince, Reading, Since, Stretch};
pub use live::Live;
pub use report::Report;
pub use shadow::Shadow;

use history::in_one_order;

/// Messages in one transaction of the shadow.
const BATCH: usize = 200;
/// Longest run of a handler. Nobody waits for the shadow.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(10);

/// Shows the time at which the message that is being handled was written. Never goes back.
#[derive(Debug, Default)]
pub struct MessageClock(AtomicI64);

impl Clock for MessageClock {
    fn now(&self) -> Micros {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why a state could not be made again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildError {
    /// The shadow must be a new file.
    #[error("{0} exists already; name a file that does not")]
    Exists(String),
    /// What the live service has handled can't be read any more.
    #[error("{at} can't be rebuilt: {why}")]
    Gone {
        /// The partition.
        at: TopicPartition,
        /// What is missing.
        why: String,
    },
    /// Kafka.
    #[error(transparent)]
    History(#[from] SubscriberError),
    /// A database.
    #[error(transparent)]
    Database(#[from] Error),
    /// The shadow could not be written.
    #[error("the shadow could not be written: {0}")]
    Shadow(String),
}

/// A message that the handlers refuse, or whose attempts are used up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// `topic/partition@offset`.
    pub message: String,
    /// Why.
    pub reason: String,
}

/// What was read, and what became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// Topics read.
    pub topic_count: usize,
    /// Their partitions.
    pub partition_count: usize,
    /// Messages whose handler has run.
    pub handled_count: u64,
    /// Messages that had come before, by their id.
    pub repeated_count: u64,
    /// Dead letters of the shadow. Their key went on without them.
    pub refused: Vec<Refused>,
    /// Messages that the live service has not handled: they wait, or are dead letters. The shadow
    /// has tried them.
    pub unhandled_live_count: i64,
}

/// A consumer whose state is made again.
#[derive(Debug)]
pub struct Rebuild<B: Backend> {
    /// The shadow: migrated as the service's database is, and otherwise empty.
    pub db: Db<B>,
    /// The service's handlers. Their outbox is on `clock`.
    pub handlers: Handlers<B>,
    /// Which topic each of their messages comes by.
    pub routing: Routing,
    /// The consumer's name in the live database.
    pub consumer: ConsumerName,
    /// The clock that the handlers go by.
    pub clock: Arc<MessageClock>,
}

impl<B: Backend> Rebuild<B> {
    /// Reads the topics from `since` to where the live consumer stands, and handles every message
    /// in the shadow. Reads once; must not run twice into one shadow.
    ///
    /// # Errors
    /// [`RebuildError::Gone`] if Kafka does not keep all of it any more; Kafka or a database out of reach.
    pub async fn run(
        self,
        mut history: impl History,
        live: &mut Live,
        since: Since,
    ) -> Result<Rebuilt, RebuildError> {
        let topics: BTreeSet<String> = self.handlers.topics(&self.routing);
        let offsets = live.offsets(&self.consumer).await?;
        let order = live.order(&self.consumer).await?;
        let unhandled_live_count = live.unhandled_count(&self.consumer).await?;
        let wanted: Vec<String> = topics.iter().cloned().collect();
        let (stretches, history) = blocking(move || {
            let stretches = history.stretches(&wanted, since)?;
            Ok((stretches, history))
        })
        .await?;
        let stretches = history::up_to(stretches, &offsets, since)?;
        let mut rebuilt = Rebuilt {
            topic_count: topics.len(),
            partition_count: stretches.len(),
            unhandled_live_count,
            ..Rebuilt::default()
        };
        let (sender, mut records) = mpsc::channel(4 * BATCH);
        let reading = blocking(move || in_one_order(&history, &stretches, &order, &sender));
        let mut options = ConsumerOptions::new(self.consumer.clone(), topics);
        options.handler_timeout = HANDLER_TIMEOUT;
        let shared = Arc::new(Shared {
            handlers: self.handlers,
            options,
            clock: self.clock,
        });
        let handling = async {
            let mut pending: Vec<Pending> = Vec::new();
            let mut read = Vec::with_capacity(BATCH);
            loop {
                let more = records.recv_many(&mut read, BATCH).await > 0;
                pending.extend(read.drain(..).map(Pending::new));
                if !more && pending.is_empty() {
                    return Ok::<_, RebuildError>(());
                }
                let work = Arc::new(std::mem::take(&mut pending));
                let (shared, batch) = (Arc::clone(&shared), Arc::clone(&work));
                let round =
                    async move |tx: &mut Tx<'static, B>| shared.round(tx, batch.as_slice()).await;
                let fates = self.db.write(round).await;
                let fates = fates.map_err(|error| RebuildError::Shadow(chain(&error)))?;
                let work = Arc::unwrap_or_clone(work);
                pending = rebuilt.note(work, fates);
            }
        };
        let (read, handled) = tokio::join!(reading, handling);
        read?;
        handled?;
        Ok(rebuilt)
    }
}

impl Rebuilt {
    /// Counts what became of a round; the messages to try again.
    fn note(&mut self, work: Vec<Pending>, fates: Vec<Fate>) -> Vec<Pending> {
        let mut again = Vec::new();
        for (mut message, fate) in work.into_iter().zip(fates) {
            match fate {
                Fate::Handled => self.handled_count += 1,
                Fate::Repeated => self.repeated_count += 1,
                Fate::Refused(reason) => self.refused.push(Refused {
                    message: format!("{}@{}", message.entry.at, message.entry.offset),
                    reason,
                }),
                Fate::Again => {
                    message.attempts += 1;
                    message.is_claimed = true;
                    again.push(message);
                }
                Fate::Queued => {
                    message.is_claimed = true;
                    again.push(message);
                }
            }
        }
        again
    }
}

/// A message on its way into the shadow.
#[derive(Debug, Clone)]
struct Pending {
    entry: Arc<Entry>,
    /// Its inbox row is there: an earlier round could not handle it.
    is_claimed: bool,
    attempts: u32,
}

impl Pending {
    fn new(entry: Entry) -> Self {
        Self {
            entry: Arc::new(entry),
            is_claimed: false,
            attempts: 0,
        }
    }
}

/// What became of a message in a round.
enum Fate {
    Handled,
    Repeated,
    /// To be tried again, behind what comes with the next round.
    Again,
    /// Its key waits for one that is to be tried again.
    Queued,
    Refused(String),
}

/// What every round needs.
struct Shared<B: Backend> {
    handlers: Handlers<B>,
    options: ConsumerOptions,
    clock: Arc<MessageClock>,
}

impl<B: Backend> Shared<B> {
    async fn round(
        &self,
        tx: &mut Tx<'static, B>,
        work: &[Pending],
    ) -> Result<Vec<Fate>, Unwritable> {
        let mut fates = Vec::with_capacity(work.len());
        let mut blocked = HashSet::new();
        for message in work {
            let key = message.entry.key().map(|key| (&message.entry.at, key));
            let is_blocked = key.is_some_and(|key| blocked.contains(&key));
            let fate = self.one(tx, message, is_blocked).await?;
            if let (Fate::Again, Some(key)) = (&fate, key) {
                blocked.insert(key);
            }
            fates.push(fate);
        }
        Ok(fates)
    }

    async fn one(
        &self,
        tx: &mut Tx<'static, B>,
        message: &Pending,
        is_blocked: bool,
    ) -> Result<Fate, Unwritable> {
        let (entry, name) = (&*message.entry, &self.options.name);
        let now = SystemClock.now();
        if !message.is_claimed {
            let alone = [(entry, InboxState::Handled)];
            let claims = inbox::claim(tx, name, &alone, false, now).await?;
            if claims.first() != Some(&Claim::First) {
                return Ok(Fate::Repeated);
            }
        }
        if is_blocked {
            return Ok(Fate::Queued);
        }
        let written = entry.envelope.occurred_at.unwrap_or_default();
        self.clock.0.fetch_max(written, Ordering::Relaxed);
        let error = match &entry.defect {
            Some(defect) => HandlerError::Reject(defect.clone().into()),
            None => {
                let (scope, limit) = (Scope::of(name.as_str()), self.options.handler_timeout);
                let attempted = attempt(&self.handlers, scope, tx, &entry.envelope, limit);
                match attempted.await?.settled(false)? {
                    Ok(()) => return Ok(Fate::Handled),
                    Err(error) => error,
                }
            }
        };
        let attempts = message.attempts + 1;
        let is_final = matches!(error, HandlerError::Reject(_));
        if !is_final && attempts < self.options.retry.max_attempts {
            return Ok(Fate::Again);
        }
        let reason = chain(&error);
        bury(tx, &self.options, entry, attempts, &reason, now).await?;
        let (from, to) = (InboxState::Handled, InboxState::Dead);
        inbox::move_state(tx, name, &entry.identity, from, to, now).await?;
        Ok(Fate::Refused(reason))
    }
}

/// The shadow's database failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unwritable(String);

impl From<Error> for Unwritable {
    fn from(error: Error) -> Self {
        Self(chain(&error))
    }
}
impl From<sqlx::Error> for Unwritable {
    fn from(error: sqlx::Error) -> Self {
        Self(chain(&error))
    }
}
impl From<ClaimError> for Unwritable {
    fn from(error: ClaimError) -> Self {
        Self(chain(&error))
    }
}
impl From<Stop> for Unwritable {
    fn from(stop: Stop) -> Self {
        Self(format!("{stop:?}"))
    }
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SubscriberError> + Send + 'static,
) -> Result<T, SubscriberError> {
    let worked = tokio::task::spawn_blocking(work).await;
    worked.unwrap_or_else(|panicked| {
        Err(SubscriberError {
            doing: "history",
            reason: panicked.to_string(),
        })
    })
}
