//! What came of all cells: as JSON, and as docs/FAULTS.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use onceward_testkit::machine::{Machine, first_line, load};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::broken::{BROKEN, Broken, is_noticed};
use crate::cell::Outcome;
use crate::fault::{FAULTS, Fault};
use crate::rig::Cell;
use crate::stop::{LoudStop, StopCell, Stopped, stop_cells};

/// A cell with its outcome.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// Name of the fault.
    pub fault: String,
    /// Which database.
    pub database: String,
    /// Which publisher.
    pub publisher: String,
    /// What was tested, if not what the report tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

impl Row {
    /// The cell's name, `fault/database/publisher`.
    fn name(&self) -> String {
        format!("{}/{}/{}", self.fault, self.database, self.publisher)
    }
}

/// A whole run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Of this file.
    pub format: u32,
    /// When it began.
    pub at: String,
    /// What was tested.
    pub commit: String,
    /// What all moments were drawn from.
    pub seed: u64,
    /// Where.
    pub machine: Machine,
    /// With what.
    pub versions: BTreeMap<String, String>,
    /// The cells.
    pub rows: Vec<Row>,
    /// What came of each loud stop, by its name and database.
    #[serde(default)]
    pub stops: BTreeMap<String, Stopped>,
    /// What came of each rule that was broken on purpose, by its name.
    #[serde(default)]
    pub broken: BTreeMap<String, Outcome>,
}

impl Report {
    /// An empty one.
    pub fn begin(seed: u64) -> Self {
        let own = |name: &str, value: String| (name.to_owned(), value);
        Self {
            format: 1,
            at: jiff::Timestamp::now().to_string(),
            commit: first_line("git", &["describe", "--always", "--dirty"]),
            seed,
            machine: Machine::here(),
            versions: [
                own("Onceward", env!("CARGO_PKG_VERSION").to_owned()),
                own("Kafka", onceward_testkit::kafka::VERSION.to_owned()),
                own("librdkafka", rdkafka::util::get_rdkafka_version().1),
            ]
            .into(),
            rows: Vec::new(),
            stops: BTreeMap::new(),
            broken: BTreeMap::new(),
        }
    }

    /// Adds a cell.
    pub fn add(&mut self, cell: &Cell, outcome: Outcome) {
        self.rows.push(Row {
            fault: cell.fault.name.to_owned(),
            database: cell.database.name().to_owned(),
            publisher: cell.publisher.name().to_owned(),
            commit: None,
            outcome,
        });
    }

    /// Adds a loud stop.
    pub fn add_stop(&mut self, cell: &StopCell, stopped: Stopped) {
        self.stops.insert(cell.name(), stopped);
    }

    /// Adds a rule that was broken.
    pub fn add_broken(&mut self, rule: &Broken, outcome: Outcome) {
        self.broken.insert(rule.rule.to_owned(), outcome);
    }

    /// Cells in which something was wrong, stops that did not come, and broken rules that nobody noticed.
    pub fn failed(&self) -> usize {
        let rows = self.rows.iter();
        let rows = rows.filter(|row| !row.outcome.problems.is_empty());
        let stops = self.stops.values();
        let stops = stops.filter(|stopped| !stopped.problem.is_empty());
        let broken = self.broken.values();
        let broken = broken.filter(|outcome| !is_noticed(outcome));
        rows.count() + stops.count() + broken.count()
    }

    /// Puts these cells into a report that was written before, in the place of their like.
    pub fn merge_into(self, page: &Path) -> Result<()> {
        let json = page.with_extension("json");
        let text = std::fs::read_to_string(&json)
            .with_context(|| format!("reading {}: run all cells first", json.display()))?;
        let mut whole: Self =
            serde_json::from_str(&text).with_context(|| format!("reading {}", json.display()))?;
        for mut row in self.rows {
            row.commit = Some(self.commit.clone()).filter(|commit| *commit != whole.commit);
            let name = row.name();
            match whole.rows.iter_mut().find(|known| known.name() == name) {
                Some(known) => *known = row,
                None => whole.rows.push(row),
            }
        }
        // In the order of a whole run, and without what is no cell any more.
        let order: Vec<String> = Cell::all().iter().map(Cell::name).collect();
        let place = |row: &Row| {
            let name = row.name();
            order.iter().position(|cell| *cell == name)
        };
        whole.rows.retain(|row| place(row).is_some());
        whole.rows.sort_by_key(place);
        whole.stops.extend(self.stops);
        whole.broken.extend(self.broken);
        let is_new = |row: &Row| row.commit.as_ref() == Some(&self.commit);
        if whole.rows.iter().all(is_new) {
            (whole.commit, whole.at, whole.machine) = (self.commit, self.at, self.machine);
            whole.rows.iter_mut().for_each(|row| row.commit = None);
        }
        whole.write(page)
    }

