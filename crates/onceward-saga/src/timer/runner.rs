//! Fires timers: never early, and late by no more than a poll and a transaction.
//!
//! ```text
//! armed ──its time has come──▶ fired      in one transaction with what follows
//!   └────answered in time────▶ disarmed
//! ```
//!
//! Several runners may run on one database: each firing locks the owner's row first, and only one
//! of them finds the timer still armed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use onceward::{Clock, Db, Tx, Write, WriteError, error_chain};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::timer::rows::{self, ArmedTimer};
use crate::{SagaBackend, SagaError, Sagas};

/// A timer that is being fired, and what came of it.
type Firing = BoxFuture<'static, (ArmedTimer, Result<(), WriteError<SagaError>>)>;

/// Those a timer belongs to: sagas, or processes of another kind.
pub trait TimerOwner<B: SagaBackend>: Clone + Send + Sync + 'static {
    /// `owner_kind` of its timers.
    const KIND: &'static str;

    /// For databases without a clock of their own.
    fn clock(&self) -> &Arc<dyn Clock>;

    /// Fires a timer if it still is armed and its time has come: locks the owner's row, then marks the
    /// timer, and does all that follows from it.
    ///
    /// # Errors
    /// [`SagaError`]; then nothing is committed, and the timer fires later.
    fn fire(
        &self,
        tx: &mut Tx<'static, B>,
        owner: Uuid,
        timer: &str,
    ) -> impl Future<Output = Result<(), SagaError>> + Send;
}

/// How often and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimerOptions {
    /// Longest pause between two looks, 1 ms..=1 s. A timer armed meanwhile by another process
    /// can be late by this much; default 50 ms.
    pub poll_interval: Duration,
    /// Timers looked at in one go, 1..=10_000; default 100.
    pub batch: i64,
    /// How long a timer that could not be fired is left alone; default 1 s.
    pub retry_delay: Duration,
}

impl Default for TimerOptions {
    fn default() -> Self {
        Self {
            poll_interval: Duration::from_millis(50),
            batch: 100,
            retry_delay: Duration::from_secs(1),
        }
    }
}

/// Fires the timers of one kind of owner in one database, several at a time: one that waits for its
/// owner's lock holds up no other.
#[derive(Debug)]
pub struct TimerRunner<B: SagaBackend, O = Sagas> {
    db: Db<B>,
    owner: O,
    options: TimerOptions,
    /// Due, and waiting for one of those in `firing` to end.
    due: VecDeque<ArmedTimer>,
    firing: FuturesUnordered<Firing>,
    /// Those in `due` or `firing`: a look finds them again as long as they are armed.
    taken: HashSet<ArmedTimer>,
    /// Could not be fired, and left alone until then.
    held: HashMap<ArmedTimer, Instant>,
}

impl<B: SagaBackend, O: TimerOwner<B>> TimerRunner<B, O> {
    /// A runner for the timers of `owner`.
    pub fn new(db: Db<B>, owner: O, options: TimerOptions) -> Self {
        Self {
            db,
            owner,
            options,
            due: VecDeque::new(),
            firing: FuturesUnordered::new(),
            taken: HashSet::new(),
            held: HashMap::new(),
        }
    }

    /// Fires timers until stopped; those that were begun are finished. An error is logged and the
    /// work goes on: a timer is a row, it fires later.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut next_look = Instant::now();
        while !stop.is_cancelled() {
            if self.due.is_empty() && next_look <= Instant::now() {
                let pause = match self.look().await {
                    Ok(pause) => pause,
                    Err(error) => {
                        tracing::warn!(error = error_chain(&error), "timers could not be read");
                        self.options.retry_delay
                    }
                };
                next_look = Instant::now() + pause;
                self.launch();
            }
            tokio::select! {
                () = stop.cancelled() => {}
                Some((timer, fired)) = self.firing.next() => {
                    self.ended(timer, fired);
                    self.launch();
                }
                () = tokio::time::sleep_until(next_look), if self.due.is_empty() => {}
            }
        }
        while let Some((timer, fired)) = self.firing.next().await {
            self.ended(timer, fired);
        }
    }

    /// Fires every timer whose time has come, and returns when all of them are done; says how long
    /// nothing is due.
    ///
    /// # Errors
    /// When the timers can't be read. A single one that can't be fired is logged, left alone for
    /// a while, and holds up no other.
    pub async fn fire_due(&mut self) -> Result<Duration, SagaError> {
        let pause = self.look().await?;
        self.launch();
        let any = !self.firing.is_empty();
        while let Some((timer, fired)) = self.firing.next().await {
            self.ended(timer, fired);
            self.launch();
        }
        // Time went by, and there may be more than fitted in: look again at once.
        Ok(if any { Duration::ZERO } else { pause })
    }

    /// Puts what is due into `due`; says when to look again.
    async fn look(&mut self) -> Result<Duration, SagaError> {
        let started = Instant::now();
        self.held.retain(|_, until| *until > started);
        // Those that are known already must not crowd out the others.
        let known = i64::try_from(self.held.len() + self.taken.len()).unwrap_or(0);
        let limit = self.options.batch.saturating_add(known);
        let armed = rows::next_armed(self.db.pool(), O::KIND, limit).await?;
        let now = self.now().await?;
        let started = Instant::now();
        let mut pause = self.options.poll_interval;
        if i64::try_from(armed.len()).unwrap_or(i64::MAX) >= limit {
            pause = Duration::ZERO; // There may be more than fitted in.
        }
        for timer in armed {
            if timer.fire_at > now {
                let wait = u64::try_from(timer.fire_at - now).unwrap_or(0);
                let wait = Duration::from_micros(wait).saturating_sub(started.elapsed());
                return Ok(wait.min(self.options.poll_interval));
            }
            if !self.held.contains_key(&timer) && self.taken.insert(timer.clone()) {
                self.due.push_back(timer);
            }
        }
        Ok(pause)
    }

    /// Begins to fire as many as go at the same time.
    fn launch(&mut self) {
        while self.firing.len() < B::TIMERS_AT_ONCE {
            let Some(timer) = self.due.pop_front() else {
                break;
            };
            let fired = self.fire(&timer);
            self.firing
                .push(fired.map(move |fired| (timer, fired)).boxed());
        }
    }

    fn ended(&mut self, timer: ArmedTimer, fired: Result<(), WriteError<SagaError>>) {
        self.taken.remove(&timer);
        if let Err(error) = fired {
            tracing::error!(
                owner.kind = O::KIND, owner.id = %timer.owner, timer = timer.name, error = error_chain(&error),
                "a timer could not be fired"
            );
            self.held
                .insert(timer, Instant::now() + self.options.retry_delay);
        }
    }

    async fn now(&mut self) -> Result<i64, SagaError> {
        let mut conn = self
            .db
            .pool()
            .acquire()
            .await
            .map_err(SagaError::database("timer connection"))?;
        let clock = self.owner.clock();
        B::timer_now(&mut conn, clock.as_ref())
            .await
            .map_err(SagaError::database("timer clock"))
    }

    /// CRASH: died before the commit = the timer is still armed and fires after the restart; after
    /// it = fired, with everything that follows from it.
    fn fire(&self, timer: &ArmedTimer) -> Write<(), SagaError> {
        let (owner, timer) = (self.owner.clone(), timer.clone());
        self.db.write_with(onceward::is_victim, async move |tx| {
            owner.fire(tx, timer.owner, &timer.name).await
        })
    }
}
