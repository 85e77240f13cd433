//! `./dev bench`: builds what is measured as it is released, and runs the benchmark.

use std::process::Command;

use anyhow::{Context, bail};

use crate::Result;
use crate::layout::root;

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
    let program = target_folder()?.join("release/onceward-bench");
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

/// This program stands in `TARGET/debug`.
fn target_folder() -> Result<std::path::PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.ancestors().nth(2).context("a target folder")?;
    Ok(folder.to_owned())
}
