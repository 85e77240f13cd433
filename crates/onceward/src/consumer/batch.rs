//! A batch of new records: one database transaction.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;

use super::claim::{Guard, Owned, Reached, advance};
use super::entry::{Entry, Identity, later};
use super::error_text::{Logged, chain};
use super::inbox::{self, Claim, ClaimError, InboxState};
use super::{ConsumerOptions, HandlerError, Handlers, TopicPartition, dead_letter, waiting};
use crate::fault::{database_error, is_cancelled, is_deadlock, is_transient, panic_text};
use crate::trace::{Scope, TraceParent};
use crate::{Backend, Envelope, Error, Micros, Tx, breach};

/// Messages with a savepoint of their own in one transaction: more than 64 subtransactions make
/// every snapshot of a Postgres server slow.
pub(super) const MAX_SAVEPOINTS: usize = 50;

/// How often in a row a message that is alone in its transaction may end in a deadlock, before it becomes a
/// dead letter. Only Postgres has deadlocks; SQLite's writers take turns.
pub(super) const MAX_DEADLOCKS: u32 = 10;

/// How often in a row a message that is alone in its transaction may use up the whole time of a unit of work,
/// before that counts as an attempt that failed. A handler's time-out is one at once; but a statement that has
/// been sent can't be taken back, and the rollback waits for it until that time is over.
pub(super) const MAX_TIMEOUTS: u32 = 2;

/// Messages claimed together, at first and at most: between two claims a batch looks at the time,
/// because on SQLite everybody else who writes waits meanwhile. Quick handlers get more of them.
const CHUNK: usize = 16;
const MAX_CHUNK: usize = 256;

/// How a batch is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// No savepoints: any failure rolls the whole batch back.
    Together,
    /// After a failure: one savepoint per message, at most [`MAX_SAVEPOINTS`].
    OneByOne,
}

/// Everything a batch needs; made outside of the transaction, so that a rerun writes the same.
pub(super) struct Batch<B: Backend> {
    pub handlers: Arc<Handlers<B>>,
    pub options: Arc<ConsumerOptions>,
    pub mode: Mode,
    /// Some messages are known: it is asked which before they are claimed.
    pub look_first: bool,
    /// One more deadlock is the message's failure: see [`MAX_DEADLOCKS`].
    pub last_try: bool,
    /// The one message has failed, see [`MAX_TIMEOUTS`]: its handler is not asked again.
    pub too_slow: bool,
    pub now: Micros,
    pub entries: Vec<Arc<Entry>>,
    /// Per entry: its key waits or is dead, so it must queue.
    pub blocked: Vec<bool>,
    /// Claims of the partitions the entries and `ends` belong to.
    pub guards: Vec<Guard>,
    /// Idle partitions: advance to this offset, where no record stands.
    pub ends: Vec<(TopicPartition, i64)>,
    /// The batch's span, which those of its messages link to.
    pub span: Option<TraceParent>,
}

/// What became of one record. Known only when the batch has committed.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    Handled,
    Duplicate { reused_id: bool },
    Queued,
    Waiting { due_at: Micros, failed: Logged },
    Dead { failed: Logged },
}

/// Why a batch was rolled back.
#[derive(Debug)]
pub(super) enum Stop {
    /// A message failed in [`Mode::Together`]: run again one by one.
    OneByOne,
    /// Some messages are known: run again, looking first.
    LookFirst,
    /// A newer owner has claimed this partition.
    Fenced(TopicPartition),
    /// Nobody's fault: run the same again later.
    Fault(String),
    /// The same, but if it was one message alone, and it happens each time, it is that message's fault.
    Deadlock(String),
}

impl From<sqlx::Error> for Stop {
    fn from(error: sqlx::Error) -> Self {
        match is_deadlock(&error) {
            true => Self::Deadlock(chain(&error)),
            false => Self::Fault(chain(&error)),
        }
    }
}
impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Fault(chain(&error))
    }
}

impl<B: Backend> Batch<B> {
    /// Runs the batch in `tx`. The outcomes are those of the first entries; the rest, if time or
    /// savepoints ran out, was not touched.
    pub(super) async fn run(&self, tx: &mut Tx<'static, B>) -> Result<Vec<Outcome>, Stop> {
        let outcomes = match self.mode {
            Mode::Together => self.together(tx).await?,
            Mode::OneByOne => self.one_by_one(tx).await?,
        };
        // CRASH: died before the commit that follows = nothing of this batch is stored: no inbox row,
        // no effect, no outgoing message, and `next_offset` stands before it. Died after it = all of
        // that is stored, and the next claim reads on behind it. A commit without an answer is one of
        // the two, and the next claim tells which.
        self.advance(tx, outcomes.len()).await?;
        Ok(outcomes)
    }

