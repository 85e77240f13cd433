//! Commit to visible: the clock of each row starts when its COMMIT has returned.
//!
//! The load is open loop: each row has its time, and is committed then whatever became of the rows
//! before it. So a relay that stands still is charged for every row that waits (no coordinated
//! omission).

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use onceward_testkit::machine;
use tokio::time::Instant;

use crate::checks::exactly_once;
use crate::cli::Options;
use crate::commits::Commits;
use crate::reader::Reader;
use crate::relay::Relay;
use crate::report::{Better, Report};
use crate::source::{Kind, Source};
use crate::stage::Stage;
use crate::warm;

/// Commits a second at most.
const MOST_COMMITS: u32 = 1_000;
/// How long the broker is warmed up at a time, at most commits.
const WARM_UP_SECONDS: u32 = 10;

/// A load.
pub(crate) struct Load {
    /// Time between two transactions.
    every: Duration,
    /// Rows of one transaction.
    a_commit: usize,
    /// Rows whose times don't count, at the beginning.
    warm_up: usize,
    rows: usize,
    /// Through a unit of work, which sends hints; without, one row a transaction.
    hints: bool,
}

impl Load {
    /// So many rows a second for so long, after two seconds that don't count.
    pub(crate) fn steady(rate: u32, seconds: u32) -> Result<Self> {
        Self::warmed_up(rate, 2, seconds)
    }

    /// The same after so many seconds that don't count.
    fn warmed_up(rate: u32, warm_up: u32, seconds: u32) -> Result<Self> {
        // As many commits as one machine can make that also runs all else.
        let a_commit = if rate > MOST_COMMITS { 5 } else { 1 };
        Ok(Self {
            every: Duration::from_secs(1) * a_commit / rate,
            a_commit: usize::try_from(a_commit)?,
            warm_up: usize::try_from(warm_up * rate)?,
            rows: usize::try_from((warm_up + seconds) * rate)?,
            hints: true,
        })
    }

    /// How many rows are written.
    pub(crate) fn rows(&self) -> u64 {
        u64::try_from(self.rows).unwrap_or(u64::MAX)
    }
}

pub(crate) async fn run(stage: &mut Stage, options: &Options, report: &mut Report) -> Result<()> {
    let mut cases = Vec::new();
    let (rates, warm_up): (&[u32], u32) = match options.against {
        None => (&[100, 1_000, 5_000], 2),
        // A JVM compiles what it sees often: it gets longer, and ours the same.
        Some(_) => (&[100, 1_000], 10),
    };
    for (kind, whose) in options.contenders() {
        for rate in rates {
            let load = Load::warmed_up(*rate, warm_up, options.seconds())?;
            let together = match load.a_commit {
                1 => String::new(),
                rows => format!(", {rows} rows a commit"),
            };
            let case = whose.case(&format!("live {rate}/s{together}, {}", kind.label()));
            cases.push((case, kind, whose, load));
        }
        for hints in [true, false] {
            // SQLite needs no hints: the relay sees every commit.
            if options.against.is_some() || (kind == Kind::Sqlite && !hints) {
                continue;
            }
            let with = if hints { "with hints" } else { "without hints" };
            let case = format!("live from idle {with}, {}", kind.label());
            let load = Load {
                every: Duration::from_secs(2),
                a_commit: 1,
                warm_up: 1,
                rows: if options.quick { 8 } else { 31 },
                hints,
            };
            cases.push((case, kind, whose, load));
        }
    }
    cases.retain(|(case, ..)| options.wants(case));
    if let Some((_, kind, ..)) = cases.first() {
        let load = Load::steady(MOST_COMMITS, WARM_UP_SECONDS)?;
        warm::until_compiled(stage.broker()?, async || {
            let source = Source::make(stage, *kind).await?;
            measure(stage, &source, &load).await.map(|_| ())
        })
        .await?;
    }
    for (case, kind, whose, load) in cases {
        report.begin_case(&case);
        let source = Source::make(stage, kind).await?.by(whose);
        measure(stage, &source, &load).await?.tell(report, &case);
    }
    Ok(())
}

