//! A relay process.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use onceward_testkit::ports::Port;
use onceward_testkit::process::Process;

use super::until;

pub struct Relay {
    pub process: Process,
    port: Port,
    _logs: tempfile::TempDir,
}

/// How to start one.
pub struct Start {
    command: Command,
    port: Port,
}

impl Start {
    pub fn new(kafka: &str, sources: &[String]) -> Self {
        let port = Port::take().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
        command
            .args(["run", "--kafka", kafka])
            .arg("--http")
            .arg(format!("127.0.0.1:{}", port.number()))
            .args(["--log-filter", "debug,sqlx=warn,hyper=off,librdkafka=warn"]);
        for source in sources {
            command.args(["--source", source]);
        }
        Self { command, port }
    }

    pub fn arg(mut self, name: &str, value: &str) -> Self {
        self.command.args([name, value]);
        self
    }

    /// By this publisher instead of the one chosen by default.
    pub fn publisher(self, name: &str) -> Self {
        self.arg("--publisher", name)
    }

    /// Kills itself at this failpoint.
    pub fn dying_at(mut self, point: &str) -> Self {
        self.command.env("ONCEWARD_FAILPOINT", point);
        self
    }

    /// Freezes itself at this failpoint, at its first pass.
    pub fn freezing_at(mut self, point: &str) -> Self {
        self.command
            .env("ONCEWARD_FAILPOINT", format!("{point}:1:stop"));
        self
    }

    pub fn go(self) -> Relay {
        let logs = tempfile::tempdir().unwrap();
        let process =
            Process::spawn("outbox-relay", self.command, &logs.path().join("log")).unwrap();
        Relay {
            process,
            port: self.port,
            _logs: logs,
        }
    }
}

impl Relay {
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let url = format!("http://127.0.0.1:{}{path}", self.port.number());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let answer = reqwest::get(url).await.ok()?;
                Some((answer.status().as_u16(), answer.text().await.ok()?))
            })
        })
        .join()
        .unwrap()
    }

    /// The status of its source number `index`.
    pub fn status(&self, index: usize) -> Option<outbox_relay::SourceStatus> {
        let (_, body) = self.get("/status")?;
        let status: outbox_relay::RelayStatus = serde_json::from_str(&body).unwrap();
        status.sources.get(index).cloned()
    }

    #[track_caller]
    pub fn wait_for_state(&self, state: outbox_relay::Phase) -> outbox_relay::SourceStatus {
        until(
            &format!("{state:?}, log:\n{}", self.process.log_tail(30)),
            || Ok(self.status(0).filter(|status| status.state == state)),
        )
    }

    #[track_caller]
    pub fn wait_for_death(&mut self) {
        let ended = self.process.wait(Duration::from_secs(180)).unwrap();
        assert!(
            ended.is_some(),
            "the relay did not reach its failpoint:\n{}",
            self.process.log_tail(40)
        );
    }

    /// Waits until it froze itself.
    #[track_caller]
    pub fn wait_for_frost(&self) {
        let stat = format!("/proc/{}/stat", self.process.pid());
        until(
            &format!("frost, log:\n{}", self.process.log_tail(30)),
            || {
                let text = std::fs::read_to_string(&stat)?;
                let state = text
                    .rsplit(") ")
                    .next()
                    .and_then(|rest| rest.chars().next());
                Ok((state == Some('T')).then_some(()))
            },
        );
    }

    /// SIGTERM; how long it took.
    pub fn stop(&mut self) -> Duration {
        let begun = std::time::Instant::now();
        let status = self
            .process
            .stop(Signal::SIGTERM, Duration::from_secs(20))
            .unwrap();
        assert!(status.success(), "{status}:\n{}", self.process.log_tail(40));
        begun.elapsed()
    }
}
