//! What the programs of the image are linked to, held against the packages it has.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::Result;

/// In every Debian, however slim: the package manager itself needs them.
const IN_THE_BASE: [&str; 3] = ["libc6", "libgcc-s1", "libstdc++6"];

/// Fails if a program needs a library of a package that is not among `packages`. `None` where there is
/// no dpkg to ask.
pub(super) fn check(programs: &[&Path], packages: &[&str]) -> Result<Option<BTreeSet<String>>> {
    if Command::new("dpkg").arg("--version").output().is_err() {
        return Ok(None);
    }
    let mut needed = BTreeSet::new();
    for program in programs {
        let output = Command::new("ldd").arg(program).output().context("ldd")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text.contains("not found") {
            bail!("{} lacks a library:\n{text}", program.display());
        }
        // `libssl.so.3 => /lib/x86_64-linux-gnu/libssl.so.3 (0x…)`
        let paths = text.lines().filter_map(|line| line.split_once("=> "));
        for (_, rest) in paths {
            let path = rest.split(' ').next().unwrap_or_default();
            needed.insert(package_of(path)?);
        }
    }
    let has = |package: &String| {
        packages.contains(&package.as_str()) || IN_THE_BASE.contains(&package.as_str())
    };
    let missing: Vec<&String> = needed.iter().filter(|package| !has(package)).collect();
    if !missing.is_empty() {
        bail!("the image's programs need {missing:?}, which its Dockerfile does not install");
    }
    Ok(Some(needed))
}

/// The package that has installed a file, without the architecture.
fn package_of(path: &str) -> Result<String> {
    // Where /lib is a link to /usr/lib, packages may name either.
    let other = match path.strip_prefix("/usr") {
        Some(short) => short.to_owned(),
        None => format!("/usr{path}"),
    };
    for path in [path, &other] {
        let output = Command::new("dpkg").args(["-S", path]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if let Some((package, _)) = text.split_once(':') {
            return Ok(package.to_owned());
        }
    }
    bail!("no package has installed {path}")
}
