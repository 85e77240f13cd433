//! One batch into Kafka: parts, refusals, parking.
//!
//! A refused transaction blames nobody. The batch is split by prefix only: what stands before the
//! suspect, the suspect alone, the rest, each with its own progress, because a suspect sent out of
//! turn would overtake its key and one cursor can't say "57 but not 56". Only a record refused
//! alone is guilty; then its key is parked:
//!
//! 1. the refused Kafka transaction is aborted,
//! 2. the database stores the key as parked, with copies of its rows,
//! 3. a Kafka transaction passes them, with the rows of other keys.
//!
//! A topic that is missing or may not be written is nobody's fault: the source holds. It does not hold
//! for ever ([`topic_hold_ms`](crate::RelayOptions::topic_hold_ms)), then all of the topic's rows park.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use onceward::publisher::{Broker, BrokerError, PublishOutcome, Publisher, Records, Refusal};
use onceward::source::{Batch, Dialect, OutboxRow, Parking};
use onceward::{Clock, ProgressRecord, SystemClock, breach};
use tracing::Instrument;

use super::records::{self, Ahead, Prepared, Unready};
use super::spans::Spans;
use super::{Exit, SourceWorker, Stop, Term};
use crate::failpoint;
use crate::phase::Input;

/// Rows parked by one transaction: the lease is renewed between two, which wait for the same lock.
const PARKED_AT_ONCE: usize = 100;

/// What became of one part of a batch.
enum Part {
    Passed,
    /// Kafka refused the record of this row (index into the batch); it was one of `among`.
    Refused {
        row: usize,
        among: usize,
        reason: String,
    },
    /// Rows before this one can go; it must wait.
    SplitAt(usize),
    GivenUp(GivenUp),
}

/// A topic was waited for long enough.
pub(super) struct GivenUp {
    topic: String,
    pub(super) reason: String,
}

/// Whether a part can go.
enum Ready {
    Prepared(Box<Prepared>),
    /// Something was waited for: try again.
    NotYet,
    /// Rows before this one can go.
    SplitAt(usize),
    GivenUp(GivenUp),
}

/// What became of one Kafka transaction, as far as its caller can go on.
pub(super) enum Sent {
    Committed,
    /// Index into the records.
    Refused {
        record: usize,
        reason: String,
    },
    /// Nothing was committed; ask for the topics anew and try again.
    TryAgain,
    GivenUp(GivenUp),
}

impl<D: Dialect, Br: Broker> SourceWorker<D, Br> {
    /// Publishes or parks all rows of the batch. Returns once Kafka's progress has passed them.
    /// `ahead` is the whole batch made ready before.
    pub(super) async fn publish_batch(
        &mut self,
        term: &mut Term<D, Br>,
        batch: &Batch,
        mut ahead: Option<Ahead>,
    ) -> Result<(), Exit> {
        let mut parts: VecDeque<Range<usize>> = std::iter::once(0..batch.rows.len()).collect();
        while let Some(part) = parts.pop_front() {
            let ready = self.still_good(term, ahead.take());
            match self.publish_part(term, batch, part.clone(), ready).await? {
                Part::Passed => {}
                Part::SplitAt(row) => {
                    parts.push_front(row..part.end);
                    parts.push_front(part.start..row);
                }
                Part::Refused {
                    row,
                    among: 1,
                    reason,
                } => {
                    if let Some(guilty) = batch.rows.get(row) {
                        self.park(term, guilty, &reason).await?;
                    }
                    // The rest goes with it: passing a parked row alone costs a transaction.
                    let end = match parts.front() {
                        Some(next) if next.start == part.end => next.end,
                        _ => part.end,
                    };
                    if end != part.end {
                        parts.pop_front();
                    }
                    parts.push_front(part.start..end);
                }
                Part::GivenUp(topic) => {
                    let rows = batch.rows.get(part.clone()).unwrap_or_default();
                    self.park_topic(term, rows, &topic).await?;
                    parts.push_front(part);
                }
                Part::Refused { row, reason, .. } => {
                    tracing::warn!(source = %self.name, record = row, reason, "batch refused; looking for the culprit");
                    let pieces = [part.start..row, row..row + 1, row + 1..part.end];
                    for piece in pieces.into_iter().rev().filter(|piece| !piece.is_empty()) {
                        parts.push_front(piece);
                    }
                }
            }
        }
        Ok(())
    }

    /// What was made ready ahead, if it follows what is committed by now.
    fn still_good(&self, term: &Term<D, Br>, ahead: Option<Ahead>) -> Option<Prepared> {
        let now = records::Base::of(&term.standing.progress, &term.topics);
        ahead
            .filter(|ahead| ahead.base == now && term.parked.is_empty())
            .map(|ahead| ahead.prepared)
    }

