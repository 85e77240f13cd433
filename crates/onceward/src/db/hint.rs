//! The wake-up hint: after a commit that appended something, the relay is told to look.
//!
//! Best effort, on a connection of its own and outside the business transaction, because NOTIFY in
//! a transaction takes a database-wide lock at commit. Hints that come while one is under way
//! become one. SQLite needs none: the relay watches `PRAGMA data_version`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::writer::{Options, pool};
use crate::Backend;

/// Postgres channel on which hints are sent. The relay listens; the payload means nothing.
pub const HINT_CHANNEL: &str = "onceward_outbox";
/// Sends one.
const NOTIFY: &str = "notify onceward_outbox";

/// Least time between two hints: a relay that was just woken is polling anyway.
const PAUSE: Duration = Duration::from_millis(5);
/// Wait after a failed hint; the relay's own polling covers for it.
const BACK_OFF: Duration = Duration::from_secs(1);

/// Notes that there is something to publish. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Hint {
    wanted: Arc<Notify>,
}

impl Hint {
    /// Asks for a hint; never waits.
    pub(super) fn note(&self) {
        self.wanted.notify_one();
    }

    /// Sends what is asked for, until `stop`.
    pub(super) async fn send_all<B: Backend>(self, options: Options<B>, stop: CancellationToken) {
        let connection = pool::<B>(options, 1);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.wanted.notified() => {}
            }
            let sent = sqlx::query(NOTIFY).execute(&connection).await;
            let pause = match sent {
                Ok(_) => PAUSE,
                Err(error) => {
                    tracing::debug!(%error, "hint not sent");
                    BACK_OFF
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        connection.close().await;
    }
}