    /// Writes the page and the JSON beside it.
    pub fn write(&mut self, page: &Path) -> Result<()> {
        if self.machine.load_after == 0.0 {
            self.machine.load_after = load();
        }
        std::fs::write(page, self.page()).with_context(|| format!("writing {}", page.display()))?;
        let json = page.with_extension("json");
        std::fs::write(&json, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("writing {}", json.display()))
    }

    /// The page.
    pub fn page(&self) -> String {
        let mut page = String::new();
        // Writing to a string can't fail.
        let _ = self.write_page(&mut page);
        page
    }

    fn write_page(&self, out: &mut String) -> std::fmt::Result {
        let sum = |field: fn(&Outcome) -> u64| -> u64 {
            self.rows.iter().map(|row| field(&row.outcome)).sum()
        };
        let runs: u32 = self.rows.iter().map(|row| row.outcome.runs).sum();
        writeln!(out, "# Faults\n")?;
        writeln!(
            out,
            "Written by `./dev faults --seed {}`; don't edit. {} faults in {} cells, {} committed events: \
             **{} lost, {} doubled, {} reordered**, {} other findings.\n",
            self.seed,
            runs,
            self.rows.len(),
            thousands(sum(|o| o.events)),
            sum(|o| o.lost),
            sum(|o| o.doubled),
            sum(|o| o.reordered),
            sum(|o| o.other),
        )?;
        writeln!(out, "{INTRODUCTION}")?;
        let machine = &self.machine;
        let versions: Vec<String> = self
            .versions
            .iter()
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        writeln!(
            out,
            "{} of {}; {}, {} cores, {} GiB, Linux {}; load {:.1} before, {:.1} after (times are worse on \
             a busy machine, counts are not). {}.\n",
            self.commit,
            self.at.get(..10).unwrap_or(&self.at),
            machine.cpu,
            machine.cores,
            machine.memory_gib,
            machine.kernel,
            machine.load_before,
            machine.load_after,
            versions.join(", "),
        )?;
        let mut again = BTreeMap::<&str, u32>::new();
        for commit in self.rows.iter().filter_map(|row| row.commit.as_deref()) {
            *again.entry(commit).or_default() += 1;
        }
        for (commit, cells) in again {
            writeln!(out, "Run again since: {cells} cells at {commit}.\n")?;
        }
        writeln!(
            out,
            "| Fault | Database | Publisher | Runs | Events | Lost | Doubled | Reordered | Other | \
             Recovery p50 | max | Goal |\n|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
        )?;
        for row in &self.rows {
            let outcome = &row.outcome;
            let (middle, longest) = match outcome.recovery() {
                Some((middle, longest)) => (seconds(middle), seconds(longest)),
                None => Default::default(),
            };
            let fault = FAULTS.iter().find(|fault| fault.name == row.fault);
            let goal = fault.and_then(|fault| fault.goal);
            let goal = goal.map(|goal| format!("{} s", goal.as_secs()));
            let failed = if outcome.problems.is_empty() {
                ""
            } else {
                " **failed**"
            };
            writeln!(
                out,
                "| [{0}](#{0}){failed} | {1} | {2} | {3} | {4} | {5} | {6} | {7} | {8} | {middle} | \
                 {longest} | {9} |",
                row.fault,
                row.database,
                row.publisher,
                outcome.runs,
                thousands(outcome.events),
                outcome.lost,
                outcome.doubled,
                outcome.reordered,
                outcome.other,
                goal.unwrap_or_default(),
            )?;
        }
        self.write_throughput(out)?;
        self.write_stops(out)?;
        self.write_broken(out)?;
        writeln!(
            out,
            "\nOne cell alone, with the same plan: `./dev faults --only FAULT/DATABASE/PUBLISHER --seed \
             {}`.\n\n# The faults, and why they do no harm",
            self.seed
        )?;
        for Fault {
            name, does, rule, ..
        } in FAULTS
        {
            writeln!(out, "\n### {name}\n\n{does}\n\n{rule}")?;
        }
        Ok(())
    }

