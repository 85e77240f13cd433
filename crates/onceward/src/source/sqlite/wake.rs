//! Wake-ups: whoever commits, of whatever process, writes into the WAL first.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::Connection;
use tokio::time::{Instant, sleep_until};

use super::super::SourceError;
use super::super::dialect::{Wake, Woken};
use super::reader::{blocking, failed, open};

/// Names the operation in errors.
const LOOKING: &str = "data_version";
/// How often `PRAGMA data_version` (6 µs) is asked at once after somebody has written: a thread
/// sleeps, because the runtime's timer makes two milliseconds of one.
const LOOK_AT_ONCE_EVERY: Duration = Duration::from_micros(200);
/// How long it is asked that often. A commit shows once it is on the disk.
const AT_ONCE: Duration = Duration::from_millis(3);
/// How often it is asked at first after that.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How long it is asked, ever more seldom.
const COMMITTING: Duration = Duration::from_millis(100);
/// How often it is asked where the system does not tell of writes.
const LOOK_BLINDLY_EVERY: Duration = Duration::from_millis(4);

/// Waits for commits of other connections: the system tells when the WAL is written to, and
/// `PRAGMA data_version` whether that was a commit. It is asked on a connection of its own that never
/// has a transaction open: inside a read transaction it would not move.
#[derive(Debug)]
pub struct SqliteWake {
    path: PathBuf,
    /// With the version that was seen by it; versions of two connections have nothing in common.
    looker: Option<Looker>,
    watch: Option<Watch>,
    /// When the WAL was last seen to be written to.
    written: Option<Instant>,
}

#[derive(Debug)]
struct Looker {
    conn: Connection,
    seen: Option<i64>,
}

impl Looker {
    /// Looks each [`LOOK_AT_ONCE_EVERY`] until `until`, once at least: whether somebody has committed since
    /// the last look.
    fn look(&mut self, until: Instant) -> rusqlite::Result<bool> {
        loop {
            let mut statement = self.conn.prepare_cached("PRAGMA data_version")?;
            let version = statement.query_row((), |row| row.get(0))?;
            if self.seen.replace(version) != Some(version) {
                return Ok(true);
            }
            if Instant::now() + LOOK_AT_ONCE_EVERY >= until {
                return Ok(false);
            }
            std::thread::sleep(LOOK_AT_ONCE_EVERY);
        }
    }
}

impl SqliteWake {
    pub(super) async fn watch(url: &str) -> Result<Self, SourceError> {
        let path = super::options(url)?.get_filename().to_owned();
        let mut wake = Self {
            path,
            looker: None,
            watch: None,
            written: None,
        };
        wake.look(Instant::now()).await?;
        // Only now there is a WAL: the connection's first statement makes it.
        wake.watch = Watch::over(&wake.path);
        Ok(wake)
    }

    /// Whether somebody has committed since the last look; looks until `until`, once at least.
    async fn look(&mut self, until: Instant) -> Result<bool, SourceError> {
        let kept = self.looker.take();
        let path = self.path.clone();
        // Given up half-way, the thread closes the connection; the next look opens one.
        let looking = blocking(LOOKING, move || {
            let mut looker = match kept {
                Some(looker) => looker,
                None => Looker {
                    conn: open(&path).map_err(failed(LOOKING))?,
                    seen: None,
                },
            };
            let moved = looker.look(until).map_err(failed(LOOKING))?;
            Ok((looker, moved))
        });
        let (looker, moved) = looking.await?;
        self.looker = Some(looker);
        Ok(moved)
    }

    /// Waits until it is worth another look, at most until `until`; says until when to look.
    async fn doze(&mut self, until: Instant) -> Instant {
        let looked = Instant::now();
        // `None` if nobody has written of late.
        let age = self.written.map(|at| looked.duration_since(at));
        let age = age.filter(|age| *age < COMMITTING);
        let Some(watch) = &mut self.watch else {
            sleep_until(until.min(looked + LOOK_BLINDLY_EVERY)).await;
            return looked;
        };
        if let Some(age) = age {
            // Whoever writes writes often: a look for each write would be too many. And what takes long
            // may take longer: each lease of an idle source would else be followed by a hundred looks.
            let pause = LOOK_EVERY.max(age / 4);
            sleep_until(until.min(looked + pause)).await;
            if !watch.has_written() {
                return looked;
            }
        } else {
            tokio::select! {
                () = sleep_until(until) => return looked,
                is_sound = watch.written() => {
                    if !is_sound {
                        self.watch = None;
                    }
                }
            }
        }
        let now = Instant::now();
        self.written = Some(now);
        until.min(now + AT_ONCE)
    }
}

impl Wake for SqliteWake {
    async fn wait(&mut self, timeout: Duration) -> Woken {
        let until = Instant::now() + timeout;
        let mut look_until = Instant::now();
        loop {
            match self.look(look_until).await {
                Ok(true) => return Woken::Hint,
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(error = %error, "no data_version; polling");
                    sleep_until(until).await;
                    return Woken::Timeout;
                }
            }
            if Instant::now() >= until {
                return Woken::Timeout;
            }
            look_until = self.doze(until).await;
        }
    }

    fn idle_poll(&self) -> Duration {
        let watching = self.looker.is_some();
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

    use std::path::Path;

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
    fn over(_database: &std::path::Path) -> Option<Self> {
        None
    }
    async fn written(&mut self) -> bool {
        match *self {}
    }
    fn has_written(&mut self) -> bool {
        match *self {}
    }
}
