//! `data/onceward.json`: what runs, where, with which databases. Kept true while the supervisor lives.

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::Result;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format.
    pub format: u32,
    /// `host:port` of Kafka, comma separated if it has several brokers.
    pub kafka: String,
    /// URL of the relay's health and metrics.
    pub relay: String,
    /// The databases.
    pub sources: Vec<Source>,
    /// The processes, in the order in which they were added.
    pub processes: Vec<Process>,
}

/// One database with an outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Name of the source.
    pub name: String,
    /// URL of its database.
    pub url: String,
}

/// One supervised process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its name in `./dev stop NAME`.
    pub name: String,
    /// Its pid, while it runs.
    pub pid: Option<u32>,
    /// The port it listens on.
    pub port: Option<u16>,
    /// Where it answers HTTP.
    pub url: Option<String>,
    /// What it is doing.
    pub state: State,
    /// How often it ended by itself and was started again.
    pub restarts: u32,
}

/// The life of a supervised process:
///
/// ```text
/// starting -> running -> stopping -> stopped -> starting (./dev start)
///     |          |
///     +----------+-> waiting (ended by itself) -> starting (after a delay)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It runs and does not answer yet.
    Starting,
    /// It runs and has said that it is ready.
    Running,
    /// It was asked to stop.
    Stopping,
    /// It was stopped and stays so.
    Stopped,
    /// It ended by itself and is started again after a delay.
    Waiting,
}

impl State {
    /// The word in the manifest and in `./dev ps`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Waiting => "waiting",
        }
    }
}

impl Manifest {
    /// Reads the file; `None` if there is none.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(bytes) => {
                Ok(Some(serde_json::from_slice(&bytes).with_context(|| {
                    format!("{} is not readable", path.display())
                })?))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    /// Replaces the file in one step: a reader sees the old or the new text.
    pub fn write(&self, path: &Path) -> Result<()> {
        let next = path.with_extension("json.next");
        std::fs::write(&next, serde_json::to_vec_pretty(self)?)
            .and_then(|()| std::fs::rename(&next, path))
            .with_context(|| format!("writing {}", path.display()))
    }
}
