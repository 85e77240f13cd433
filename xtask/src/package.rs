//! `./dev check package`: what crates.io would get of each published crate, and whether that builds.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;

use crate::deps::metadata;
use crate::{Result, cargo};

/// How far to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Makes the packages and looks into them: seconds.
    Contents,
    /// Builds them as their users would, without the workspace: minutes.
    Build,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    manifest_path: PathBuf,
    /// The registries it may go to; `[]` is `publish = false`.
    publish: Option<Vec<String>>,
    description: Option<String>,
    documentation: Option<String>,
    keywords: Vec<String>,
    categories: Vec<String>,
}

/// Packages every crate that is not `publish = false`, and fails if one lacks what its users need.
pub fn check(depth: Depth) -> Result<()> {
    let metadata: Metadata =
        serde_json::from_str(&metadata()?).context("reading cargo metadata")?;
    let published: Vec<&Package> = metadata
        .packages
        .iter()
        .filter(|p| p.publish.is_none())
        .collect();
    ensure!(!published.is_empty(), "no crate is to be published");
    let mut command = cargo::command();
    // Together: crates.io does not have those that the others depend on.
    command.args(["package", "-q", "--allow-dirty"]);
    if depth == Depth::Contents {
        // Without a lock file nobody need be asked for the newest versions.
        command.args(["--no-verify", "--exclude-lockfile"]);
    }
    for package in &published {
        command.args(["-p", &package.name]);
    }
    let status = command.status().context("starting cargo package")?;
    ensure!(status.success(), "cargo package failed, see above");
    let mut problems = Vec::new();
    for package in published {
        let found = contents(package, &metadata.target_directory)?;
        problems.extend(package.problems(&found, &needed_files(package)?));
    }
    if !problems.is_empty() {
        bail!(
            "packages that are not fit to publish:\n  {}",
            problems.join("\n  ")
        );
    }
    Ok(())
}

impl Package {
    fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("."))
    }

    fn problems(&self, found: &[String], needed: &[String]) -> Vec<String> {
        let name = &self.name;
        let missing = needed.iter().filter(|file| !found.contains(file));
        let mut problems: Vec<_> = missing.map(|file| format!("{name} lacks {file}")).collect();
        let mut say = |fine: bool, what: &str| {
            if !fine {
                problems.push(format!("{name} has no {what} (Cargo.toml)"));
            }
        };
        say(self.description.is_some(), "description");
        say(self.documentation.is_some(), "documentation");
        say(!self.keywords.is_empty(), "keywords");
        say(!self.categories.is_empty(), "categories");
        problems
    }
}

/// README, licences, and every migration: these are links to files elsewhere.
fn needed_files(package: &Package) -> Result<Vec<String>> {
    let mut files = ["README.md", "LICENSE-MIT", "LICENSE-APACHE"]
        .map(str::to_owned)
        .to_vec();
    let migrations = package.folder().join("migrations");
    if migrations.exists() {
        for database in ["postgres", "sqlite"] {
            let folder = migrations.join(database);
            let entries =
                std::fs::read_dir(&folder).with_context(|| format!("reading {folder:?}"))?;
            for entry in entries {
                let name = entry?.file_name();
                files.push(format!("migrations/{database}/{}", name.to_string_lossy()));
            }
        }
    }
    Ok(files)
}

/// The files in a package that was made, without its top folder.
fn contents(package: &Package, target: &Path) -> Result<Vec<String>> {
    let name = format!("{}-{}", package.name, package.version);
    let file = target
        .join("package")
        .join(&name)
        .with_added_extension("crate");
    let output = Command::new("tar")
        .arg("-tzf")
        .arg(&file)
        .output()
        .context("starting tar")?;
    ensure!(output.status.success(), "{file:?} can't be read");
    let text = String::from_utf8_lossy(&output.stdout);
    let inside = text.lines().filter_map(|line| line.split_once('/'));
    Ok(inside.map(|(_, file)| file.to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::Package;

    #[test]
    fn a_package_without_its_migration_or_its_licence_is_refused() {
        let package = Package {
            name: "onceward".into(),
            version: "0.1.0".into(),
            manifest_path: "/x/Cargo.toml".into(),
            publish: None,
            description: Some("an outbox".into()),
            documentation: Some("https://docs.rs/onceward".into()),
            keywords: vec!["outbox".into()],
            categories: Vec::new(),
        };
        let needed = ["LICENSE-MIT", "migrations/sqlite/0001_outbox.sql"].map(str::to_owned);
        let problems = package.problems(&["LICENSE-MIT".to_owned()], &needed);
        assert_eq!(
            problems,
            [
                "onceward lacks migrations/sqlite/0001_outbox.sql",
                "onceward has no categories (Cargo.toml)"
            ]
        );
    }
}
