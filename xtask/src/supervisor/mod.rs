//! Keeps processes running.
//!
//! One task owns all state; everything else sends it events through a [`Handle`]: a process ended, a
//! process is ready, somebody wants something. The states are drawn at [`State`].

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{anyhow, bail};
use nix::sys::signal::Signal;
use onceward_testkit::process::tail;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::Result;
use crate::layout::called;
use crate::manifest::{Manifest, Process, State};

mod entry;
mod handle;

pub use entry::Spec;
use entry::{Entry, log_since, reason};
pub use handle::Handle;
use handle::{Event, Reply};

/// Started and gone this often without having been ready: the start has failed.
const FAILED_STARTS: u32 = 3;
const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// Where the supervisor writes what it does.
pub type Say = Box<dyn Fn(&str) + Send>;

/// The task that owns all processes.
pub struct Supervisor {
    entries: Vec<Entry>,
    receiver: mpsc::UnboundedReceiver<Event>,
    // Weak, so that the supervisor alone does not keep itself alive.
    sender: mpsc::WeakUnboundedSender<Event>,
    manifest: Manifest,
    manifest_path: PathBuf,
    logs: PathBuf,
    say: Say,
    closing: Option<Vec<Reply>>,
}

impl Supervisor {
    /// A supervisor that keeps `manifest` at `manifest_path` true, writes each process's output to
    /// `logs/NAME.log` and tells `say` what happens.
    pub fn new(manifest: Manifest, manifest_path: &Path, logs: &Path, say: Say) -> (Self, Handle) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let supervisor = Self {
            entries: Vec::new(),
            receiver,
            sender: sender.downgrade(),
            manifest,
            manifest_path: manifest_path.to_owned(),
            logs: logs.to_owned(),
            say,
            closing: None,
        };
        (supervisor, Handle { events: sender })
    }

    /// Runs until [`Handle::shutdown`] has stopped everything.
    pub async fn run(mut self) {
        loop {
            let due = self.entries.iter().filter_map(|entry| entry.due).min();
            let far = Instant::now() + Duration::from_secs(3600);
            tokio::select! {
                event = self.receiver.recv() => match event {
                    Some(event) => self.on(event),
                    None => return,
                },
                () = tokio::time::sleep_until(due.unwrap_or(far)) => self.on_time(),
            }
            self.write_manifest();
            if self.close_down() {
                return;
            }
        }
    }

    fn on(&mut self, event: Event) {
        match event {
            Event::Add(spec) => {
                self.entries.push(Entry::new(spec));
                self.launch(self.entries.len() - 1);
            }
            Event::Ended { name, run, status } => {
                if let Some(index) = self.find_run(&name, run) {
                    self.on_end(index, status);
                }
            }
            Event::IsReady { name, run } => {
                if let Some(index) = self.find_run(&name, run) {
                    self.on_ready(index);
                }
            }
            Event::WaitReady(name, reply) => match self.find(&name) {
                Ok(index) => self.wait_ready(index, reply),
                Err(error) => drop(reply.send(Err(error))),
            },
            Event::Start(name, reply) => match self.find(&name) {
                Ok(index) => self.on_start(index, reply),
                Err(error) => drop(reply.send(Err(error))),
            },
            Event::Stop(name, reply) => match self.find(&name) {
                Ok(index) => {
                    self.entries[index].stop_waiters.push_back(reply);
                    self.ask_to_stop(index);
                }
                Err(error) => drop(reply.send(Err(error))),
            },
            Event::List(reply) => drop(reply.send(self.processes())),
            Event::Watch(reply) => {
                let watched = self
                    .entries
                    .iter()
                    .map(|e| (e.process(), e.spec.ready.clone()));
                drop(reply.send(watched.collect()));
            }
            Event::Shutdown(reply) => self.closing.get_or_insert_default().push(reply),
            Event::KillAll => self
                .entries
                .iter()
                .for_each(|entry| entry.signal(Signal::SIGKILL)),
        }
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        for index in 0..self.entries.len() {
            let entry = &mut self.entries[index];
            if entry.due.is_none_or(|due| due > now) {
                continue;
            }
            entry.due = None;
            match entry.state {
                State::Waiting => self.launch(index),
                State::Stopping => {
                    entry.signal(Signal::SIGKILL);
                    let at_most = entry.spec.stop_at_most;
                    (self.say)(&format!(
                        "{} did not stop within {at_most:?}: killed",
                        entry.spec.name
                    ));
                }
                State::Starting | State::Running | State::Stopped => {}
            }
        }
    }

    fn on_start(&mut self, index: usize, reply: Reply) {
        let entry = &mut self.entries[index];
        if entry.state == State::Stopping {
            let text = format!("{} is being stopped: try again", entry.spec.name);
            return drop(reply.send(Err(anyhow!(text))));
        }
        if matches!(entry.state, State::Stopped | State::Waiting) {
            entry.failures = 0;
            entry.failed = None;
            self.launch(index);
        }
        self.wait_ready(index, reply);
    }

    fn wait_ready(&mut self, index: usize, reply: Reply) {
        let entry = &mut self.entries[index];
        match entry.state {
            State::Running => drop(reply.send(Ok(entry.line()))),
            State::Stopped | State::Stopping => {
                let text = format!("{} is {}", entry.spec.name, entry.state.word());
                drop(reply.send(Err(anyhow!(text))));
            }
            State::Starting | State::Waiting => {
                entry.ready_waiters.push_back(reply);
                entry.report_failure();
            }
        }
    }

    fn launch(&mut self, index: usize) {
        let log = self
            .logs
            .join(format!("{}.log", self.entries[index].spec.name));
        let sender = self.sender.clone();
        let entry = &mut self.entries[index];
        if let Err(error) = entry.launch(&log, sender) {
            (self.say)(&format!("{} cannot be started: {error:#}", entry.spec.name));
            entry.fail(&format!("{error:#}"));
        }
    }

    fn on_ready(&mut self, index: usize) {
        let entry = &mut self.entries[index];
        if entry.state != State::Starting {
            return;
        }
        entry.state = State::Running;
        entry.failed = None;
        let line = entry.line();
        for waiter in entry.ready_waiters.drain(..) {
            let _ = waiter.send(Ok(line.clone()));
        }
        if entry.restarts > 0 && self.closing.is_none() {
            let took = entry.started.elapsed().as_secs_f32();
            (self.say)(&format!(
                "{line} is ready again ({took:.1} s after its start)"
            ));
        }
    }

    fn on_end(&mut self, index: usize, status: Option<ExitStatus>) {
        let log = self
            .logs
            .join(format!("{}.log", self.entries[index].spec.name));
        let entry = &mut self.entries[index];
        if let Some(guard) = entry.guard.take() {
            guard.dismiss();
        }
        entry.pid = None;
        entry.run += 1; // nothing that the ended run still sends counts
        if entry.state == State::Stopping {
            return entry.become_stopped();
        }
        let why = reason(status);
        let lines = log_since(&log, entry.log_start);
        let cause = match lines.contains("No space left on device") {
            true => format!("{why}; the disk is full"),
            false => why,
        };
        let was_ready = entry.state == State::Running;
        let killed = status.and_then(|status| status.signal()) == Some(9);
        // Somebody's kill -9 of a process that worked is no sign of a crash loop.
        let lived = was_ready && (killed || entry.started.elapsed() > Duration::from_secs(2));
        entry.failures = if lived { 0 } else { entry.failures + 1 };
        let backing_off = match entry.failures {
            0 | 1 => Duration::ZERO,
            more => (FIRST_DELAY * 2_u32.saturating_pow(more - 1)).min(LONGEST_DELAY),
        };
        let delay = entry.spec.restart_after.max(backing_off);
        let when = match delay.is_zero() {
            true => "starting it again".to_owned(),
            false => format!("starting it again in {:.1} s", delay.as_secs_f32()),
        };
        let name = &entry.spec.name;
        let mut text = format!("{name} ended by itself ({cause}); {when}");
        let last = tail(lines.trim_end(), 8);
        // The same lines again and again help nobody; a start that has failed repeats them.
        if !killed && entry.failures <= 1 {
            for line in last.lines() {
                text.push_str("\n    ");
                text.push_str(line);
            }
        }
        (self.say)(&text);
        entry.restarts += 1;
        entry.state = State::Waiting;
        entry.due = Some(Instant::now() + delay);
        if entry.failures >= FAILED_STARTS {
            entry.fail(&format!(
                "{cause}, {} times in a row\n{last}",
                entry.failures
            ));
        }
    }

    fn ask_to_stop(&mut self, index: usize) {
        let entry = &mut self.entries[index];
        match entry.state {
            State::Starting | State::Running => {
                entry.state = State::Stopping;
                entry.due = Some(Instant::now() + entry.spec.stop_at_most);
                entry.signal(entry.spec.stop_signal);
                entry.signal(Signal::SIGCONT); // a frozen one could not stop
            }
            State::Waiting | State::Stopped => entry.become_stopped(),
            State::Stopping => {}
        }
    }

    /// While closing: asks the lowest rank that still runs to stop. True when all have stopped.
    fn close_down(&mut self) -> bool {
        if self.closing.is_none() {
            return false;
        }
        let running = |entry: &&Entry| entry.state != State::Stopped;
        let Some(rank) = self
            .entries
            .iter()
            .filter(running)
            .map(|e| e.spec.stop_rank)
            .min()
        else {
            self.write_manifest();
            for reply in self.closing.take().into_iter().flatten() {
                let _ = reply.send(Ok("all stopped".to_owned()));
            }
            return true;
        };
        for index in 0..self.entries.len() {
            if self.entries[index].spec.stop_rank == rank {
                self.ask_to_stop(index);
            }
        }
        if self
            .entries
            .iter()
            .filter(running)
            .all(|entry| entry.spec.stop_rank > rank)
        {
            return self.close_down();
        }
        false
    }

    fn find(&self, name: &str) -> Result<usize> {
        let names: Vec<&str> = self
            .entries
            .iter()
            .map(|entry| entry.spec.name.as_str())
            .collect();
        if let Some(found) = called(name, names.iter().copied())
            && let Some(index) = names.iter().position(|name| *name == found)
        {
            return Ok(index);
        }
        bail!(
            "there is no process {name:?}; there are {}",
            names.join(", ")
        )
    }

    fn find_run(&self, name: &str, run: u64) -> Option<usize> {
        self.find(name)
            .ok()
            .filter(|index| self.entries[*index].run == run)
    }

    fn processes(&self) -> Vec<Process> {
        self.entries.iter().map(Entry::process).collect()
    }

    fn write_manifest(&mut self) {
        let processes = self.processes();
        if self.manifest.processes != processes {
            self.manifest.processes = processes;
            if let Err(error) = self.manifest.write(&self.manifest_path) {
                (self.say)(&format!("{error:#}"));
            }
        }
    }
}
