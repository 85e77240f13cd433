//! `./dev bench`: builds what is measured as it is released, and runs the benchmark.

use std::process::Command;

use anyhow::{Context, bail};

use crate::layout::{root, target};
use crate::{Result, cargo};

/// Builds and runs `onceward-bench` with these arguments.
pub fn run(arguments: &[String]) -> Result<()> {
    let packages = ["-p", "benches", "-p", "outbox-relay", "-p", "shop"];
    cargo::build(&[&["--release", "--bins"], packages.as_slice()].concat())?;
    let program = target()?.join("release/onceward-bench");
    let ended = Command::new(&program)
        .current_dir(root())
        .args(arguments)
        .status()
        .with_context(|| format!("starting {}", program.display()))?;
    if !ended.success() {
        bail!("the benchmark ended with {ended}");
    }
    Ok(())
}
