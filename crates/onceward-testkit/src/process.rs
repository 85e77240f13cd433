//! A child process with a log file that never outlives its parent.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Result;

/// Kills a process when we die, however that happens, even by `kill -9`.
///
/// A small shell waits at the end of a pipe whose other end only we hold. If the pipe ends without a
/// word, we are gone: the process is killed, then the folder given is removed. (`PR_SET_PDEATHSIG`
/// would fire when the *thread* that started the process ends, and tests run on short-lived threads.)
/// What is mounted on the folder is unmounted first.
#[derive(Debug)]
pub struct DeathGuard {
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl DeathGuard {
    /// Watches over the process `pid`, if any; `remove` is a folder to delete afterwards, also on
    /// dismissal.
    pub fn over(pid: Option<u32>, remove: Option<&Path>) -> Result<Self> {
        const SCRIPT: &str = r#"read -r word || [ -z "$1" ] || kill -9 "$1" 2>/dev/null
            [ -n "$2" ] || exit 0
            umount -l "$2" 2>/dev/null
            for i in 1 2 3 4 5; do rm -rf "$2" 2>/dev/null && exit 0; sleep 0.2; done"#;
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT, "death-guard"])
            .arg(pid.map(|pid| pid.to_string()).unwrap_or_default())
            .arg(remove.unwrap_or(Path::new("")))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // Ctrl-C is for us, not for the guard
            .spawn()
            .context("starting sh")?;
        let pipe = shell.stdin.take();
        Ok(Self { shell, pipe })
    }

    /// The process needs no guard any more; call it before its pid is given back to the system.
    pub fn dismiss(mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            let _ = pipe.write_all(b"dismissed\n");
        }
        let _ = self.shell.wait();
    }
}

/// A folder of our own: removed when this is dropped, or when we die without that.
#[derive(Debug)]
pub struct OwnFolder {
    path: PathBuf,
    guard: Option<DeathGuard>,
}

impl OwnFolder {
    /// Makes one whose name begins so.
    pub fn new(prefix: &str) -> Result<Self> {
        let path = tempfile::Builder::new().prefix(prefix).tempdir()?.keep();
        let guard = Some(DeathGuard::over(None, Some(&path))?);
        Ok(Self { path, guard })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The folder that was asked for, or one of our own, which is gone with the second value.
pub(crate) fn asked_or_own(
    asked: Option<PathBuf>,
    prefix: &str,
) -> Result<(PathBuf, Option<OwnFolder>)> {
    if let Some(folder) = asked {
        return Ok((folder, None));
    }
    let own = OwnFolder::new(prefix)?;
    Ok((own.path.clone(), Some(own)))
}

impl Drop for OwnFolder {
    fn drop(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
    }
}

/// A running child process. Dropping it kills it with `kill -9`.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    guard: Option<DeathGuard>,
    log: PathBuf,
    log_start: u64,
}

impl Process {
    /// Starts `command` in its own process group, with stdout and stderr appended to `log`.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening the log {log:?}"))?;
        let log_start = file.metadata()?.len();
        let program = command.get_program().to_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name} ({program:?})"))?;
        let guard = Some(DeathGuard::over(Some(child.id()), None)?);
        Ok(Self {
            name: name.to_owned(),
            child,
            guard,
            log: log.to_owned(),
            log_start,
        })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it at once (`SIGKILL`) and waits until it is gone.
    pub fn kill9(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGKILL)?;
        self.reap()
    }

    /// Freezes it (`SIGSTOP`): it keeps its connections and does nothing.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a frozen one go on (`SIGCONT`).
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Sends any signal; a process that has ended already is no error.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match kill(Pid::from_raw(self.child.id().cast_signed()), signal) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("{signal} to {}", self.name)),
        }
    }

    /// Asks it to stop with `signal`; fails, leaving it running, if it has not ended after `at_most`.
    pub fn stop(&mut self, signal: Signal, at_most: Duration) -> Result<ExitStatus> {
        self.signal(signal)?;
        match self.wait(at_most)? {
            Some(status) => Ok(status),
            None => bail!("{} did not stop within {at_most:?} of {signal}", self.name),
        }
    }

    /// Waits for its end, at most so long; `None` if it still runs then.
    pub fn wait(&mut self, at_most: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + at_most;
        loop {
            if let Some(status) = self.child.try_wait()? {
                if let Some(guard) = self.guard.take() {
                    guard.dismiss();
                }
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it has written to its log since it started.
    pub fn log(&self) -> String {
        read_from(&self.log, self.log_start).unwrap_or_default()
    }

    /// The last `lines` lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log(), lines)
    }

    fn reap(&mut self) -> Result<ExitStatus> {
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
        Ok(self.child.wait()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.guard.is_some() {
            let _ = self.kill9();
        }
    }
}

/// The last `lines` lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn read_from(path: &Path, start: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
