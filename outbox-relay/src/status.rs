//! What a running relay tells about itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use onceward::{Cursor, SourceName};
use serde::{Deserialize, Serialize};

use crate::phase::Phase;

/// What the relay knows of one source. Times are ages at the moment of asking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Name of the source.
    pub source: SourceName,
    /// `sqlite` or `postgres`.
    pub database: String,
    /// Where the worker stands.
    pub state: Phase,
    /// Instance that holds the lease, as last seen in the database.
    pub owner: Option<String>,
    /// The claim this process holds; `None` as standby.
    pub relay_epoch: Option<i64>,
    /// Rows published so far, by the last known progress.
    pub position: i64,
    /// Rows passed so far: published or parked.
    pub passed: i64,
    /// The cursor of the last known progress.
    pub cursor: Option<Cursor>,
    /// Rows not yet passed; `None` where it is not known (as standby).
    pub unpublished_rows: Option<i64>,
    /// Counting stopped there: there are at least that many.
    pub unpublished_capped: bool,
    /// Age of the oldest of them in milliseconds.
    pub oldest_age_ms: Option<i64>,
    /// Keys parked, and rows parked without a key.
    pub parked_keys: usize,
    /// Why the source holds or stopped, or the last trouble it came through.
    pub last_error: Option<String>,
    /// What a person can do about a stop.
    pub way_out: Option<String>,
    /// Something needs a person.
    pub alarm: bool,
}

impl SourceStatus {
    fn new(source: SourceName, database: &str) -> Self {
        Self {
            source,
            database: database.to_owned(),
            state: Phase::Standby,
            owner: None,
            relay_epoch: None,
            position: 0,
            passed: 0,
            cursor: None,
            unpublished_rows: None,
            unpublished_capped: false,
            oldest_age_ms: None,
            parked_keys: 0,
            last_error: None,
            way_out: None,
            alarm: false,
        }
    }

    /// Whether the source works, here or at another relay.
    pub fn is_ready(&self) -> bool {
        match self.state {
            Phase::Tail => !self.alarm,
            // A standby looks and asks for the lease again and again.
            Phase::Standby | Phase::Look | Phase::Claim => self.owner.is_some(),
            Phase::Open
            | Phase::ReadProgress
            | Phase::TakeOver
            | Phase::Hold
            | Phase::Stopped
            | Phase::Ended => false,
        }
    }
}

/// What a relay knows of all its sources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RelayStatus {
    /// Version of this form.
    pub format: u32,
    /// This process among the relays.
    pub instance_id: String,
    /// One entry per source, in the order they were given.
    pub sources: Vec<SourceStatus>,
}

/// A cheap view into a running [`Relay`](crate::Relay).
#[derive(Debug, Clone)]
pub struct Handle {
    instance_id: Arc<str>,
    sources: Arc<Vec<Board>>,
}

impl Handle {
    pub(crate) fn new(instance_id: &str, sources: Vec<Board>) -> Self {
        Self {
            instance_id: instance_id.into(),
            sources: Arc::new(sources),
        }
    }

    /// The state of every source.
    pub fn status(&self) -> RelayStatus {
        RelayStatus {
            format: 1,
            instance_id: self.instance_id.to_string(),
            sources: self.sources.iter().map(Board::read).collect(),
        }
    }

    /// Whether every source works, here or at another relay.
    pub fn is_ready(&self) -> bool {
        self.sources.iter().all(|board| board.read().is_ready())
    }

    pub(crate) fn boards(&self) -> &[Board] {
        &self.sources
    }
}

/// Where one worker writes its status. Never locked across an await.
#[derive(Debug, Clone)]
pub(crate) struct Board {
    status: Arc<Mutex<SourceStatus>>,
    caught_up: Arc<Mutex<Option<Instant>>>,
}

impl Board {
    pub(crate) fn new(source: SourceName, database: &str) -> Self {
        Self {
            status: Arc::new(Mutex::new(SourceStatus::new(source, database))),
            caught_up: Arc::default(),
        }
    }

    /// When a fetch last found nothing unpublished; `None` since one found rows.
    pub(crate) fn caught_up(&self) -> Option<Instant> {
        *unpoisoned(&self.caught_up)
    }

    pub(crate) fn set_caught_up(&self, at: Option<Instant>) {
        *unpoisoned(&self.caught_up) = at;
    }

    pub(crate) fn read(&self) -> SourceStatus {
        unpoisoned(&self.status).clone()
    }

    pub(crate) fn write(&self, change: impl FnOnce(&mut SourceStatus)) {
        change(&mut unpoisoned(&self.status));
    }
}

/// A panic while writing plain fields leaves nothing half-done worth refusing to read.
fn unpoisoned<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
