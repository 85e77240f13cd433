//! A source, a relay process and a plain consumer.

pub mod relay;
pub mod source;
pub mod topic;

use std::time::Duration;

use onceward_testkit::{Result, wait};

/// Long enough for a loaded machine; a test that waits this long fails.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Waits for a state; naming what was waited for.
#[track_caller]
pub fn until<T>(what: &str, state: impl FnMut() -> Result<Option<T>>) -> T {
    match wait::until(what, PATIENCE, state) {
        Ok(value) => value,
        Err(error) => panic!("{error:#}"),
    }
}
