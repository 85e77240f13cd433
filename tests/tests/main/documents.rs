//! What the documents say of metrics is what the processes show.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use integration_tests::Result;

/// A row of docs/METRICS.md.
#[derive(Debug, PartialEq, Eq)]
pub struct Documented {
    pub kind: String,
    pub labels: BTreeSet<String>,
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The rows of docs/METRICS.md by name: `| name | type | unit | labels | meaning | watch |`.
pub fn documented_metrics() -> Result<BTreeMap<String, Documented>> {
    let text = std::fs::read_to_string(root().join("docs/METRICS.md"))?;
    let rows = text.lines().filter(|line| line.starts_with("| `onceward_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        anyhow::ensure!(
            cells.len() == 6 && cells.iter().all(|cell| !cell.is_empty()),
            "this row of docs/METRICS.md does not have six cells, none empty: {row}"
        );
        let names = |cell: &str| {
            cell.split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect()
        };
        let name: Vec<String> = names(cells[0]);
        let documented = Documented {
            kind: cells[1].to_owned(),
            labels: names(cells[3]).into_iter().collect(),
        };
        Ok((name[0].clone(), documented))
    })
    .collect()
}

/// Names in the constants of every `metrics.rs` and `gauges.rs`.
fn declared_metrics(folder: &Path, names: &mut BTreeSet<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder)?.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            declared_metrics(&path, names)?;
        } else if name == "metrics.rs" || name == "gauges.rs" {
            let text = std::fs::read_to_string(&path)?;
            let found = text.split('"').filter(|part| part.starts_with("onceward_"));
            names.extend(found.map(str::to_owned));
        }
    }
    Ok(())
}

#[test]
fn every_metric_in_the_code_is_documented_and_every_documented_one_is_in_the_code() -> Result<()> {
    let mut declared = BTreeSet::new();
    declared_metrics(&root(), &mut declared)?;
    let documented: BTreeSet<String> = documented_metrics()?.into_keys().collect();
    let missing: Vec<_> = declared.difference(&documented).collect();
    assert!(
        missing.is_empty(),
        "add a row to docs/METRICS.md (`| name | type | unit | labels | meaning | watch |`) for \
         {missing:?}"
    );
    let gone: Vec<_> = documented.difference(&declared).collect();
    assert!(
        gone.is_empty(),
        "docs/METRICS.md has rows of metrics that no metrics.rs or gauges.rs declares: {gone:?}"
    );
    Ok(())
}

#[test]
fn metric_names_follow_the_conventions_of_prometheus() -> Result<()> {
    for (name, Documented { kind, labels }) in documented_metrics()? {
        let total = name.ends_with("_total");
        assert_eq!(
            total,
            kind == "counter",
            "{name}: _total is for counters, all of them"
        );
        assert!(
            ["counter", "gauge", "histogram"].contains(&kind.as_str()),
            "{name}: {kind} is no type"
        );
        for bad in [
            "_ms", "_millis", "_micros", "_minutes", "_kb", "_count", "_sum", "_bucket",
        ] {
            assert!(
                !name.ends_with(bad),
                "{name}: base units, and no suffix of Prometheus' own"
            );
        }
        for label in labels {
            assert!(
                !label.ends_with("id"),
                "{name}: an id must not be a label ({label})"
            );
        }
    }
    Ok(())
}

#[test]
fn dashboard_and_alerts_use_only_metrics_that_exist() -> Result<()> {
    let documented = documented_metrics()?;
    for file in [
        "deploy/grafana/onceward.json",
        "deploy/prometheus/alerts.yml",
    ] {
        let text = std::fs::read_to_string(root().join(file))?;
        let mut used = BTreeSet::new();
        let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
        for name in text
            .split(word)
            .filter(|word| word.starts_with("onceward_"))
        {
            let known = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|suffix| name.strip_suffix(suffix))
                .chain([name])
                .find(|name| documented.contains_key(*name));
            assert!(known.is_some(), "{file}: {name} is not in docs/METRICS.md");
            used.extend(known);
        }
        assert!(used.len() > 10, "{file} uses {used:?} only");
    }
    let dashboard = std::fs::read_to_string(root().join("deploy/grafana/onceward.json"))?;
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard)?;
    assert!(
        dashboard["panels"]
            .as_array()
            .is_some_and(|panels| panels.len() > 5)
    );
    Ok(())
}

/// Compares what a process shows with the documents. `shown` is the text of its `/metrics`.
pub fn compare_metrics(process: &str, shown: &str) -> Result<BTreeSet<String>> {
    let documented = documented_metrics()?;
    let mut names = BTreeSet::new();
    for line in shown
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
    {
        let (name, kind) = line.split_once(' ').unwrap_or((line, ""));
        let Some(known) = documented.get(name) else {
            anyhow::bail!("{process} shows {name} ({kind}): add a row to docs/METRICS.md");
        };
        anyhow::ensure!(
            known.kind == kind,
            "{process}: {name} is a {kind}, not a {}",
            known.kind
        );
        let help = format!("# HELP {name} ");
        anyhow::ensure!(
            shown.contains(&help),
            "{process}: {name} has no help text; add it where its constant is described"
        );
        for sample in shown
            .lines()
            .filter(|line| line.starts_with(&format!("{name}{{")))
        {
            let labels = sample.split('{').nth(1).unwrap_or_default();
            for label in labels
                .split("=\"")
                .filter_map(|part| part.rsplit(['"', ',']).next())
            {
                let label = label.trim_start_matches('{');
                let written = known.labels.contains(label);
                anyhow::ensure!(
                    written || label.starts_with('}') || label.is_empty(),
                    "{process}: {name} has the label {label}, which docs/METRICS.md does not tell"
                );
            }
        }
        names.insert(name.to_owned());
    }
    Ok(names)
}
