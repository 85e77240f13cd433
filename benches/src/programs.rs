//! The programs under test, as built beside this one.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use onceward_testkit::ports::Port;
use onceward_testkit::process::Process;

use crate::client;

/// A program of the workspace, of the same profile as this one.
pub(crate) fn program(name: &str) -> Result<Command> {
    let path: PathBuf = std::env::current_exe()?.with_file_name(name);
    ensure!(
        path.exists(),
        "{} is missing: ./dev bench builds it",
        path.display()
    );
    Ok(Command::new(path))
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("running {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// A running program with an HTTP port.
pub(crate) struct Served {
    pub(crate) process: Process,
    port: Port,
}

impl Served {
    /// Starts `command` with `flag` naming its address.
    pub(crate) fn start(
        name: &str,
        mut command: Command,
        flag: &str,
        folder: &std::path::Path,
    ) -> Result<Self> {
        let port = Port::take()?;
        command
            .arg(flag)
            .arg(format!("127.0.0.1:{}", port.number()));
        Self::start_on(port, name, command, folder)
    }

    /// Starts a `command` that knows its port.
    pub(crate) fn start_on(
        port: Port,
        name: &str,
        command: Command,
        folder: &std::path::Path,
    ) -> Result<Self> {
        let process = Process::spawn(name, command, &folder.join(format!("{name}.log")))?;
        Ok(Self { process, port })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    /// Waits until `/readyz` says so.
    pub(crate) async fn wait_ready(&mut self) -> Result<()> {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            ensure!(
                self.process.is_running(),
                "it ended:\n{}",
                self.process.log_tail(20)
            );
            match client::get(&self.address(), "/readyz").await {
                Ok(200) => return Ok(()),
                answer => ensure!(
                    tokio::time::Instant::now() < deadline,
                    "not ready after a minute ({answer:?}):\n{}",
                    self.process.log_tail(20)
                ),
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}
