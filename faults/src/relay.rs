//! A relay process, and what it says of itself.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use onceward_testkit::ports::Port;
use onceward_testkit::process::Process;
use serde_json::Value;
use tokio::runtime::Handle;

use crate::Result;

/// Which producer publishes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Publisher {
    /// Onceward's own, for transactions V2.
    Native,
    /// librdkafka's.
    Rdkafka,
}

impl Publisher {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Native, Self::Rdkafka];

    /// As in a cell's name, and as the relay takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Rdkafka => "rdkafka",
        }
    }
}

/// How to start a relay, again and again.
#[derive(Debug, Clone)]
pub struct Start {
    /// Bootstrap server.
    pub kafka: String,
    /// `NAME=URL`.
    pub source: String,
    /// Its producer.
    pub publisher: Publisher,
    /// Rows of a transaction: few, so that there are many ends to be hit.
    pub batch_rows: u32,
    /// A rule that it is to break.
    pub broken: Option<&'static str>,
}

/// A relay.
#[derive(Debug)]
pub struct Relay {
    /// Its process.
    pub process: Process,
    /// Its name among the relays.
    pub id: String,
    port: Port,
}

impl Start {
    /// Starts a relay called `id`. A `failpoint` kills or freezes it there, see the relay's
    /// `failpoint.rs`.
    pub fn go(&self, id: &str, logs: &Path, failpoint: Option<&str>) -> Result<Relay> {
        let port = Port::take()?;
        let mut command = program("outbox-relay")?;
        command
            .args(["run", "--kafka", &self.kafka, "--source", &self.source])
            .args(["--http", &format!("127.0.0.1:{}", port.number())])
            .args(["--publisher", self.publisher.name(), "--instance-id", id])
            .args(["--batch-rows", &self.batch_rows.to_string()])
            .args(["--log-filter", "info,sqlx=warn,librdkafka=off"]);
        command.envs(self.broken.map(|rule| ("ONCEWARD_BREAK", rule)));
        if let Some(point) = failpoint {
            command.env("ONCEWARD_FAILPOINT", point);
        }
        let process = Process::spawn("outbox-relay", command, &logs.join(format!("{id}.log")))?;
        Ok(Relay {
            process,
            id: id.to_owned(),
            port,
        })
    }
}

impl Relay {
    /// `/status` of its source; `None` if it does not answer.
    pub fn status(&self, runtime: &Handle) -> Option<Value> {
        let url = format!("http://127.0.0.1:{}/status", self.port.number());
        let body = runtime.block_on(async {
            let ask = async { reqwest::get(url).await?.json::<Value>().await };
            tokio::time::timeout(Duration::from_secs(1), ask).await
        });
        Some(body.ok()?.ok()?["sources"][0].clone())
    }

    /// Whether it publishes.
    pub fn is_owner(&self, runtime: &Handle) -> bool {
        self.status(runtime)
            .is_some_and(|status| status["state"] == "tail")
    }

    /// Whether it waits for another one to end, and knows which.
    pub fn is_standby(&self, runtime: &Handle) -> bool {
        self.status(runtime).is_some_and(|status| {
            let state = status["state"].as_str();
            matches!(state, Some("standby" | "look" | "claim")) && status["owner"].is_string()
        })
    }
}

/// A program of the workspace, built beside this one; a test of ours stands one folder deeper.
pub fn program(name: &str) -> Result<Command> {
    let own = std::env::current_exe()?;
    let mut folders = own.ancestors().skip(1).take(2);
    let path = folders.find_map(|folder| Some(folder.join(name)).filter(|path| path.is_file()));
    let path = path.with_context(|| format!("{name} is not built: ./dev faults builds it"))?;
    Ok(Command::new(path))
}
