//! What others may see of a running consumer.

use std::sync::{Arc, Mutex, PoisonError};

use super::TopicPartition;
use crate::ConsumerName;

/// A look at a running consumer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Mutex<ConsumerStatus>>,
    refusal: Arc<Mutex<Option<String>>>,
}

/// How a consumer stands.
#[derive(Debug, Clone, PartialEq)]
pub struct ConsumerStatus {
    /// Its name.
    pub name: ConsumerName,
    /// What it is doing.
    pub state: ConsumerState,
    /// The partitions it holds, ordered by topic and number.
    pub partitions: Vec<PartitionStatus>,
    /// Batches thrown away in the last minute because a newer owner had claimed. More than 3 is an
    /// alarm: two instances are fighting.
    pub fenced_last_minute: usize,
    /// What is wrong at the moment and is waited out: database or broker not reachable.
    pub trouble: Option<String>,
}

/// What a consumer is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsumerState {
    /// Not running yet, or not yet given any partition.
    Joining,
    /// Holding partitions.
    Running,
    /// `run` has returned.
    Stopped,
}

/// How one partition stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Which one.
    pub at: TopicPartition,
    /// Next offset to handle, as committed in the database.
    pub next_offset: i64,
    /// The partition's end, as last heard.
    pub log_end: Option<i64>,
    /// Messages that wait.
    pub waiting: usize,
    /// Keys parked behind a dead letter.
    pub dead_keys: usize,
    /// Paused because too many messages wait. With `dead_keys` above 0 this is an alarm: it will
    /// not end by itself.
    pub paused: bool,
    /// Why it stopped loudly.
    pub stopped: Option<String>,
}

impl PartitionStatus {
    /// Offsets between `next_offset` and the end, as far as the end is known.
    pub fn lag(&self) -> Option<i64> {
        self.log_end.map(|end| (end - self.next_offset).max(0))
    }
}

impl ConsumerStatus {
    /// Partitions that stopped loudly.
    pub fn stopped(&self) -> impl Iterator<Item = &PartitionStatus> {
        self.partitions.iter().filter(|p| p.stopped.is_some())
    }

    /// Offsets not yet handled, of all partitions held.
    pub fn lag(&self) -> i64 {
        self.partitions
            .iter()
            .filter_map(PartitionStatus::lag)
            .sum()
    }
}

impl Handle {
    pub(super) fn new(name: ConsumerName) -> Self {
        let status = ConsumerStatus {
            name,
            state: ConsumerState::Joining,
            partitions: Vec::new(),
            fenced_last_minute: 0,
            trouble: None,
        };
        Self {
            shared: Arc::new(Mutex::new(status)),
            refusal: Arc::default(),
        }
    }

    /// The status now.
    pub fn status(&self) -> ConsumerStatus {
        let status = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        status.clone()
    }

    /// What Kafka refuses this consumer for (password, certificate, a missing right), until a person
    /// has mended it. It is tried again and again meanwhile.
    pub fn refusal(&self) -> Option<String> {
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        refusal.clone()
    }

    /// What was there before.
    pub(super) fn set_refusal(&self, what: Option<String>) -> Option<String> {
        let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut refusal, what)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut ConsumerStatus)) {
        let mut status = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut status);
    }
}
