//! What was measured: as tables for people, as JSON for comparison.

mod beside;
mod plots;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use hdrhistogram::Histogram;
use onceward_testkit::machine::{self, Machine, first_line};
use serde::{Deserialize, Serialize};

use crate::cli::Options;
use crate::curve::Curve;
use crate::debezium;
use crate::relay::Whose;
use crate::source::PAYLOAD_BYTES;
use crate::stage::{KAFKA_HEAP_MIB, PARTITIONS, postgres_settings};
use crate::targets;

/// Load of the last minute when a case began: anything near the number of cores makes figures worse.
const LOAD: &str = "load of the machine";

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
    /// Of the last run of each.
    #[serde(default)]
    curves: BTreeMap<String, Curve>,
    /// When something was killed, on the clock of the case's timeline.
    #[serde(default)]
    kills: BTreeMap<String, Vec<f64>>,
}

impl Report {
    pub(crate) fn begin(options: &Options) -> Result<Self> {
        let own = |name: &str, value: String| (name.to_owned(), value);
        let mut report = Self {
            format: 1,
            at: jiff::Timestamp::now().to_string(),
            commit: first_line("git", &["describe", "--always", "--dirty"]),
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
                own("postgres", pairs(&postgres_settings(options.against))),
                own("relay arguments", options.relay_args.clone()),
            ]
            .into(),
            figures: Vec::new(),
            histograms: BTreeMap::new(),
            timelines: BTreeMap::new(),
            curves: BTreeMap::new(),
            kills: BTreeMap::new(),
        };
        if options.against == Some(Whose::Debezium) {
            report.version("debezium", debezium::VERSION.to_owned());
            let (worker, connector) = (&debezium::WORKER, &debezium::CONNECTOR);
            report.setting("debezium's JVM", debezium::JVM.join(" "));
            report.setting("kafka", pairs(&debezium::KAFKA_SETTINGS));
            report.setting("connect worker", pairs(worker));
            report.setting("connector", pairs(connector));
        }
        let machine = &report.machine;
        println!(
            "{}, {} cores, load {:.1}; commit {}",
            machine.cpu, machine.cores, machine.load_before, report.commit
        );
        if machine.load_before > machine.cores as f64 / 4.0 {
            println!("the machine is busy: figures will be worse than it could do");
        }
        Ok(report)
    }

    pub(crate) fn version(&mut self, name: &str, version: String) {
        self.versions.insert(name.to_owned(), version);
    }

    fn setting(&mut self, name: &str, value: String) {
        self.config.insert(name.to_owned(), value);
    }

    /// Says which case runs now, and notes what else the machine does.
    pub(crate) fn begin_case(&mut self, case: &str) {
        let load = machine::load();
        println!("{case} (load {load:.1})");
        self.note(case, LOAD, Better::None, load);
    }

    /// Adds the value of one run.
    pub(crate) fn add(&mut self, case: &str, metric: &str, better: Better, value: f64) {
        println!("  {metric:<28} {:>12}", number(value));
        self.note(case, metric, better, value);
    }

    fn note(&mut self, case: &str, metric: &str, better: Better, value: f64) {
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
        let points = histogram.iter_quantiles(4).map(|step| {
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
        let last = timeline.last().filter(|_| timeline.len() % step != 1);
        let points = timeline.iter().step_by(step).chain(last);
        let points = points.map(|(at, count)| (at - zero, *count)).collect();
        self.timelines.insert(case.to_owned(), points);
    }

    /// Keeps a curve, and prints it.
    pub(crate) fn curve(&mut self, case: &str, curve: Curve) {
        println!("{}", curve.table(number));
        self.curves.insert(case.to_owned(), curve);
    }

    pub(crate) fn kills(&mut self, case: &str, kills: Vec<f64>) {
        self.kills.insert(case.to_owned(), kills);
    }

    /// Prints where it was measured and min, median and max of every figure, beside its target and the
    /// baseline's median; then ours beside another relay's.
    pub(crate) fn print(&mut self, baseline: Option<&Self>, against: Option<Whose>) {
        self.machine.load_after = machine::load();
        println!("\n{}", self.circumstances());
        match baseline {
            Some(before) => println!(
                "baseline  {} of {} ({}, {} cores, load {:.1})",
                before.commit,
                before.at.get(..10).unwrap_or(&before.at),
                before.machine.cpu,
                before.machine.cores,
                before.machine.load_before,
            ),
            None => println!("baseline  none yet: --save-baseline makes one"),
        }
        let mut table = Table::new();
        table.load_style(UTF8_BORDERS_ONLY);
        table.set_header(["", "min", "median", "max", "target", "baseline", ""]);
        let mut case = "";
        for figure in &self.figures {
            if case != figure.case {
                case = &figure.case;
                table.add_row([case]);
            }
            table.add_row(figure.row(baseline));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{table}");
        if let Some(other) = against {
            println!("{}", self.beside(other));
        }
        let aims = self.figures.iter().filter_map(|figure| {
            let limit = targets::of(&figure.case, &figure.metric)?;
            Some(targets::reached(figure.median(), limit, figure.better))
        });
        let aims: Vec<bool> = aims.collect();
        let reached = aims.iter().filter(|reached| **reached).count();
        println!("{reached} of {} targets reached by the median", aims.len());
    }

    /// Machine, versions, settings.
    fn circumstances(&self) -> String {
        let machine = &self.machine;
        let list = |pairs: &BTreeMap<String, String>| {
            let pairs = pairs.iter().filter(|(_, value)| !value.is_empty());
            let pairs = pairs.map(|(name, value)| format!("{name} {value}"));
            pairs.collect::<Vec<_>>().join(", ")
        };
        format!(
            "machine   {}, {} cores, {} GiB, Linux {}; load {:.1} before, {:.1} after\n\
             versions  commit {}, {}\n\
             settings  {}",
            machine.cpu,
            machine.cores,
            machine.memory_gib,
            machine.kernel,
            machine.load_before,
            machine.load_after,
            self.commit,
            list(&self.versions),
            list(&self.config),
        )
    }

    /// Reads the results of an earlier call; `None` if there are none.
    pub(crate) fn read(file: &Path) -> Result<Option<Self>> {
        match std::fs::read_to_string(file) {
            Ok(text) => {
                let report = serde_json::from_str(&text);
                Ok(Some(
                    report.with_context(|| format!("reading {}", file.display()))?,
                ))
            }
            Err(_) => Ok(None),
        }
    }

    /// Adds what only `older` has measured, so that a baseline can be renewed case by case.
    pub(crate) fn keep(&mut self, older: Self) {
        let known = |case: &str| self.figures.iter().any(|figure| figure.case == case);
        let kept: Vec<Figure> = older
            .figures
            .into_iter()
            .filter(|figure| !known(&figure.case))
            .collect();
        self.figures.extend(kept);
        for (case, histogram) in older.histograms {
            self.histograms.entry(case).or_insert(histogram);
        }
        for (case, timeline) in older.timelines {
            self.timelines.entry(case).or_insert(timeline);
        }
        for (case, curve) in older.curves {
            self.curves.entry(case).or_insert(curve);
        }
        for (case, kills) in older.kills {
            self.kills.entry(case).or_insert(kills);
        }
    }

    /// Writes the results to this file and pictures of them beside it, and says so.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        self.save(file)?;
        println!("written: {}", file.display());
        for picture in self.draw(file)? {
            println!("written: {}", picture.display());
        }
        Ok(())
    }

    fn save(&self, file: &Path) -> Result<()> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("creating {}", folder.display()))?;
        }
        std::fs::write(file, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("writing {}", file.display()))
    }

    /// A file for the results in `folder`, named by the time.
    pub(crate) fn file(&self, folder: &Path) -> PathBuf {
        let digits = self.at.chars().filter(char::is_ascii_digit);
        let stamp: String = digits.take(14).collect();
        folder.join(format!("{stamp}.json"))
    }
}

