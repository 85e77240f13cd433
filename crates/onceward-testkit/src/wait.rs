//! Waiting for a state, with a time-out that says what was waited for.

use std::panic::Location;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::Result;

/// Asks `state` every 10 ms until it gives a value; after `at_most` fails naming `what` and the
/// caller's line. May be called from any thread; blocks it.
#[track_caller]
pub fn until<T>(
    what: &str,
    at_most: Duration,
    mut state: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let caller = Location::caller();
    let deadline = Instant::now() + at_most;
    loop {
        if let Some(value) = state()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!(
                "{what}: not within {at_most:?} ({}:{})",
                caller.file(),
                caller.line()
            );
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