    fn write_throughput(&self, out: &mut String) -> std::fmt::Result {
        const SHOWN: [&str; 4] = [
            "relay-killed",
            "relay-taken-over",
            "kafka-killed",
            "postgres-killed",
        ];
        writeln!(
            out,
            "\n## Events a second\n\nAs a reader saw them, a character a second; the highest is the most of its \
             line.\n\n```text"
        )?;
        for row in &self.rows {
            if SHOWN.contains(&row.fault.as_str()) {
                let name = row.name();
                let (line, most) = sparkline(&row.outcome.per_second);
                writeln!(out, "{name:<34} {line} {most}")?;
            }
        }
        writeln!(out, "```")
    }

    fn write_stops(&self, out: &mut String) -> std::fmt::Result {
        if self.stops.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "\n## Where all stops\n\nGoing on would lose or double something. With rows at hand to go wrong with, the \
             relay or the consumer stops, says why, and publishes or handles nothing:\n\n| Condition | \
             Going on would | Database | Stops after | Behind it | It says |\n|---|---|---|--:|--:|---|"
        )?;
        for cell in stop_cells() {
            let Some(stopped) = self.stops.get(&cell.name()) else {
                continue;
            };
            let LoudStop {
                does, else_would, ..
            } = cell.stop;
            let said = match stopped.problem.as_str() {
                "" => stopped.reason.replace('|', "\\|"),
                _ => "**failed**".to_owned(),
            };
            writeln!(
                out,
                "| {does} | {else_would} | {} | {} | {} | {said} |",
                cell.database.name(),
                seconds(stopped.after_ms),
                stopped.behind,
            )?;
        }
        Ok(())
    }

    fn write_broken(&self, out: &mut String) -> std::fmt::Result {
        if self.broken.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "\n## Would it be noticed?\n\nThe same with one rule of relay or consumer broken on purpose, which a \
             build for tests can do. Rules behind which a second one stands, so that these faults do not show \
             them alone, are broken in the [models](../model).\n\n| Broken rule | What is done instead | Cell | \
             Lost | Doubled | Reordered | Other |\n|---|---|---|--:|--:|--:|--:|"
        )?;
        for rule in BROKEN {
            let Some(outcome) = self.broken.get(rule.rule) else {
                continue;
            };
            let failed = match is_noticed(outcome) {
                true => "",
                false => " **not noticed**",
            };
            writeln!(
                out,
                "| {}{failed} | {} | {} | {} | {} | {} | {} |",
                rule.rule,
                rule.instead,
                rule.cell,
                outcome.lost,
                outcome.doubled,
                outcome.reordered,
                outcome.other,
            )?;
        }
        Ok(())
    }
}

const INTRODUCTION: &str = "\
In each cell a real relay publishes from a real database to a real Kafka while five writers commit and roll
back transactions over the same keys, and the fault strikes again and again at moments drawn from the seed.
Then everything is counted twice: by the [auditor](../auditor), which shares no code with the product, and
by the writers' own account of what they committed. *Other* are gaps in the positions, records that nobody
committed, changed ones. *Recovery* is the time from the end of the fault to the first event, of those
written since it began, that a `read_committed` consumer sees.
";

/// A bar for each number, and the highest of them.
fn sparkline(numbers: &[u32]) -> (String, u32) {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = numbers.iter().copied().max().unwrap_or(0).max(1);
    let bar = |number: &u32| match number {
        0 => ' ',
        number => {
            let step = u64::from(number - 1) * 8 / u64::from(most);
            let step = usize::try_from(step).unwrap_or(0);
            BARS.get(step).copied().unwrap_or('█')
        }
    };
    (numbers.iter().map(bar).collect(), most)
}

/// `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

fn seconds(millis: u64) -> String {
    format!("{:.2} s", millis as f64 / 1000.0)
}
