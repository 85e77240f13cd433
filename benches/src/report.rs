//! What was measured: as tables for people, as JSON for comparison.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::cli::Options;
use crate::machine::{self, Machine};
use crate::source::PAYLOAD_BYTES;
use crate::stage::{KAFKA_HEAP_MIB, PARTITIONS, POSTGRES_SETTINGS};

/// Which way a figure is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Higher,
    Lower,
    /// Neither; it explains the others.
    None,
}

#[derive(Debug, Serialize, Deserialize)]
struct Figure {
    case: String,
    metric: String,
    better: Better,
    /// One value a run.
    runs: Vec<f64>,
}

impl Figure {
    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.runs.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
    fn median(&self) -> f64 {
        let sorted = self.sorted();
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// The results of one call.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    format: u32,
    at: String,
    commit: String,
    quick: bool,
    machine: Machine,
    versions: BTreeMap<String, String>,
    config: BTreeMap<String, String>,
    figures: Vec<Figure>,
    /// Latencies, milliseconds at rising quantiles, of the last run of each case.
    #[serde(default)]
    histograms: BTreeMap<String, Vec<(f64, f64)>>,
    /// Rows seen by when, seconds since the relay's start, of the last run of each case.
    #[serde(default)]
    timelines: BTreeMap<String, Vec<(f64, u64)>>,
}

impl Report {
    pub(crate) fn begin(options: &Options) -> Result<Self> {
        let own = |name: &str, value: String| (name.to_owned(), value);
        let text = |program: &str, arguments: &[&str]| {
            let output = std::process::Command::new(program).args(arguments).output();
            let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            let line = text.unwrap_or_default();
            line.lines().next().unwrap_or("?").trim().to_owned()
        };
        let report = Self {
            format: 1,
            at: jiff::Timestamp::now().to_string(),
            commit: text("git", &["describe", "--always", "--dirty"]),
            quick: options.quick,
            machine: Machine::here(),
            versions: [
                own("onceward", env!("CARGO_PKG_VERSION").to_owned()),
                own("kafka", onceward_testkit::kafka::VERSION.to_owned()),
                own(
                    "librdkafka of the consumer",
                    rdkafka::util::get_rdkafka_version().1,
                ),
            ]
            .into(),
            config: [
                own("payload", format!("{PAYLOAD_BYTES} bytes")),
                own("partitions", PARTITIONS.to_string()),
                own("kafka heap", format!("{KAFKA_HEAP_MIB} MiB")),
                own("postgres", format!("{POSTGRES_SETTINGS:?}")),
                own("relay arguments", options.relay_args.clone()),
            ]
            .into(),
            figures: Vec::new(),
            histograms: BTreeMap::new(),
            timelines: BTreeMap::new(),
        };
        let machine = &report.machine;
        println!(
            "{}, {} cores, {} GiB, Linux {}, load {:.1}; onceward {}",
            machine.cpu,
            machine.cores,
            machine.memory_gib,
            machine.kernel,
            machine.load_before,
            report.commit
        );
        if machine.load_before > machine.cores as f64 / 4.0 {
            println!("the machine is busy: figures will be worse than it could do");
        }
        Ok(report)
    }

    pub(crate) fn version(&mut self, name: &str, version: String) {
        self.versions.insert(name.to_owned(), version);
    }

    /// Adds the value of one run.
    pub(crate) fn add(&mut self, case: &str, metric: &str, better: Better, value: f64) {
        println!("  {metric}: {}", number(value));
        let known = self
            .figures
            .iter_mut()
            .find(|figure| figure.case == case && figure.metric == metric);
        match known {
            Some(figure) => figure.runs.push(value),
            None => self.figures.push(Figure {
                case: case.to_owned(),
                metric: metric.to_owned(),
                better,
                runs: vec![value],
            }),
        }
    }

