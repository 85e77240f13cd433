//! One round of the loop's work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Instrument;

use super::batch::{Batch, MAX_DEADLOCKS, MAX_SAVEPOINTS, MAX_TIMEOUTS, Mode, Outcome, Stop};
use super::claim::not_stopped;
use super::dead_letter::{self, asked_about, open_requests};
use super::entry::{Entry, later};
use super::error_text::{Logged, chain};
use super::queue::{QueueId, Waiting};
use super::retry::{Carried, Carry, Due, DueQueue, Tried};
use super::worker::{Blamed, Failure, Worker};
use super::{Command, TopicPartition, janitor};
use crate::trace::{self, TraceParent};
use crate::{Backend, Micros, Tx, WriteError, breach, metrics};

/// How often each metric is to be counted for each topic.
type Counts = BTreeMap<(&'static str, Arc<str>), u64>;

/// Between two bites of the janitor while there is more to purge.
const PURGE_PAUSE: Duration = Duration::from_millis(200);

impl<B: Backend> Worker<B> {
    /// One round: a batch, due messages, requests, and housekeeping.
    pub(super) async fn work(&mut self) {
        if self.not_before.is_some_and(|at| at > Instant::now()) {
            return;
        }
        self.not_before = None;
        if self.reassign_at.is_some_and(|at| at <= Instant::now()) {
            self.reassign_at = None;
            self.command(Command::Reassign);
        }
        if let Err(failure) = self.round().await {
            self.failed(failure);
        }
        self.commit_offsets(false);
        self.publish_status();
    }

    async fn round(&mut self) -> Result<(), Failure> {
        self.batch().await?;
        self.due().await?;
        let now = Instant::now();
        if self.requests_at <= now {
            self.requests_at = now + self.options.request_interval;
            self.requests().await?;
        }
        if self.janitor_at <= now {
            self.janitor_at = now + self.options.janitor_interval;
            self.purge().await;
        }
        self.steer();
        Ok(())
    }

    async fn batch(&mut self) -> Result<(), Failure> {
        let ends = self.idle_ends();
        if self.pending.is_empty() && ends.is_empty() {
            return Ok(());
        }
        let first = self.pending.front();
        let last_try = first.is_some_and(|first| self.is_last_try(&first.at, first.offset));
        let too_slow = first.is_some_and(|first| self.is_too_slow(&first.at, first.offset));
        let (mode, limit) = match self.careful {
            _ if last_try || too_slow => (Mode::OneByOne, 1),
            0 => (Mode::Together, self.options.max_batch_records),
            left => (Mode::OneByOne, left.min(MAX_SAVEPOINTS)),
        };
        let limit = limit.min(self.eased);
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for entry in self.pending.iter().take(limit) {
            bytes += entry.bytes;
            if bytes > self.options.max_batch_bytes && !entries.is_empty() {
                break;
            }
            entries.push(Arc::clone(entry));
            // It waits, and others of its key behind it: see `first`.
            if self.is_fresh(&entry.at) {
                break;
            }
        }
        let blocked = entries.iter().map(|entry| {
            let key = entry.envelope.message_key.as_ref();
            let held = self.held.get(&entry.at);
            let waits = held.is_some_and(|held| held.fresh || held.queues.is_blocked(key));
            waits && !breach::is_broken(breach::KEY_QUEUES)
        });
        let touched: BTreeSet<_> = entries.iter().map(|entry| &entry.at).collect();
        let touched = touched.into_iter().chain(ends.iter().map(|(at, _)| at));
        let guards = touched.filter_map(|at| Some(self.held.get(at)?.guard.clone()));
        let envelopes = entries.iter().map(|entry| &entry.envelope);
        let (span, traced) = trace::batch(self.options.name.as_str(), envelopes);
        let batch = Arc::new(Batch {
            handlers: Arc::clone(&self.handlers),
            options: Arc::clone(&self.options),
            mode,
            look_first: self.look_first,
            last_try,
            too_slow,
            now: self.clock.now(),
            blocked: blocked.collect(),
            guards: guards.collect(),
            entries,
            ends,
            span: traced,
        });
        let Batch { entries, ends, .. } = &*batch;
        if breach::is_broken(breach::OFFSET_WITH_EFFECT) {
            let (batch, count) = (Arc::clone(&batch), entries.len());
            let advance = async move |tx: &mut Tx<'static, B>| batch.advance(tx, count).await;
            self.db.write(advance).await?;
        }
        let running = Arc::clone(&batch);
        let begun = Instant::now();
        let written = self
            .db
            .write(async move |tx: &mut Tx<'static, B>| running.run(tx).await)
            .instrument(span)
            .await;
        let alone = match &entries[..] {
            [entry] => Some((&entry.at, entry.offset)),
            _ => None,
        };
        self.note_trouble(&written, alone);
        let outcomes = match written {
            // Somebody in the batch failed, panicked outside of its handler or was slow: find out who.
            Err(
                WriteError::Refused(Stop::OneByOne)
                | WriteError::TimedOut { .. }
                | WriteError::Panicked { .. },
            ) if mode == Mode::Together => {
                self.careful = entries.len();
                return Ok(());
            }
            other => other?,
        };
        let labels = [("consumer", self.options.name.to_string())];
        ::metrics::histogram!(metrics::BATCH_SECONDS, &labels).record(begun.elapsed());
        self.recovered();
        self.widen();
        self.careful = self.careful.saturating_sub(outcomes.len());
        let is_known = |outcome: &Outcome| matches!(outcome, Outcome::Duplicate { .. });
        self.look_first &= outcomes.is_empty() || outcomes.iter().any(is_known);
        let mut counts = Counts::new();
        for (entry, outcome) in entries.iter().zip(outcomes) {
            self.pending.pop_front();
            self.apply(entry, outcome, traced, &mut counts);
        }
        for ((metric, topic), count) in counts {
            self.count_many(metric, &topic, count);
        }
        for (at, end) in ends {
            if let Some(held) = self.held.get_mut(at) {
                held.next_offset = *end;
                held.position = held.position.max(*end);
                held.advanced = Instant::now();
                held.end = None;
                self.uncommitted.insert(at.clone());
            }
        }
        Ok(())
    }

    /// Partitions whose records are all handled and whose end lies further, because markers and
    /// aborted records take offsets too.
    fn idle_ends(&self) -> Vec<(TopicPartition, i64)> {
        let idle = self.held.iter().filter(|(_, held)| {
            held.stopped.is_none()
                && held.position == held.next_offset
                && held.advanced.elapsed() >= self.options.idle_advance_interval
        });
        idle.filter_map(|(at, held)| {
            let end = held.end.filter(|end| *end > held.next_offset)?;
            Some((at.clone(), end))
        })
        .collect()
    }

    /// The batch has committed: memory follows the database.
    fn apply(
        &mut self,
        entry: &Entry,
        outcome: Outcome,
        batch: Option<TraceParent>,
        counts: &mut Counts,
    ) {
        let Some(held) = self.held.get_mut(&entry.at) else {
            return;
        };
        held.next_offset = entry.offset + 1;
        held.advanced = Instant::now();
        let fresh = std::mem::take(&mut held.fresh);
        self.uncommitted.insert(entry.at.clone());
        let id = QueueId::of(entry.envelope.message_key.as_ref(), entry.offset);
        let waiting = |attempts, due_at| Waiting {
            offset: entry.offset,
            attempts,
            due_at,
        };
        let mut count = |metric| {
            *counts.entry((metric, entry.at.topic.clone())).or_default() += 1;
        };
        match outcome {
            Outcome::Handled => count(metrics::HANDLED),
            Outcome::Duplicate { reused_id } => {
                count(metrics::DUPLICATES);
                if reused_id {
                    let at = format!("{}@{}", entry.at, entry.offset);
                    tracing::warn!(consumer = %self.options.name, record = at,
                        message.id = entry.identity.ce_id, source = entry.identity.ce_source,
                        "id was used before, by another record: this record is skipped");
                    self.count(metrics::REUSED_IDS, &entry.at);
                }
            }
            Outcome::Queued if fresh => {
                held.queues.push_first(id, waiting(0, 0), batch);
            }
            Outcome::Queued => held.queues.push(id, waiting(0, 0)),
            Outcome::Waiting { due_at, failed } => {
                held.queues.push(id, waiting(1, due_at));
                self.again(&entry.at, entry.offset, 1, &failed);
            }
            Outcome::Dead { failed } => {
                held.queues.bury(id, entry.offset);
                self.died(&entry.at, entry.offset, &failed);
            }
        }
    }

    fn again(&self, at: &TopicPartition, offset: i64, attempt: u32, failed: &Logged) {
        tracing::info!(consumer = %self.options.name, record = format!("{at}@{offset}"), attempt,
            message.id = failed.message_id, message.type = failed.message_type,
            correlation.id = failed.correlation_id, error = failed.error, "to be tried again");
        self.count(metrics::FAILED_ATTEMPTS, at);
    }

    fn died(&self, at: &TopicPartition, offset: i64, failed: &Logged) {
        tracing::warn!(consumer = %self.options.name, record = format!("{at}@{offset}"),
            message.id = failed.message_id, message.type = failed.message_type,
            correlation.id = failed.correlation_id, error = failed.error, "dead letter");
        self.count(metrics::FAILED_ATTEMPTS, at);
        self.count(metrics::DEAD_LETTERS, at);
    }

    fn is_fresh(&self, at: &TopicPartition) -> bool {
        self.held.get(at).is_some_and(|held| held.fresh)
    }

    async fn due(&mut self) -> Result<(), Failure> {
        for _ in 0..MAX_SAVEPOINTS {
            if !self.first().await? {
                break;
            }
        }
        let now = self.clock.now();
        // As batches do: after trouble fewer, in the end one alone.
        let most = MAX_SAVEPOINTS.min(self.eased);
        let mut queues = Vec::new();
        for held in self.held.values().filter(|held| held.stopped.is_none()) {
            let left = most.saturating_sub(queues.len());
            for (id, messages) in held.queues.due(now, most).into_iter().take(left) {
                let guard = held.guard.clone();
                queues.push(DueQueue {
                    guard,
                    id,
                    messages,
                });
            }
        }
        if queues.is_empty() {
            return Ok(());
        }
        self.run_due(queues, now, None).await?;
        self.widen();
        Ok(())
    }

    /// Twice as much at once the next time, after all went well.
    fn widen(&mut self) {
        self.eased = (self.eased * 2).min(self.options.max_batch_records);
    }

    /// Tries one message for the first time since the claim: alone, and written down before, because it may
    /// be what ended the process. That is each queue's head, and the first new message of a partition,
    /// which is queued for that. Says whether there was one.
    async fn first(&mut self) -> Result<bool, Failure> {
        let now = self.clock.now();
        let mut held = self.held.values().filter(|held| held.stopped.is_none());
        let found = held.find_map(|held| {
            let (id, message, batch) = held.queues.due_untried(now)?;
            Some((held.guard.clone(), id, message, batch))
        });
        let Some((guard, id, message, batch)) = found else {
            return Ok(false);
        };
        let queue = DueQueue {
            guard: guard.clone(),
            id: id.clone(),
            messages: vec![message],
        };
        let note = self.due_of(vec![queue.clone()], now, batch);
        let dead = self
            .db
            .write(async move |tx: &mut Tx<'static, B>| note.note(tx).await)
            .await?;
        match dead {
            Some(dead) => self.settle(&queue, message.offset, dead),
            None => self.run_due(vec![queue], now, batch).await?,
        }
        if let Some(held) = self.held.get_mut(&guard.at) {
            held.queues.tried(&id);
        }
        Ok(true)
    }

    fn due_of(&self, queues: Vec<DueQueue>, now: Micros, span: Option<TraceParent>) -> Due<B> {
        let alone = alone(&queues);
        Due {
            handlers: Arc::clone(&self.handlers),
            options: Arc::clone(&self.options),
            now,
            last_try: alone.is_some_and(|(at, offset)| self.is_last_try(at, offset)),
            too_slow: alone.is_some_and(|(at, offset)| self.is_too_slow(at, offset)),
            queues,
            span,
        }
    }

    fn is_last_try(&self, at: &TopicPartition, offset: i64) -> bool {
        times(&self.deadlocked, at, offset) + 1 >= MAX_DEADLOCKS
    }

    fn is_too_slow(&self, at: &TopicPartition, offset: i64) -> bool {
        times(&self.slow, at, offset) >= MAX_TIMEOUTS
    }

    /// A deadlock or a time-out among several messages may be anybody's fault: fewer at once the next time.
    /// One that is alone comes nearer to its end each time.
    fn note_trouble<T>(
        &mut self,
        written: &Result<T, WriteError<Stop>>,
        alone: Option<(&TopicPartition, i64)>,
    ) {
        let blamed = match written {
            Err(WriteError::Refused(Stop::Deadlock(_))) => &mut self.deadlocked,
            Err(WriteError::TimedOut { .. }) => &mut self.slow,
            Err(_) => return,
            Ok(_) => {
                // An outcome: the next attempt begins anew.
                if alone.is_some_and(|(at, offset)| times(&self.slow, at, offset) > 0) {
                    self.slow = None;
                }
                return;
            }
        };
        self.eased = (self.eased / 2).max(1);
        if let Some((at, offset)) = alone {
            let before = times(blamed, at, offset);
            *blamed = Some((at.clone(), offset, before + 1));
        }
    }

    async fn run_due(
        &mut self,
        queues: Vec<DueQueue>,
        now: Micros,
        span: Option<TraceParent>,
    ) -> Result<(), Failure> {
        let due = self.due_of(queues.clone(), now, span);
        let written = self
            .db
            .write(async move |tx: &mut Tx<'static, B>| due.run(tx).await)
            .await;
        self.note_trouble(&written, alone(&queues));
        let outcomes = written?;
        self.recovered();
        for (index, offset, tried) in outcomes {
            if let Some(queue) = queues.get(index) {
                self.settle(queue, offset, tried);
            }
        }
        Ok(())
    }

    /// The attempt has committed: memory follows the database.
    fn settle(&mut self, queue: &DueQueue, offset: i64, tried: Tried) {
        let DueQueue { guard, id, .. } = queue;
        let Some(held) = self.held.get_mut(&guard.at) else {
            return;
        };
        match tried {
            Tried::Handled => {
                held.queues.pop(id, offset);
                self.count(metrics::HANDLED, &guard.at);
            }
            Tried::Gone => held.queues.pop(id, offset),
            Tried::Again {
                attempts,
                due_at,
                failed,
            } => {
                held.queues.postpone(id, attempts, due_at);
                self.again(&guard.at, offset, attempts, &failed);
            }
            Tried::Dead { failed } => {
                held.queues.bury(id.clone(), offset);
                held.queues.pop(id, offset);
                self.died(&guard.at, offset, &failed);
            }
        }
    }

    async fn requests(&mut self) -> Result<(), Failure> {
        if self.held.is_empty() {
            return Ok(());
        }
        let (pool, name) = (self.db.pool().clone(), self.options.name.clone());
        if self.held.values().any(|held| held.stopped.is_some()) {
            let found = not_stopped(&pool, &name).await;
            let mut found = found
                .map_err(|error| Failure::Stop(error.into()))?
                .into_iter();
            if found.any(|at| {
                self.held
                    .get(&at)
                    .is_some_and(|held| held.stopped.is_some())
            }) {
                tracing::info!(consumer = %name, "a stopped partition is to go on");
                self.command(Command::Reassign);
            }
        }
        let asked = asked_about(&pool, &name).await;
        // Those about other partitions are for their owners, however many they are.
        for at in asked.map_err(|error| Failure::Stop(error.into()))? {
            if self.held.contains_key(&at) {
                let open = open_requests(&pool, &name, &at).await;
                self.carry_out(open.map_err(|error| Failure::Stop(error.into()))?)
                    .await?;
            }
        }
        Ok(())
    }

    async fn carry_out(&mut self, open: Vec<dead_letter::Request>) -> Result<(), Failure> {
        for request in open {
            let Some(held) = self.held.get(&request.at) else {
                continue;
            };
            let (at, offset) = (request.at.clone(), request.offset);
            let carry = Carry {
                handlers: Arc::clone(&self.handlers),
                options: Arc::clone(&self.options),
                now: self.clock.now(),
                guard: held.guard.clone(),
                too_slow: self.is_too_slow(&at, offset),
                request,
            };
            let carried = self
                .db
                .write(async move |tx: &mut Tx<'static, B>| carry.run(tx).await)
                .await;
            self.note_trouble(&carried, Some((&at, offset)));
            match carried? {
                Carried::Done { id } => {
                    if let Some(held) = self.held.get_mut(&at) {
                        held.queues.unbury(&id, offset);
                    }
                    tracing::info!(consumer = %self.options.name,
                        record = format!("{at}@{offset}"), "dead letter request carried out");
                }
                Carried::Refused { logged, .. } => {
                    tracing::warn!(consumer = %self.options.name, error = logged,
                        record = format!("{at}@{offset}"), "dead letter request refused");
                }
            }
        }
        Ok(())
    }

    /// One bite per partition, so that records and a stop don't wait; the rest follows soon.
    async fn purge(&mut self) {
        let now = self.clock.now();
        let mut more = false;
        for held in self.held.values() {
            let Some(age) = janitor::least_age(self.options.retention, held.retention) else {
                continue;
            };
            let older_than = now - later(0, age);
            let purge = janitor::purge(&self.db, &self.options.name, &held.guard, older_than);
            match purge.await {
                Ok(0) => {}
                Ok(rows) => {
                    tracing::debug!(consumer = %self.options.name, rows, "inbox purged");
                    more = true;
                }
                Err(error) => {
                    tracing::warn!(consumer = %self.options.name, error = chain(&error),
                        "inbox purge failed");
                }
            }
        }
        if more {
            self.janitor_at = self.janitor_at.min(Instant::now() + PURGE_PAUSE);
        }
    }

    /// Pauses partitions where too much waits, and lets them go on with room again.
    fn steer(&mut self) {
        let (cap, mut commands) = (self.options.waiting_cap, Vec::new());
        for (at, held) in &mut self.held {
            let waiting = held.queues.waiting_count();
            if !held.paused && waiting > cap {
                held.paused = true;
                let dead_keys = held.queues.dead_key_count();
                tracing::error!(consumer = %self.options.name, partition = %at, waiting, dead_keys,
                    "too many messages wait: partition paused");
                commands.push(Command::Pause(at.clone()));
            } else if held.paused && waiting <= cap - cap / 4 {
                held.paused = false;
                commands.push(Command::Resume(at.clone()));
            }
        }
        commands.into_iter().for_each(|c| self.command(c));
    }
}

/// How often this message is blamed.
fn times(blamed: &Blamed, at: &TopicPartition, offset: i64) -> u32 {
    match blamed {
        Some((its, of, times)) if (its, *of) == (at, offset) => *times,
        _ => 0,
    }
}

/// The one message of these queues.
fn alone(queues: &[DueQueue]) -> Option<(&TopicPartition, i64)> {
    match queues {
        [queue] if queue.messages.len() == 1 => {
            let first = queue.messages.first()?;
            Some((&queue.guard.at, first.offset))
        }
        _ => None,
    }
}
