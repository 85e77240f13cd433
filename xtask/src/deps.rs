//! `./dev check deps`: which crate may depend on which.
//!
//! The rules keep the parts apart: a service never imports another service, services link no Kafka,
//! nothing but tests sees the testkit, and the auditor can't share anybody's mistakes.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::{Result, cargo};

/// A crate of the workspace and the crates of the workspace that it may depend on.
const ALLOWED: &[(&str, &[&str])] = &[
    ("onceward-macros", &[]),
    ("onceward", &["onceward-macros"]),
    ("onceward-http", &[]),
    ("onceward-kafka", &["onceward"]),
    ("onceward-saga", &["onceward", "onceward-macros"]),
    // Relay and services alone: a library must not bring an exporter with it.
    ("onceward-telemetry", &["onceward"]),
    ("onceward-testkit", &[]),
    (
        "outbox-relay",
        &[
            "onceward",
            "onceward-http",
            "onceward-kafka",
            "onceward-telemetry",
        ],
    ),
    (
        "onceward-cli",
        // The auditor, so that `verify` does not decode with what it verifies.
        &["onceward", "onceward-kafka", "onceward-saga", "auditor"],
    ),
    ("contracts", &["onceward", "onceward-saga"]),
    (
        "skeleton",
        &["onceward", "onceward-http", "onceward-telemetry"],
    ),
    ("order", SERVICE),
    ("inventory", SERVICE),
    ("payment", SERVICE),
    ("delivery", SERVICE),
    ("customer", SERVICE),
    ("shipping", SERVICE),
    ("analytics", SERVICE),
    ("mail-sink", &[]),
    ("notification", SERVICE),
    ("saga-orchestrator", SERVICE),
    (
        "shop",
        &[
            "order",
            "inventory",
            "payment",
            "delivery",
            "customer",
            "shipping",
            "analytics",
            "mail-sink",
            "notification",
            "saga-orchestrator",
            "skeleton",
            "contracts",
            "onceward",
            "onceward-kafka",
            "onceward-saga",
        ],
    ),
    // What a user's service may depend on, and nothing else.
    (
        "examples",
        &[
            "onceward",
            "onceward-kafka",
            "onceward-saga",
            "outbox-relay",
        ],
    ),
    ("auditor", &[]),
    ("model", &[]),
    // Processes only: what it starts it knows from outside.
    ("integration-tests", &["onceward-testkit", "auditor"]),
    // It fills outboxes and consumes by the libraries; the relay and the services are processes.
    (
        "benches",
        &["onceward", "onceward-kafka", "onceward-testkit"],
    ),
    // What it breaks are processes; the library writes its outboxes.
    (
        "faults",
        &["onceward", "onceward-kafka", "onceward-testkit", "auditor"],
    ),
    // It starts the same Kafka and PostgreSQL as the tests do.
    ("xtask", &["onceward-testkit"]),
];

const SERVICE: &[&str] = &["skeleton", "contracts", "onceward", "onceward-saga"];

/// Only these may link a Kafka client.
const KAFKA_CLIENTS: &[&str] = &[
    "onceward-kafka",
    "onceward-cli",
    "auditor",
    "benches",
    "faults",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

/// What cargo knows of the workspace's own crates, as JSON.
pub(crate) fn metadata() -> Result<String> {
    let output = cargo::command()
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .output()
        .context("starting cargo metadata")?;
    if !output.status.success() {
        bail!(
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Reads the workspace's `cargo metadata` and fails with all edges that are not allowed.
pub fn check() -> Result<()> {
    let wrong = violations(&metadata()?)?;
    if !wrong.is_empty() {
        bail!(
            "dependencies that are not allowed:\n  {}",
            wrong.join("\n  ")
        );
    }
    Ok(())
}

/// The forbidden edges in the text of `cargo metadata --no-deps`, one sentence each.
pub fn violations(metadata: &str) -> Result<Vec<String>> {
    let metadata: Metadata = serde_json::from_str(metadata).context("reading cargo metadata")?;
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let Some(may) = allowed.get(name) else {
            wrong.push(format!("{name} is not in the list (xtask/src/deps.rs)"));
            continue;
        };
        for dependency in &package.dependencies {
            let on = dependency.name.as_str();
            let in_tests = dependency.kind.as_deref() == Some("dev");
            let ours = allowed.contains_key(on);
            if ours && !in_tests && !may.contains(&on) {
                wrong.push(format!("{name} -> {on}"));
            }
            // Tests may use anything of ours, but the auditor's only what starts real processes.
            if ours && in_tests && name == "auditor" && on != "onceward-testkit" {
                wrong.push(format!("{name} (tests) -> {on}"));
            }
            if on == "rdkafka" && !in_tests && !KAFKA_CLIENTS.contains(&name) {
                wrong.push(format!(
                    "{name} -> {on}: only the seam to Kafka links a client"
                ));
            }
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::violations;

    fn metadata(name: &str, dependency: &str, kind: &str) -> String {
        format!(
            r#"{{"packages":[{{"name":"{name}","dependencies":[{{"name":"{dependency}","kind":{kind}}}]}}]}}"#
        )
    }

    #[test]
    fn a_service_that_imports_another_service_is_refused() {
        let wrong = violations(&metadata("order", "payment", "null")).unwrap();
        assert_eq!(wrong, ["order -> payment"]);
    }

    #[test]
    fn the_testkit_is_seen_by_tests_only() {
        let wrong = violations(&metadata("onceward", "onceward-testkit", "null")).unwrap();
        assert_eq!(wrong, ["onceward -> onceward-testkit"]);
        let fine = violations(&metadata("onceward", "onceward-testkit", r#""dev""#)).unwrap();
        assert!(fine.is_empty(), "{fine:?}");
    }

    #[test]
    fn a_service_that_links_a_kafka_client_is_refused() {
        let wrong = violations(&metadata("payment", "rdkafka", "null")).unwrap();
        assert_eq!(wrong.len(), 1, "{wrong:?}");
    }

    #[test]
    fn a_crate_that_nobody_listed_is_refused() {
        let wrong = violations(&metadata("utils", "serde", "null")).unwrap();
        assert_eq!(wrong.len(), 1, "{wrong:?}");
    }
}