/// How a load went.
pub(crate) struct Measured {
    histogram: hdrhistogram::Histogram<u64>,
    /// Rows committed a second.
    rate: f64,
    /// Percents of a core.
    relay: f64,
    database: f64,
    broker: f64,
    resident_mib: f64,
}

/// Writes this load into a source, a relay and a reader beside it.
pub(crate) async fn measure(stage: &Stage, source: &Source, load: &Load) -> Result<Measured> {
    let kafka = stage.kafka.bootstrap();
    let reader = Reader::start(&kafka, &source.topic, load.rows, false)?;
    let mut relay = Relay::start(stage, &[source], &[])?;
    relay.wait_ready().await?;
    let warm = async {
        let turns = u32::try_from(load.warm_up / load.a_commit)?;
        tokio::time::sleep(load.every * turns).await;
        Ok((stage.cpu(relay.pid())?, Instant::now()))
    };
    let writing = Instant::now();
    let written = write(source, load, reader.begun());
    let (commits, (before, begun)) = tokio::try_join!(written, warm)?;
    let wrote = writing.elapsed().as_secs_f64();
    let waited = reader.wait_for(load.rows(), Duration::from_secs(60)).await;
    ensure!(
        waited.is_ok(),
        "{waited:?}; the relay says:\n{}",
        relay.said()
    );
    let cpu = stage.cpu(relay.pid())?.since(before);
    let percent = |cpu: f64| 100.0 * cpu / begun.elapsed().as_secs_f64();
    let (relay_cpu, database, broker) = (
        percent(cpu.relay),
        percent(cpu.database),
        percent(cpu.broker),
    );
    let (resident_mib, _) = machine::memory_mib(relay.pid())?;
    let histogram = commits.to_visible(&reader, load.warm_up..load.rows)?;
    reader.stop()?;
    relay.end().await?;
    exactly_once(&kafka, source, load.rows())?;
    Ok(Measured {
        histogram,
        rate: load.rows as f64 / wrote,
        relay: relay_cpu,
        database,
        broker,
        resident_mib,
    })
}

impl Measured {
    /// Milliseconds.
    fn at(&self, quantile: f64) -> f64 {
        self.histogram.value_at_quantile(quantile) as f64 / 1e6
    }

    /// Those that a curve shows.
    pub(crate) fn quantiles(&self) -> [(&'static str, f64); 2] {
        [("p50, ms", self.at(0.5)), ("p99, ms", self.at(0.99))]
    }

    pub(crate) fn tell(&self, report: &mut Report, case: &str) {
        let mut lower = |metric, value| report.add(case, metric, Better::Lower, value);
        lower("p50, ms", self.at(0.5));
        lower("p90, ms", self.at(0.9));
        lower("p99, ms", self.at(0.99));
        lower("max, ms", self.at(1.0));
        lower("relay CPU, % of a core", self.relay);
        lower("database CPU, % of a core", self.database);
        lower("broker CPU, % of a core", self.broker);
        lower("relay RSS, MiB", self.resident_mib);
        // Less than was asked for: then the writer could not.
        report.add(case, "rows committed/s", Better::None, self.rate);
        report.histogram(case, &self.histogram);
    }
}

/// Commits all rows at their times.
async fn write(source: &Source, load: &Load, zero: std::time::Instant) -> Result<Arc<Commits>> {
    let writer = Arc::new(source.writer().await?);
    let commits = Arc::new(Commits::new(load.rows, zero));
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    let hints = load.hints;
    for (turn, first) in (0..load.rows).step_by(load.a_commit).enumerate() {
        tokio::time::sleep_until(begun + load.every * u32::try_from(turn)?).await;
        let (writer, commits) = (Arc::clone(&writer), Arc::clone(&commits));
        let numbers = first..load.rows.min(first + load.a_commit);
        tasks.spawn(async move {
            if hints {
                writer.write_all(numbers.clone()).await?;
            } else {
                writer.write_plainly(first).await?;
            }
            numbers
                .into_iter()
                .try_for_each(|number| commits.returned(number))
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    writer.close().await;
    Ok(commits)
}