    pub(crate) fn histogram(&mut self, case: &str, histogram: &Histogram<u64>) {
        let points = histogram.iter_quantiles(2).map(|step| {
            (
                step.quantile_iterated_to(),
                step.value_iterated_to() as f64 / 1e6,
            )
        });
        self.histograms.insert(case.to_owned(), points.collect());
    }

    pub(crate) fn timeline(&mut self, case: &str, zero: f64, timeline: &[(f64, u64)]) {
        // A few hundred points say enough.
        let step = timeline.len().div_ceil(400).max(1);
        let points = timeline.iter().step_by(step);
        let points = points.map(|(at, count)| (at - zero, *count)).collect();
        self.timelines.insert(case.to_owned(), points);
    }

    /// Prints min, median and max of every figure, and its ratio to the baseline's median.
    pub(crate) fn print(&mut self, baseline: &Path) -> Result<()> {
        self.machine.load_after = machine::load();
        let before = match std::fs::read_to_string(baseline) {
            Ok(text) => Some(
                serde_json::from_str::<Self>(&text)
                    .with_context(|| format!("reading {}", baseline.display()))?,
            ),
            Err(_) => None,
        };
        println!(
            "\nload {:.1} before, {:.1} after; {}",
            self.machine.load_before,
            self.machine.load_after,
            match &before {
                Some(before) => format!(
                    "compared with {} of {} ({})",
                    before.commit,
                    before.at.get(..10).unwrap_or(&before.at),
                    before.machine.cpu
                ),
                None => format!("nothing to compare with: no {}", baseline.display()),
            }
        );
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY);
        table.set_header(["case", "", "min", "median", "max", "baseline", "ratio"]);
        let mut case = "";
        for figure in &self.figures {
            let sorted = figure.sorted();
            let end = |value: Option<&f64>| value.map(|value| number(*value)).unwrap_or_default();
            let old = before.as_ref().and_then(|before| {
                let figures = before.figures.iter();
                let mut same =
                    figures.filter(|old| old.case == figure.case && old.metric == figure.metric);
                same.next().map(Figure::median)
            });
            let (old, ratio) = match old {
                Some(old) => (number(old), ratio(figure, old)),
                None => Default::default(),
            };
            table.add_row([
                if case == figure.case {
                    ""
                } else {
                    &figure.case
                },
                &figure.metric,
                &end(sorted.first()),
                &number(figure.median()),
                &end(sorted.last()),
                &old,
                &ratio,
            ]);
            case = &figure.case;
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{table}");
        Ok(())
    }

    /// Writes the JSON file.
    pub(crate) fn write(&self, folder: &Path) -> Result<PathBuf> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("creating {}", folder.display()))?;
        let stamp: String = self
            .at
            .chars()
            .filter(char::is_ascii_digit)
            .take(14)
            .collect();
        let file = folder.join(format!("{stamp}.json"));
        std::fs::write(&file, serde_json::to_string_pretty(self)?)
            .with_context(|| format!("writing {}", file.display()))?;
        Ok(file)
    }
}

/// `×1.25 better`, from the point of view of who wants it better.
fn ratio(figure: &Figure, old: f64) -> String {
    let now = figure.median();
    let (gain, is_sound) = match figure.better {
        Better::Higher => (now / old, old > 0.0),
        Better::Lower => (old / now, now > 0.0),
        Better::None => return String::new(),
    };
    if !is_sound || !gain.is_finite() {
        return String::new();
    }
    let word = if gain >= 1.0 { "better" } else { "worse" };
    format!("×{:.2} {word}", if gain >= 1.0 { gain } else { 1.0 / gain })
}

/// Three digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => {
            let digits = format!("{value:.0}");
            let mut grouped = String::new();
            for (at, digit) in digits.chars().enumerate() {
                if at > 0 && (digits.len() - at) % 3 == 0 && !grouped.ends_with('-') {
                    grouped.push(',');
                }
                grouped.push(digit);
            }
            grouped
        }
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.01 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}
