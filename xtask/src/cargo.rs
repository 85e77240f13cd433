//! The cargo that builds this project.

use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::Result;
use crate::layout::root;

/// Cargo in the root of the repository: the one that started us, else the one that is found.
pub(crate) fn command() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Builds what the arguments say, and shows what cargo says.
pub(crate) fn build(arguments: &[&str]) -> Result<()> {
    let status = command()
        .args(["build", "--locked"])
        .args(arguments)
        .status()
        .context("starting cargo build")?;
    if !status.success() {
        bail!("the build failed, see above");
    }
    Ok(())
}

/// Runs a command to its end, and shows what it says.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("starting {:?}", command.get_program()))?;
    ensure!(status.success(), "{command:?} failed, see above");
    Ok(())
}