    /// Moves the partitions' next offsets behind the first entries, or to where an idle one ends.
    pub(super) async fn advance(
        &self,
        tx: &mut Tx<'static, B>,
        entry_count: usize,
    ) -> Result<(), Stop> {
        for guard in &self.guards {
            let handled = self.entries[..entry_count]
                .iter()
                .rfind(|entry| entry.at == guard.at)
                .map(|entry| Reached {
                    next_offset: entry.offset + 1,
                    leader_epoch: entry.leader_epoch,
                });
            let idle = self.ends.iter().find(|(at, _)| *at == guard.at);
            let idle = idle.map(|(_, end)| Reached {
                next_offset: *end,
                leader_epoch: None,
            });
            if let Some(reached) = handled.or(idle) {
                let advanced = advance(tx, &self.options.name, guard, reached, self.now).await;
                if advanced.map_err(|error| self.whose(error))? == Owned::Fenced {
                    return Err(Stop::Fenced(guard.at.clone()));
                }
            }
        }
        Ok(())
    }

    /// A statement of ours failed. Without savepoints it may be a handler that swallowed an error
    /// of its own, and with it broke the transaction: that must not run for ever.
    fn whose(&self, error: sqlx::Error) -> Stop {
        match self.mode {
            Mode::Together if !is_transient(&error) => Stop::OneByOne,
            _ => error.into(),
        }
    }

    async fn claim(
        &self,
        tx: &mut Tx<'static, B>,
        entries: &[(&Entry, InboxState)],
    ) -> Result<Vec<Claim>, Stop> {
        let (name, look_first) = (&self.options.name, self.look_first);
        let claims = inbox::claim(tx, name, entries, look_first, self.now).await;
        claims.map_err(|error| match error {
            ClaimError::Database(error) => self.whose(error),
            // Again although it has looked: not in a circle without a pause.
            known if look_first => Stop::Fault(known.to_string()),
            ClaimError::SomeKnown => Stop::LookFirst,
        })
    }

    async fn together(&self, tx: &mut Tx<'static, B>) -> Result<Vec<Outcome>, Stop> {
        let begun = Instant::now();
        let mut outcomes = Vec::with_capacity(self.entries.len());
        let mut seen: HashMap<&Identity, &Entry> = HashMap::new();
        let mut size = CHUNK;
        while outcomes.len() < self.entries.len() && begun.elapsed() <= self.options.max_batch_time
        {
            let chunk_begun = Instant::now();
            let chunk = outcomes.len()..(outcomes.len() + size).min(self.entries.len());
            let mut to_claim = Vec::with_capacity(chunk.len());
            let mut twins = HashMap::new();
            for index in chunk.clone() {
                let entry = &self.entries[index];
                // The same id twice in one batch: the second is a duplicate of the first.
                if let Some(first) = seen.get(&entry.identity) {
                    let reused_id = (&first.at, first.offset) != (&entry.at, entry.offset);
                    twins.insert(index, Outcome::Duplicate { reused_id });
                } else {
                    seen.insert(&entry.identity, entry);
                    to_claim.push((&**entry, self.claimed_state(index)));
                }
            }
            let mut claims = self.claim(tx, &to_claim).await?.into_iter();
            // Of one type, one behind the other: handled together.
            let mut run: Vec<&Envelope> = Vec::new();
            for index in chunk {
                let entry = &self.entries[index];
                let outcome = match twins.remove(&index) {
                    Some(twin) => twin,
                    None => match claims.next().unwrap_or(Claim::Duplicate) {
                        Claim::Duplicate => Outcome::Duplicate { reused_id: false },
                        Claim::ReusedId => Outcome::Duplicate { reused_id: true },
                        Claim::First if self.blocked[index] => self.queue(tx, entry).await?,
                        Claim::First if entry.defect.is_some() => return Err(Stop::OneByOne),
                        Claim::First => {
                            let envelope = &entry.envelope;
                            if run
                                .last()
                                .is_some_and(|last| last.message_type != envelope.message_type)
                            {
                                self.handle_run(tx, &mut run).await?;
                            }
                            run.push(envelope);
                            Outcome::Handled
                        }
                    },
                };
                outcomes.push(outcome);
            }
            self.handle_run(tx, &mut run).await?;
            if chunk_begun.elapsed() < self.options.max_batch_time / 10 {
                size = (size * 4).min(MAX_CHUNK);
            }
        }
        Ok(outcomes)
    }

