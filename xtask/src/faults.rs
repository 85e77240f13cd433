//! `./dev faults` and `./dev soak`: builds what is killed, with the lines at which it can be, and runs the suite.

use std::process::Command;

use anyhow::{Context, bail};

use crate::Result;
use crate::layout::{root, target};

/// Builds and runs a command of `onceward-faults` with these arguments.
pub fn run(command: &str, arguments: &[String]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // --workspace shares the dependencies with everything else that is built.
    let built = Command::new(cargo)
        .current_dir(root())
        .args(["build", "--locked", "--workspace"])
        .args(["--bin", "onceward-faults", "--bin", "outbox-relay"])
        .args(["--features", "outbox-relay/failpoints"])
        .status()
        .context("starting cargo build")?;
    if !built.success() {
        bail!("the build failed");
    }
    let program = target()?.join("debug/onceward-faults");
    let ended = Command::new(&program)
        .current_dir(root())
        .arg(command)
        .args(arguments)
        .status()
        .with_context(|| format!("starting {}", program.display()))?;
    // It has said why.
    std::process::exit(ended.code().unwrap_or(1));
}
