//! Wake-ups: whoever commits, of whatever process, writes into the WAL first.

use std::path::Path;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnection;
use tokio::time::{Instant, sleep_until};

use super::super::SourceError;
use super::super::dialect::{Wake, Woken};
use super::options;

/// How often `PRAGMA data_version` (6 µs) is asked at first after somebody has written.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How long it is asked, ever more seldom. A commit shows once it is on the disk.
const COMMITTING: Duration = Duration::from_millis(100);
/// How often it is asked where the system does not tell of writes.
const LOOK_BLINDLY_EVERY: Duration = Duration::from_millis(4);

/// Waits for commits of other connections: the system tells when the WAL is written to, and
/// `PRAGMA data_version` whether that was a commit. It is asked on a connection of its own that never
/// has a transaction open: inside a read transaction it would not move.
#[derive(Debug)]
pub struct SqliteWake {
    url: String,
    conn: Option<SqliteConnection>,
    seen: Option<i64>,
    watch: Option<Watch>,
    /// When the WAL was last seen to be written to.
    written: Option<Instant>,
}

impl SqliteWake {
    pub(super) async fn watch(url: &str) -> Result<Self, SourceError> {
        let mut wake = Self {
            url: url.to_owned(),
            conn: None,
            seen: None,
            watch: None,
            written: None,
        };
        wake.look().await?;
        // Only now there is a WAL: the connection's first statement makes it.
        wake.watch = Watch::over(options(url)?.get_filename());
        Ok(wake)
    }

    /// Whether somebody has committed since the last look.
    async fn look(&mut self) -> Result<bool, SourceError> {
        let conn = match &mut self.conn {
            Some(conn) => conn,
            None => {
                let conn = options(&self.url)?
                    .connect()
                    .await
                    .map_err(SourceError::database("connect"))?;
                self.conn.insert(conn)
            }
        };
        let version: i64 = sqlx::query_scalar("PRAGMA data_version")
            .fetch_one(conn)
            .await
            .map_err(SourceError::database("data_version"))?;
        Ok(self.seen.replace(version) != Some(version))
    }

    /// Waits until it is worth another look, at most until `until`.
    async fn doze(&mut self, until: Instant) {
        let looked = Instant::now();
        // `None` if nobody has written of late.
        let age = self.written.map(|at| looked.duration_since(at));
        let age = age.filter(|age| *age < COMMITTING);
        let Some(watch) = &mut self.watch else {
            return sleep_until(until.min(looked + LOOK_BLINDLY_EVERY)).await;
        };
        if let Some(age) = age {
            // Whoever writes writes often: a look for each write would be too many. And what takes long
            // may take longer: each lease of an idle source would else be followed by a hundred looks.
            let pause = LOOK_EVERY.max(age / 4);
            sleep_until(until.min(looked + pause)).await;
            if watch.has_written() {
                self.written = Some(Instant::now());
            }
            return;
        }
        tokio::select! {
            () = sleep_until(until) => {}
            is_sound = watch.written() => {
                self.written = Some(Instant::now());
                if !is_sound {
                    self.watch = None;
                }
            }
        }
    }
}

impl Wake for SqliteWake {
    async fn wait(&mut self, timeout: Duration) -> Woken {
        let until = Instant::now() + timeout;
        loop {
            match self.look().await {
                Ok(true) => return Woken::Hint,
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(error = %error, "no data_version; polling");
                    (self.conn, self.seen) = (None, None);
                    sleep_until(until).await;
                    return Woken::Timeout;
                }
            }
            if Instant::now() >= until {
                return Woken::Timeout;
            }
            self.doze(until).await;
        }
    }

    fn idle_poll(&self) -> Duration {
        let watching = self.conn.is_some();
        Duration::from_millis(if watching { 250 } else { 25 })
    }

    // Every commit moves data_version, whoever makes it.
    fn found_unhinted(&mut self) {}
}

#[cfg(target_os = "linux")]
use linux::Watch;

/// By inotify.
#[cfg(target_os = "linux")]
mod linux {
    use futures::{FutureExt, StreamExt};
    use inotify::{EventStream, Inotify, WatchMask};

    use super::Path;

    pub(super) struct Watch {
        events: EventStream<[u8; 4096]>,
    }

    impl std::fmt::Debug for Watch {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Watch").finish_non_exhaustive()
        }
    }

    impl Watch {
        /// `None` where the system refuses, for instance because too many files are watched already.
        pub(super) fn over(database: &Path) -> Option<Self> {
            let mut wal = database.as_os_str().to_owned();
            wal.push("-wal");
            let watch = || {
                let inotify = Inotify::init()?;
                inotify.watches().add(Path::new(&wal), WatchMask::MODIFY)?;
                inotify.into_event_stream([0; 4096])
            };
            match watch() {
                Ok(events) => Some(Self { events }),
                Err(error) => {
                    tracing::debug!(error = %error, "writes into the WAL are not told of; polling");
                    None
                }
            }
        }

        /// Comes when somebody has written; whether it can be waited for again.
        pub(super) async fn written(&mut self) -> bool {
            matches!(self.events.next().await, Some(Ok(_)))
        }

        /// Whether somebody has written since the last time; forgets what is known.
        pub(super) fn has_written(&mut self) -> bool {
            let mut has = false;
            while let Some(Some(Ok(_))) = self.events.next().now_or_never() {
                has = true;
            }
            has
        }
    }
}

#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
enum Watch {}

#[cfg(not(target_os = "linux"))]
impl Watch {
    fn over(_database: &Path) -> Option<Self> {
        None
    }
    async fn written(&mut self) -> bool {
        match *self {}
    }
    fn has_written(&mut self) -> bool {
        match *self {}
    }
}