impl Figure {
    /// As a line of the table.
    fn row(&self, baseline: Option<&Report>) -> [String; 7] {
        let sorted = self.sorted();
        let end = |value: Option<&f64>| value.map(|value| number(*value)).unwrap_or_default();
        let target = targets::of(&self.case, &self.metric).map(|limit| {
            let sign = if self.better == Better::Higher {
                "≥"
            } else {
                "≤"
            };
            let mark = match targets::reached(self.median(), limit, self.better) {
                true => "✓",
                false => "✗",
            };
            format!("{sign} {} {mark}", number(limit))
        });
        let old = baseline.and_then(|baseline| {
            let mut figures = baseline.figures.iter();
            let is_same = |old: &&Figure| old.case == self.case && old.metric == self.metric;
            figures.find(is_same).map(Figure::median)
        });
        [
            format!("  {}", self.metric),
            end(sorted.first()),
            number(self.median()),
            end(sorted.last()),
            target.unwrap_or_default(),
            old.map(number).unwrap_or_default(),
            old.map(|old| ratio(self, old)).unwrap_or_default(),
        ]
    }
}

/// `name=value name=value`.
fn pairs(settings: &[(&str, &str)]) -> String {
    let settings = settings
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    settings.collect::<Vec<_>>().join(" ")
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
