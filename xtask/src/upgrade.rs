//! `./dev check upgrade REV`: the programs of another revision and these, side by side on one shop.

use std::path::Path;
use std::process::Command;

use anyhow::Context;

use crate::layout::root;
use crate::{Result, cargo};

/// What the test is told by; see `tests/src/world.rs`.
const BINARIES: &str = "ONCEWARD_OTHER_BINARIES";

/// Builds `revision` in a folder of its own, and runs the tests that need both versions.
pub fn check(revision: &str) -> Result<()> {
    let folder = root().join("target/other-version");
    let tree = folder.join("tree");
    std::fs::create_dir_all(&folder).with_context(|| format!("making {folder:?}"))?;
    if tree.exists() {
        cargo::run(git(&tree).args(["checkout", "-q", "--detach", revision]))?;
    } else {
        let add = ["worktree", "add", "-q", "--detach"];
        cargo::run(git(&root()).args(add).arg(&tree).arg(revision))?;
    }
    let build = ["build", "-q", "--workspace", "--bins", "--locked"];
    println!("building {revision}");
    // Kept, so that the next time only what differs is built.
    let target = folder.join("target");
    cargo::run(
        cargo::command()
            .current_dir(&tree)
            .args(build)
            .env("CARGO_TARGET_DIR", &target),
    )?;
    println!("building this version");
    cargo::run(cargo::command().args(build))?;
    let test = ["test", "-q", "-p", "integration-tests", "--test", "main"];
    cargo::run(
        cargo::command()
            .args(test)
            .args(["--", "--ignored", "upgrade::"])
            .env(BINARIES, target.join("debug")),
    )
}

fn git(folder: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(folder);
    command
}