    fn scope(&self) -> Scope<'_> {
        Scope {
            consumer: self.options.name.as_str(),
            batch: self.span,
        }
    }

    /// Handles messages of one type and empties the list; any failure blames nobody.
    async fn handle_run(
        &self,
        tx: &mut Tx<'static, B>,
        run: &mut Vec<&Envelope>,
    ) -> Result<(), Stop> {
        let handled = self.handlers.dispatch_batch_within(tx, self.scope(), run);
        let handled = call(handled, self.options.handler_timeout).await;
        run.clear();
        handled.map_err(|error| batch_fault(&error).unwrap_or(Stop::OneByOne))
    }

    fn claimed_state(&self, index: usize) -> InboxState {
        if self.blocked[index] {
            InboxState::Waiting
        } else {
            InboxState::Handled
        }
    }

    async fn one_by_one(&self, tx: &mut Tx<'static, B>) -> Result<Vec<Outcome>, Stop> {
        let begun = Instant::now();
        let mut outcomes = Vec::new();
        let mut newly_blocked: HashSet<(&TopicPartition, &[u8])> = HashSet::new();
        for (index, entry) in self.entries.iter().take(MAX_SAVEPOINTS).enumerate() {
            // The first is always tried; a later one only if its time-out still fits.
            if index > 0 && begun.elapsed() > self.options.max_batch_time {
                break;
            }
            let key = entry.key().map(|key| (&entry.at, key));
            let blocked =
                self.blocked[index] || key.is_some_and(|key| newly_blocked.contains(&key));
            let state = if blocked {
                InboxState::Waiting
            } else {
                InboxState::Handled
            };
            let claims = self.claim(tx, &[(entry, state)]).await?;
            let outcome = match claims.first() {
                Some(Claim::First) if blocked => self.queue(tx, entry).await?,
                Some(Claim::First) => self.handle_alone(tx, entry, begun).await?,
                Some(Claim::ReusedId) => Outcome::Duplicate { reused_id: true },
                Some(Claim::Duplicate) | None => Outcome::Duplicate { reused_id: false },
            };
            let waits = matches!(outcome, Outcome::Waiting { .. } | Outcome::Dead { .. });
            if waits && !breach::is_broken(breach::KEY_QUEUES) {
                newly_blocked.extend(key);
            }
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    async fn queue(&self, tx: &mut Tx<'static, B>, entry: &Entry) -> Result<Outcome, Stop> {
        waiting::insert(tx, &self.options.name, entry, 0, 0, None, self.now).await?;
        Ok(Outcome::Queued)
    }

    async fn handle_alone(
        &self,
        tx: &mut Tx<'static, B>,
        entry: &Entry,
        begun: Instant,
    ) -> Result<Outcome, Stop> {
        let limit = time_left(&self.options, begun);
        let (handlers, scope) = (&self.handlers, self.scope());
        let handled = handle(handlers, scope, tx, entry, limit, self.too_slow).await?;
        let error = match handled.settled(self.last_try)? {
            Ok(()) => return Ok(Outcome::Handled),
            Err(error) => error,
        };
        let name = &self.options.name;
        let verdict = Verdict::of(&error, 1, &self.options, self.now);
        let failed = Logged::new(entry, &error);
        let (outcome, state) = match verdict {
            Verdict::Again { due_at, error } => {
                waiting::insert(tx, name, entry, 1, due_at, Some(&error), self.now).await?;
                (Outcome::Waiting { due_at, failed }, InboxState::Waiting)
            }
            Verdict::Dead { reason } => {
                dead_letter::bury(tx, &self.options, entry, 1, &reason, self.now).await?;
                (Outcome::Dead { failed }, InboxState::Dead)
            }
        };
        let from = InboxState::Handled;
        inbox::move_state(tx, name, &entry.identity, from, state, self.now).await?;
        Ok(outcome)
    }
}

/// What follows from a failed attempt.
#[derive(Debug)]
pub(super) enum Verdict {
    Again { due_at: Micros, error: String },
    Dead { reason: String },
}

impl Verdict {
    /// `attempts` includes the one that failed.
    pub(super) fn of(
        error: &HandlerError,
        attempts: u32,
        options: &ConsumerOptions,
        now: Micros,
    ) -> Self {
        let (cause, at_least) = match error {
            HandlerError::Reject(cause) => {
                return Self::Dead {
                    reason: chain(&**cause),
                };
            }
            HandlerError::Retry { after, cause } => (chain(&**cause), *after),
            HandlerError::Database(cause) => (chain(cause), None),
        };
        match options.retry.delay(attempts, at_least) {
            Some(delay) => Self::Again {
                due_at: later(now, delay),
                error: cause,
            },
            None => Self::Dead {
                reason: format!("{attempts} attempts used up: {cause}"),
            },
        }
    }
}

/// How one message in its own savepoint ended.
pub(super) enum Attempt {
    /// Handled; its effect is part of the transaction.
    Done,
    /// Everything it did is rolled back.
    Failed(HandlerError),
    /// So it is here: it was the victim of a deadlock, and the transaction can still be used.
    Deadlocked(String),
}

impl Attempt {
    /// The attempt's failure, if it is one of the message: a deadlock is, on the last try that it has.
    pub(super) fn settled(self, last_try: bool) -> Result<Result<(), HandlerError>, Stop> {
        match self {
            Self::Done => Ok(Ok(())),
            Self::Failed(error) => Ok(Err(error)),
            Self::Deadlocked(why) if last_try => {
                let why = format!("it ended in a deadlock {MAX_DEADLOCKS} times, alone: {why}");
                Ok(Err(HandlerError::Reject(why.into())))
            }
            Self::Deadlocked(why) => Err(Stop::Deadlock(why)),
        }
    }
}

/// What is wrong with a message that [`MAX_TIMEOUTS`] are over for.
fn too_slow() -> HandlerError {
    HandlerError::Retry {
        after: None,
        cause:
            "the handler took longer than a whole unit of work may, because of a statement that \
                could not be taken back"
                .into(),
    }
}

/// The handler's time-out within a unit of work that began at `begun`.
pub(super) fn time_left(options: &ConsumerOptions, begun: Instant) -> Duration {
    options
        .handler_timeout
        .saturating_sub(begun.elapsed())
        .max(Duration::from_millis(100))
}

/// An attempt; a record with a defect, or one that has failed by being too slow, is not given to the handler.
pub(super) async fn handle<B: Backend>(
    handlers: &Handlers<B>,
    scope: Scope<'_>,
    tx: &mut Tx<'static, B>,
    entry: &Entry,
    limit: Duration,
    is_too_slow: bool,
) -> Result<Attempt, Stop> {
    match &entry.defect {
        Some(defect) => Ok(Attempt::Failed(HandlerError::Reject(defect.clone().into()))),
        None if is_too_slow => Ok(Attempt::Failed(too_slow())),
        None => attempt(handlers, scope, tx, &entry.envelope, limit).await,
    }
}

/// Runs the handler inside a savepoint. `Err` is a fault of the connection or the database: the
/// whole transaction is lost, and nobody's attempt is used.
pub(super) async fn attempt<B: Backend>(
    handlers: &Handlers<B>,
    scope: Scope<'_>,
    tx: &mut Tx<'static, B>,
    envelope: &Envelope,
    limit: Duration,
) -> Result<Attempt, Stop> {
    savepoint(tx, "savepoint onceward_message").await?;
    let handled = handlers.dispatch_within(tx, scope, envelope);
    let error = match call(handled, limit).await {
        Ok(()) => match savepoint(tx, "release savepoint onceward_message").await {
            Ok(()) => return Ok(Attempt::Done),
            Err(error) => HandlerError::Database(error),
        },
        Err(error) => error,
    };
    let deadlock = match batch_fault(&error) {
        Some(Stop::Deadlock(why)) => Some(why),
        Some(fault) => return Err(fault),
        None => None,
    };
    // Fails if the handler has ended the transaction itself, or the database has: then nothing more
    // may run in it.
    savepoint(tx, "rollback to savepoint onceward_message").await?;
    savepoint(tx, "release savepoint onceward_message").await?;
    Ok(deadlock.map_or(Attempt::Failed(error), Attempt::Deadlocked))
}

/// A handler's failure that is the connection's, the server's or the concurrency's: the whole batch
/// runs again, and no attempt is used, in whatever the handler has wrapped it. A statement that the server
/// ended, because it took longer than `statement_timeout` allows, is the handler's.
fn batch_fault(error: &HandlerError) -> Option<Stop> {
    let source = database_error(error)?;
    match is_transient(source) && !is_cancelled(source) {
        true if is_deadlock(source) => Some(Stop::Deadlock(chain(source))),
        true => Some(Stop::Fault(chain(source))),
        false => None,
    }
}

async fn savepoint<B: Backend>(
    tx: &mut Tx<'static, B>,
    statement: &'static str,
) -> Result<(), sqlx::Error> {
    sqlx::query(statement).execute(&mut **tx).await?;
    Ok(())
}

/// Waits for a handler; a panic or a time-out is an attempt that failed.
async fn call(
    handler: impl Future<Output = Result<(), HandlerError>>,
    limit: Duration,
) -> Result<(), HandlerError> {
    let handled = std::panic::AssertUnwindSafe(handler).catch_unwind();
    let retry = |cause: String| HandlerError::Retry {
        after: None,
        cause: cause.into(),
    };
    match tokio::time::timeout(limit, handled).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(retry(format!(
            "the handler panicked: {}",
            panic_text(&*panic)
        ))),
        Err(_) => Err(retry(format!(
            "the handler took longer than {} ms",
            limit.as_millis()
        ))),
    }
}
