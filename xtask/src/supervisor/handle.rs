//! How everything else talks to the supervisor's task.

use std::process::ExitStatus;

use anyhow::{Context, anyhow};
use tokio::sync::{mpsc, oneshot};

use super::entry::Spec;
use crate::Result;
use crate::manifest::Process;
use crate::probe::Ready;

pub(super) type Reply = oneshot::Sender<Result<String>>;

pub(super) enum Event {
    Add(Spec),
    Ended {
        name: String,
        run: u64,
        status: Option<ExitStatus>,
    },
    IsReady {
        name: String,
        run: u64,
    },
    WaitReady(String, Reply),
    Start(String, Reply),
    Stop(String, Reply),
    List(oneshot::Sender<Vec<Process>>),
    Watch(oneshot::Sender<Vec<(Process, Ready)>>),
    Shutdown(Reply),
    KillAll,
}

/// Sends wishes to the supervisor; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) events: mpsc::UnboundedSender<Event>,
}

impl Handle {
    /// Starts a process and keeps it running.
    pub fn add(&self, spec: Spec) {
        let _ = self.events.send(Event::Add(spec));
    }

    /// Comes back when the process is ready; fails if its start has failed or it was stopped.
    pub async fn ready(&self, name: &str) -> Result<String> {
        self.ask(|reply| Event::WaitReady(name.to_owned(), reply))
            .await
    }

    /// Starts a stopped process and waits until it is ready.
    pub async fn start(&self, name: &str) -> Result<String> {
        self.ask(|reply| Event::Start(name.to_owned(), reply)).await
    }

    /// Stops a process and waits until it is gone; it stays stopped.
    pub async fn stop(&self, name: &str) -> Result<String> {
        self.ask(|reply| Event::Stop(name.to_owned(), reply)).await
    }

    /// All processes.
    pub async fn list(&self) -> Vec<Process> {
        let (sender, answer) = oneshot::channel();
        let _ = self.events.send(Event::List(sender));
        answer.await.unwrap_or_default()
    }

    /// All processes, each with how it shows that it is ready.
    pub async fn watch(&self) -> Vec<(Process, Ready)> {
        let (sender, answer) = oneshot::channel();
        let _ = self.events.send(Event::Watch(sender));
        answer.await.unwrap_or_default()
    }

    /// Stops everything in order of rank and ends the supervisor.
    pub async fn shutdown(&self) -> Result<String> {
        self.ask(Event::Shutdown).await
    }

    /// Kills everything that still runs; for those who can't wait for a shutdown.
    pub fn kill_all(&self) {
        let _ = self.events.send(Event::KillAll);
    }

    /// Comes back when the supervisor has ended.
    pub async fn ended(&self) {
        self.events.closed().await;
    }

    async fn ask(&self, event: impl FnOnce(Reply) -> Event) -> Result<String> {
        let (reply, answer) = oneshot::channel();
        let gone = "the supervisor has ended";
        self.events.send(event(reply)).map_err(|_| anyhow!(gone))?;
        answer.await.context(gone)?
    }
}