    /// `ready` holds the part's records where they were made before.
    async fn publish_part(
        &mut self,
        term: &mut Term<D, Br>,
        batch: &Batch,
        part: Range<usize>,
        mut ready: Option<Prepared>,
    ) -> Result<Part, Exit> {
        let rows = batch.rows.get(part.clone()).unwrap_or_default();
        if ready.is_none()
            && let Some(refused) = self.look_over(term, rows, part.start).await?
        {
            return Ok(refused);
        }
        loop {
            let prepared = match ready.take() {
                Some(prepared) => prepared,
                None => match self.prepare(term, batch, part.clone()).await? {
                    Ready::Prepared(prepared) => *prepared,
                    Ready::NotYet => continue,
                    Ready::SplitAt(row) => return Ok(Part::SplitAt(row)),
                    Ready::GivenUp(topic) => return Ok(Part::GivenUp(topic)),
                },
            };
            let oldest = rows.iter().map(|row| row.occurred_at).min();
            let count = prepared.records.len();
            match self
                .send(term, &prepared.records, prepared.progress)
                .await?
            {
                Sent::Committed => {
                    self.meter.published(count, oldest);
                    return Ok(Part::Passed);
                }
                Sent::Refused { record, reason } => {
                    let row = prepared.row_of.get(record).copied().unwrap_or(0);
                    return Ok(Part::Refused {
                        row: part.start + row,
                        among: count,
                        reason,
                    });
                }
                // Kafka named several topics and did not say which one: each row alone tells.
                Sent::GivenUp(topic) if rows.iter().all(|row| row.topic() != topic.topic) => {
                    return Ok(Part::Refused {
                        row: part.start + prepared.row_of.first().copied().unwrap_or(0),
                        among: count.max(2),
                        reason: topic.reason,
                    });
                }
                Sent::GivenUp(topic) => return Ok(Part::GivenUp(topic)),
                Sent::TryAgain => {}
            }
        }
    }

    /// Stores rows whose key is parked, and finds a row that can't be published.
    async fn look_over(
        &mut self,
        term: &mut Term<D, Br>,
        rows: &[OutboxRow],
        start: usize,
    ) -> Result<Option<Part>, Exit> {
        self.withhold(term, rows).await?;
        // No topic of that name can ever exist, so waiting for it would hold the source for good.
        let nameless = records::nameless(rows, |row| !term.parked.contains(row));
        Ok(nameless.map(|row| Part::Refused {
            row: start + row,
            among: 1,
            reason: records::NO_TOPIC_NAME.to_owned(),
        }))
    }

    /// Makes the records of a part.
    async fn prepare(
        &mut self,
        term: &mut Term<D, Br>,
        batch: &Batch,
        part: Range<usize>,
    ) -> Result<Ready, Exit> {
        let rows = batch.rows.get(part.clone()).unwrap_or_default();
        let missing = term
            .topics
            .missing(rows.iter().filter(|row| !term.parked.contains(row)));
        if !missing.is_empty() {
            self.learn_topics(term, missing).await?;
        }
        let prepared = records::prepare(
            &self.name,
            &term.standing.progress,
            rows,
            |row| !term.parked.contains(row),
            &term.topics,
            SystemClock.now(),
        );
        match prepared {
            Ok(mut prepared) => {
                records::pass(&mut prepared.progress, rows, batch.cursor_after(part.end));
                Ok(Ready::Prepared(Box::new(prepared)))
            }
            Err(Unready::UnknownTopic { index: 0, topic }) => {
                let given_up = self.hold_for_topic(&topic).await?;
                Ok(given_up.map_or(Ready::NotYet, Ready::GivenUp))
            }
            Err(Unready::UnknownTopic { index, .. }) => Ok(Ready::SplitAt(part.start + index)),
            Err(Unready::Repartitioned { topic, before, now }) => {
                Err(Exit::Broken(Stop::repartitioned(&topic, before, now)))
            }
        }
    }

