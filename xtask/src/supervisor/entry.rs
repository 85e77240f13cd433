//! One supervised process: what to run, and what became of it.

use std::collections::VecDeque;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use onceward_testkit::process::DeathGuard;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::LONGEST_DELAY;
use super::handle::{Event, Reply};
use crate::Result;
use crate::manifest::{Process, State};
use crate::probe::Ready;

/// What to run, and how.
pub struct Spec {
    /// Its name, unique.
    pub name: String,
    /// Makes the command, anew for each start.
    pub command: Box<dyn Fn() -> Command + Send>,
    /// The port it listens on, for the list.
    pub port: Option<u16>,
    /// Where it answers HTTP, for the list.
    pub url: Option<String>,
    /// How it shows that it is ready.
    pub ready: Ready,
    /// How long after its unexpected end it is started again.
    pub restart_after: Duration,
    /// Asks it to stop in order.
    pub stop_signal: Signal,
    /// After so long it is killed.
    pub stop_at_most: Duration,
    /// When everything stops, lower ranks go first.
    pub stop_rank: u8,
}

impl Spec {
    /// A process with the usual values: restarted at once, `SIGTERM`, 10 s, rank 0.
    pub fn new(name: &str, command: impl Fn() -> Command + Send + 'static) -> Self {
        Self {
            name: name.to_owned(),
            command: Box::new(command),
            port: None,
            url: None,
            ready: Ready::Running,
            restart_after: Duration::ZERO,
            stop_signal: Signal::SIGTERM,
            stop_at_most: Duration::from_secs(10),
            stop_rank: 0,
        }
    }
}

pub(super) struct Entry {
    pub(super) spec: Spec,
    pub(super) state: State,
    /// Number of the start; events of earlier ones are ignored.
    pub(super) run: u64,
    pub(super) pid: Option<u32>,
    pub(super) guard: Option<DeathGuard>,
    pub(super) restarts: u32,
    /// Starts in a row that came to nothing.
    pub(super) failures: u32,
    pub(super) started: Instant,
    pub(super) log_start: u64,
    /// When to start again (waiting) or to kill (stopping).
    pub(super) due: Option<Instant>,
    /// Why the start has failed, until it succeeds or somebody starts it anew.
    pub(super) failed: Option<String>,
    pub(super) ready_waiters: VecDeque<Reply>,
    pub(super) stop_waiters: VecDeque<Reply>,
}

impl Entry {
    pub(super) fn new(spec: Spec) -> Self {
        Self {
            spec,
            state: State::Stopped,
            run: 0,
            pid: None,
            guard: None,
            restarts: 0,
            failures: 0,
            started: Instant::now(),
            log_start: 0,
            due: None,
            failed: None,
            ready_waiters: VecDeque::new(),
            stop_waiters: VecDeque::new(),
        }
    }

    pub(super) fn launch(
        &mut self,
        log: &Path,
        events: mpsc::WeakUnboundedSender<Event>,
    ) -> Result<()> {
        self.state = State::Waiting; // until it really runs
        self.due = None;
        self.run += 1;
        self.started = Instant::now();
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        self.log_start = file.metadata()?.len();
        let mut command = (self.spec.command)();
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = tokio::process::Command::from(command)
            .process_group(0) // Ctrl-C is for the supervisor
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        let pid = child.id().context("it ended at once")?;
        self.pid = Some(pid);
        self.guard = Some(DeathGuard::over(Some(pid), None)?);
        self.state = State::Starting;
        let (name, run, ready) = (self.spec.name.clone(), self.run, self.spec.ready.clone());
        tokio::spawn(async move {
            let send = |event| {
                if let Some(events) = events.upgrade() {
                    let _ = events.send(event);
                }
            };
            tokio::select! {
                biased;
                status = child.wait() => {
                    return send(Event::Ended { name, run, status: status.ok() });
                }
                () = ready.wait() => send(Event::IsReady { name: name.clone(), run }),
            }
            let status = child.wait().await.ok();
            send(Event::Ended { name, run, status });
        });
        Ok(())
    }

    /// The start has failed: whoever waits for it hears so; trying goes on.
    pub(super) fn fail(&mut self, why: &str) {
        if self.due.is_none() {
            self.due = Some(Instant::now() + LONGEST_DELAY);
        }
        self.failed = Some(format!("{} does not start: {why}", self.spec.name));
        self.report_failure();
    }

    pub(super) fn report_failure(&mut self) {
        if let Some(failed) = &self.failed {
            for waiter in self.ready_waiters.drain(..) {
                let _ = waiter.send(Err(anyhow!("{failed}")));
            }
        }
    }

    pub(super) fn become_stopped(&mut self) {
        self.state = State::Stopped;
        self.due = None;
        let name = &self.spec.name;
        for waiter in self.stop_waiters.drain(..) {
            let _ = waiter.send(Ok(format!("{name} is stopped")));
        }
        for waiter in self.ready_waiters.drain(..) {
            let _ = waiter.send(Err(anyhow!("{name} was stopped")));
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        }
    }

    pub(super) fn line(&self) -> String {
        let port = self
            .spec
            .port
            .map(|port| format!(", port {port}"))
            .unwrap_or_default();
        let pid = self.pid.map(|pid| format!("pid {pid}")).unwrap_or_default();
        format!("{} ({pid}{port})", self.spec.name)
    }

    pub(super) fn process(&self) -> Process {
        Process {
            name: self.spec.name.clone(),
            pid: self.pid,
            port: self.spec.port,
            url: self.spec.url.clone(),
            state: self.state,
            restarts: self.restarts,
        }
    }
}

pub(super) fn reason(status: Option<ExitStatus>) -> String {
    let Some(status) = status else {
        return "status unknown".to_owned();
    };
    match (status.code(), status.signal().map(Signal::try_from)) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(Ok(signal))) => format!("killed by {signal}"),
        (None, _) => status.to_string(),
    }
}

/// The end of what was logged since `start`, at most 64 kB.
pub(super) fn log_since(path: &Path, start: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let end = file.metadata()?.len();
        file.seek(SeekFrom::Start(start.max(end.saturating_sub(64 * 1024))))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}
