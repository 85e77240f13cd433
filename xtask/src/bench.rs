//! `./dev bench`: builds what is measured as it is released, and runs the benchmark.

use std::process::Command;

use anyhow::{Context, bail};

use crate::Result;
use crate::layout::{root, target};

/// Builds and runs `onceward-bench` with these arguments.
pub fn run(arguments: &[String]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let packages = ["-p", "benches", "-p", "outbox-relay", "-p", "shop"];
    let built = Command::new(cargo)
        .current_dir(root())
        .args(["build", "--release", "--bins", "--locked"])
        .args(packages)
        .status()
        .context("starting cargo build")?;
    if !built.success() {
        bail!("the release build failed");
    }
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
