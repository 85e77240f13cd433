//! Metrics of one source.

use std::time::Duration;

use metrics::{counter, gauge, histogram};
use onceward::publisher::{PublishOutcome, Refusal};
use onceward::{Clock, Micros, SourceName, SystemClock};

use crate::metrics as names;
use crate::phase::Phase;

pub(super) struct Meter {
    source: String,
}

impl Meter {
    pub(super) fn new(source: &SourceName) -> Self {
        Self {
            source: source.to_string(),
        }
    }

    pub(super) fn phase(&self, now: Phase) {
        for phase in Phase::ALL {
            let value = if phase == now { 1.0 } else { 0.0 };
            gauge!(names::STATE, "source" => self.source.clone(), "state" => phase.as_str())
                .set(value);
        }
    }

    pub(super) fn alarm(&self, on: bool) {
        gauge!(names::ALARM, "source" => self.source.clone()).set(if on { 1.0 } else { 0.0 });
    }

    pub(super) fn count(&self, name: &'static str) {
        self.add(name, 1);
    }

    pub(super) fn add(&self, name: &'static str, amount: u64) {
        counter!(name, "source" => self.source.clone()).increment(amount);
    }

    pub(super) fn position(&self, position: i64) {
        // Exact up to 2^53.
        gauge!(names::POSITION, "source" => self.source.clone()).set(position as f64);
    }

    pub(super) fn backlog(&self, rows: i64, oldest: Micros) {
        gauge!(names::UNPUBLISHED, "source" => self.source.clone()).set(rows as f64);
        gauge!(names::OLDEST_SECONDS, "source" => self.source.clone()).set(oldest as f64 / 1e6);
    }

    pub(super) fn published(&self, records: usize, oldest: Option<Micros>) {
        self.add(names::PUBLISHED, records as u64);
        if let Some(oldest) = oldest {
            let delay = SystemClock.now().saturating_sub(oldest).max(0);
            histogram!(names::DELAY_SECONDS, "source" => self.source.clone())
                .record(delay as f64 / 1e6);
        }
    }

    pub(super) fn sent(&self, time: Duration, outcome: &PublishOutcome) {
        histogram!(names::PUBLISH_SECONDS, "source" => self.source.clone())
            .record(time.as_secs_f64());
        match failure(outcome) {
            None => self.count(names::COMMITTED),
            Some(outcome) => {
                counter!(names::UNCOMMITTED, "source" => self.source.clone(), "outcome" => outcome)
                    .increment(1);
            }
        }
    }
}

/// How a Kafka transaction ended that did not commit, in one word.
pub(super) fn failure(outcome: &PublishOutcome) -> Option<&'static str> {
    match outcome {
        PublishOutcome::Committed { .. } => None,
        PublishOutcome::NotCommitted(Refusal::Record { .. }) => Some("record_refused"),
        PublishOutcome::NotCommitted(Refusal::Topic { .. }) => Some("topic_refused"),
        PublishOutcome::NotCommitted(Refusal::Progress(_)) => Some("progress_refused"),
        PublishOutcome::NotCommitted(Refusal::Outage(_)) => Some("outage"),
        PublishOutcome::Unknown(_) => Some("unknown"),
        PublishOutcome::Fenced => Some("fenced"),
    }
}