    /// One Kafka transaction. On [`Sent::Committed`] the term stands at `progress`.
    pub(super) async fn send(
        &mut self,
        term: &mut Term<D, Br>,
        records: &Arc<Records>,
        progress: ProgressRecord,
    ) -> Result<Sent, Exit> {
        // CRASH: died here = nothing sent; the successor reads the same rows again.
        failpoint::hit(failpoint::PUBLISHING);
        let records = if breach::is_broken(breach::ONE_TRANSACTION) {
            self.publish_rows_alone(term, records).await?;
            &Arc::default()
        } else {
            records
        };
        let spans = Spans::open(&self.name, records);
        let started = Instant::now();
        let written = term.standing.shortened(&progress);
        let in_full = written.partitions_since.is_none();
        let outcome = tokio::select! {
            outcome = term.publisher.publish(records, &written).instrument(spans.batch()) => outcome,
            () = self.stop_overdue() => {
                return Err(Exit::Stop);
            }
        };
        spans.close(&outcome);
        self.meter.sent(started.elapsed(), &outcome);
        match outcome {
            PublishOutcome::Committed {
                progress_offset,
                dirty,
            } => {
                // CRASH: died here = rows and cursor are in Kafka together; the successor reads
                // that progress and resumes after these rows.
                failpoint::hit(failpoint::COMMITTED);
                if progress_offset <= term.standing.offset {
                    // Nothing else writes there: only a topic made anew begins again. Taking over
                    // compares its id.
                    return Err(Exit::Anew("the progress topic was made anew".into()));
                }
                drop(written);
                term.standing.advance(progress, progress_offset, in_full);
                self.show_standing(term);
                if dirty {
                    return Err(Exit::Anew(
                        "the producer saw trouble on the way to a known commit".into(),
                    ));
                }
                self.calm();
                if !self.waited_for.is_empty() {
                    for destination in records.destinations() {
                        self.waited_for.remove(&*destination.topic);
                    }
                }
                Ok(Sent::Committed)
            }
            PublishOutcome::NotCommitted(Refusal::Record { index, reason }) => Ok(Sent::Refused {
                record: index,
                reason,
            }),
            PublishOutcome::NotCommitted(Refusal::Topic { topic, reason }) => {
                term.topics.forget(&topic);
                let reason = format!("topic {topic}: {reason}");
                let given_up = self
                    .wait_for_topic(
                        &topic,
                        &reason,
                        "create the topic or grant the relay the right to write it; the source goes on by itself",
                    )
                    .await?;
                Ok(given_up.map_or(Sent::TryAgain, Sent::GivenUp))
            }
            PublishOutcome::NotCommitted(Refusal::Progress(reason)) => {
                self.hold(
                    &format!("progress record refused: {reason}"),
                    "check the progress topic's settings and rights with `outbox-relay check`",
                )
                .await?;
                Ok(Sent::TryAgain)
            }
            PublishOutcome::NotCommitted(Refusal::Outage(reason)) => {
                self.outage(&reason).await?;
                Ok(Sent::TryAgain)
            }
            PublishOutcome::Unknown(reason) => Err(Exit::Anew(reason)),
            PublishOutcome::Fenced => Err(Exit::Lost("fenced by a newer relay".into())),
        }
    }

    /// What no relay does unless a test breaks the rule.
    async fn publish_rows_alone(
        &mut self,
        term: &mut Term<D, Br>,
        records: &Arc<Records>,
    ) -> Result<(), Exit> {
        let standing = &term.standing.progress;
        let outcome = term.publisher.publish(records, standing).await;
        let PublishOutcome::Committed {
            progress_offset, ..
        } = outcome
        else {
            return Err(Exit::Anew("rows alone were not committed".into()));
        };
        term.standing.offset = progress_offset;
        failpoint::hit(failpoint::COMMITTED);
        Ok(())
    }

    /// Stores rows whose key is parked before the cursor may pass them.
    async fn withhold(&mut self, term: &mut Term<D, Br>, rows: &[OutboxRow]) -> Result<(), Exit> {
        let held: Vec<Parking<'_>> = rows
            .iter()
            .filter(|row| term.parked.contains(row))
            .map(|row| Parking {
                row,
                reason: "queues behind a parked row",
            })
            .collect();
        if held.is_empty() {
            return Ok(());
        }
        self.store_parked(term, &held).await
    }

    /// Parks the key of a guilty row; a row without a key is parked alone.
    async fn park(
        &mut self,
        term: &mut Term<D, Br>,
        row: &OutboxRow,
        reason: &str,
    ) -> Result<(), Exit> {
        tracing::error!(
            source = %self.name, message.id = %row.message_id, message.type = row.message_type(),
            topic = row.topic(), reason, "row refused alone; its key is parked"
        );
        self.store_parked(term, &[Parking { row, reason }]).await?;
        term.parked.insert(row);
        self.show_parked(term, row.topic(), reason);
        Ok(())
    }

