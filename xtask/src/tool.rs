//! Programs of the machine that a check calls, and what they say.

use std::process::{Command, Output};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::Result;

/// The JSON that `curl` gets for these arguments; anything but a 2xx within 10 s is an error that tells
/// the answer.
pub(crate) fn curl(arguments: &[&str]) -> Result<Value> {
    let output = Command::new("curl")
        .args(["-sS", "--fail-with-body", "--max-time", "10"])
        .args(arguments)
        .output()
        .context("starting curl")?;
    ensure!(output.status.success(), "{}", text(&output));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// All that a program said.
pub(crate) fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).trim().to_owned()
}
