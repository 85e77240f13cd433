//! Time and ids come in from outside, so that tests choose them and a rerun writes the same.

use std::fmt::Debug;
use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;

/// Microseconds since the Unix epoch, UTC. What every `*_at` column holds.
pub type Micros = i64;

/// Where the time comes from.
pub trait Clock: Debug + Send + Sync {
    /// Now, in microseconds since the Unix epoch.
    fn now(&self) -> Micros;
}

/// Where new ids come from.
pub trait IdGen: Debug + Send + Sync {
    /// A fresh id; UUID v7 in production, so that ids sort by time.
    fn next(&self) -> Uuid;
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that asks the system"
    )]
    fn now(&self) -> Micros {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    }
}

/// UUID v7 (RFC 9562).
#[derive(Debug, Clone, Copy, Default)]
pub struct UuidV7;

impl IdGen for UuidV7 {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that asks the system"
    )]
    fn next(&self) -> Uuid {
        Uuid::now_v7()
    }
}