    /// Parks the keys of all of a topic's rows, so that those of other topics go on.
    async fn park_topic(
        &mut self,
        term: &mut Term<D, Br>,
        rows: &[OutboxRow],
        GivenUp { topic, reason }: &GivenUp,
    ) -> Result<(), Exit> {
        let of_topic = rows.iter().filter(|row| row.topic() == topic.as_str());
        let new = of_topic.filter(|row| !term.parked.contains(row));
        let parking: Vec<Parking<'_>> = new.map(|row| Parking { row, reason }).collect();
        tracing::error!(source = %self.name, topic, reason, rows = parking.len(),
            "waited for the topic long enough; its rows are parked");
        self.store_parked(term, &parking).await?;
        for Parking { row, .. } in &parking {
            term.parked.insert(row);
        }
        self.show_parked(term, topic, reason);
        Ok(())
    }

    fn show_parked(&self, term: &Term<D, Br>, topic: &str, reason: &str) {
        self.board.write(|status| {
            status.parked_keys = term.parked.len();
            status.last_error = Some(format!("{topic} parked: {reason}"));
        });
    }

    async fn store_parked(
        &mut self,
        term: &mut Term<D, Br>,
        rows: &[Parking<'_>],
    ) -> Result<(), Exit> {
        // CRASH: died here = Kafka refused the row and nothing is stored; the successor finds the
        // culprit again.
        failpoint::hit(failpoint::PARKING);
        if breach::is_broken(breach::PARKED_FIRST) {
            return Ok(());
        }
        for some in rows.chunks(PARKED_AT_ONCE) {
            loop {
                let store = term.work.store().await?;
                let stored = store.park(term.epoch, some).await;
                if self.stored(term, stored).await?.is_some() {
                    break;
                }
            }
            // CRASH: died here = these copies are stored and the cursor has passed none of the rows; the
            // successor reads them again, finds the keys parked, stores nothing twice, passes them.
            failpoint::hit(failpoint::PARKED);
            self.meter.add(crate::metrics::PARKED, some.len() as u64);
        }
        Ok(())
    }

    /// Waits until every topic in `missing` was asked for; those that do not exist stay unknown.
    pub(super) async fn learn_topics(
        &mut self,
        term: &mut Term<D, Br>,
        missing: Vec<String>,
    ) -> Result<(), Exit> {
        loop {
            let stop = self.stop.clone();
            let refreshed = tokio::select! {
                refreshed = term.topics.refresh(&self.broker, missing.clone()) => refreshed,
                // A dead broker lets the question wait for many seconds.
                () = stop.cancelled_owned() => return Err(Exit::Stop),
            };
            match refreshed {
                Ok(()) => return Ok(()),
                Err(BrokerError::Configuration(reason)) => {
                    self.hold(
                        &reason,
                        "grant the relay the rights it asks for; the source goes on by itself",
                    )
                    .await?;
                }
                Err(error) => self.broker_trouble(error).await?,
            }
        }
    }

    /// The source can't go on until something is mended: says so, and waits a second.
    pub(super) async fn hold(&mut self, why: &str, way_out: &str) -> Result<(), Exit> {
        // The reason first: whoever sees the state must find it.
        self.board.write(|status| {
            status.alarm = true;
            status.last_error = Some(why.to_owned());
            status.way_out = Some(way_out.to_owned());
        });
        if self.phase != crate::Phase::Hold {
            self.step(Input::Blocked)?;
            self.meter.alarm(true);
            tracing::error!(source = %self.name, reason = why, way_out, "source holds");
        }
        self.pause(Duration::from_secs(1)).await
    }

    /// [`Self::hold`] for a topic that does not exist; or else it is given up.
    pub(super) async fn hold_for_topic(&mut self, topic: &str) -> Result<Option<GivenUp>, Exit> {
        self.wait_for_topic(
            topic,
            &format!("topic {topic} does not exist"),
            "create the topic; the source goes on by itself",
        )
        .await
    }

    async fn wait_for_topic(
        &mut self,
        topic: &str,
        why: &str,
        way_out: &str,
    ) -> Result<Option<GivenUp>, Exit> {
        let most = Duration::from_millis(self.options.topic_hold_ms);
        let since = self.waited_for.entry(topic.to_owned());
        if since.or_insert_with(Instant::now).elapsed() >= most && !most.is_zero() {
            return Ok(Some(GivenUp {
                topic: topic.to_owned(),
                reason: why.to_owned(),
            }));
        }
        self.hold(why, way_out).await?;
        Ok(None)
    }

    /// Kafka is away: nobody's fault, uses no attempt.
    async fn outage(&mut self, reason: &str) -> Result<(), Exit> {
        tracing::warn!(source = %self.name, reason, "Kafka is not available; trying again");
        self.board
            .write(|status| status.last_error = Some(format!("Kafka is not available: {reason}")));
        self.pause(Duration::from_millis(200)).await
    }
}
