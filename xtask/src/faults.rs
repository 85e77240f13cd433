//! `./dev faults` and `./dev soak`: builds what is killed, with the lines at which it can be, and runs the suite.

use std::process::Command;

use anyhow::Context;

use crate::layout::{root, target};
use crate::{Result, cargo};

/// Builds and runs a command of `onceward-faults` with these arguments.
pub fn run(command: &str, arguments: &[String]) -> Result<()> {
    cargo::build(&[
        "--workspace", // shares the dependencies with everything else that is built
        "--bin",
        "onceward-faults",
        "--bin",
        "outbox-relay",
        "--bin",
        "onceward",
        "--features",
        "outbox-relay/failpoints",
    ])?;
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
