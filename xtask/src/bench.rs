//! `./dev bench`: builds what is measured as it is released, and runs the benchmark.

use std::process::Command;

use anyhow::{Context, bail};

use crate::layout::{root, target};
use crate::{Result, cargo};

/// Builds and runs `onceward-bench` with these arguments; `micro` is criterion's, with its own.
pub fn run(arguments: &[String]) -> Result<()> {
    if let Some((first, rest)) = arguments.split_first()
        && first == "micro"
    {
        return micro(rest);
    }
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

fn micro(arguments: &[String]) -> Result<()> {
    let mut command = cargo::command();
    command.args([
        "bench", "--locked", "-p", "benches", "--bench", "micro", "--",
    ]);
    let ended = command.args(arguments).status().context("starting cargo")?;
    if !ended.success() {
        bail!("the micro-benchmarks ended with {ended}");
    }
    Ok(())
}
