//! Hints by LISTEN: a service's unit of work notifies after its commit, best-effort.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::super::SourceError;
use super::super::dialect::{Wake, Woken};
use crate::db::{HINT_CHANNEL, parse_postgres};

/// A hint this late after its rows were found still counts as one.
const HINT_GRACE: Duration = Duration::from_millis(200);
/// How long polls stay short after rows came without a hint.
const DISTRUST: Duration = Duration::from_secs(60);
const RECONNECT_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
struct Heard {
    count: u64,
    last: Option<Instant>,
    connected: bool,
}

/// Listens on [`HINT_CHANNEL`](crate::HINT_CHANNEL) on a connection of its own.
#[derive(Debug)]
pub struct PostgresWake {
    heard: watch::Receiver<Heard>,
    task: JoinHandle<()>,
    /// When a poll last found rows nobody had hinted at.
    unhinted: Option<Instant>,
}

impl PostgresWake {
    pub(super) async fn listen(url: &str) -> Result<Self, SourceError> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect_lazy_with(parse_postgres(url)?);
        let (told, heard) = watch::channel(Heard {
            count: 0,
            last: None,
            connected: false,
        });
        let mut first = heard.clone();
        let task = tokio::spawn(async move {
            while !told.is_closed() {
                // Whoever listens again must look at once: hints were missed meanwhile.
                let end = hear(&pool, &told).await;
                told.send_modify(|heard| heard.connected = false);
                tracing::debug!(reason = %end, "hints stopped; polling");
                sleep(RECONNECT_AFTER).await;
            }
        });
        // Listening from the start where possible; without it polls alone find the rows.
        let _connected = timeout(RECONNECT_AFTER, first.wait_for(|heard| heard.connected)).await;
        Ok(Self {
            heard,
            task,
            unhinted: None,
        })
    }
}

/// Hears hints until the connection is lost, and says why.
async fn hear(pool: &sqlx::PgPool, told: &watch::Sender<Heard>) -> String {
    let listen = async {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.eager_reconnect(false);
        listener.listen(HINT_CHANNEL).await?;
        Ok(listener)
    };
    let mut listener = match listen.await {
        Ok(listener) => listener,
        Err::<_, sqlx::Error>(error) => return error.to_string(),
    };
    told.send_modify(|heard| {
        heard.connected = true;
        heard.count += 1;
    });
    loop {
        match listener.try_recv().await {
            Ok(Some(_)) => told.send_modify(|heard| {
                heard.count += 1;
                heard.last = Some(Instant::now());
            }),
            Ok(None) => return "connection lost".to_owned(),
            Err(error) => return error.to_string(),
        }
    }
}

impl Drop for PostgresWake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Wake for PostgresWake {
    async fn wait(&mut self, longest: Duration) -> Woken {
        // Not marked as seen before the wait: a hint that came since the last one ends it at once.
        match timeout(longest, self.heard.changed()).await {
            Ok(Ok(())) => Woken::Hint,
            Ok(Err(_)) | Err(_) => Woken::Timeout,
        }
    }

    fn idle_poll(&self) -> Duration {
        let heard = *self.heard.borrow();
        let hinting = heard.connected && heard.last.is_some();
        let distrusted = self.unhinted.is_some_and(|found| {
            let forgiven = heard.last.is_some_and(|last| last + HINT_GRACE >= found);
            !forgiven && found.elapsed() < DISTRUST
        });
        Duration::from_millis(if hinting && !distrusted { 250 } else { 25 })
    }

    fn found_unhinted(&mut self) {
        self.unhinted = Some(Instant::now());
    }
}
