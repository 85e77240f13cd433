//! A backlog is cleared while rows go on arriving.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use onceward_testkit::machine;
use tokio::task::JoinHandle;

use crate::checks::exactly_once;
use crate::cli::Options;
use crate::commits::Commits;
use crate::drain::AT_MOST;
use crate::reader::{NEVER, Reader};
use crate::report::{Better, Report};
use crate::source::{Kind, Source};
use crate::stage::Stage;

/// Rows that arrive a second.
const RATE: u32 = 1_000;
/// They begin so long before the relay does, and go on for so long after the backlog is cleared.
const MARGIN: Duration = Duration::from_secs(3);

pub(crate) async fn run(stage: &mut Stage, options: &Options, report: &mut Report) -> Result<()> {
    for kind in Kind::ALL {
        let rows = options.rows();
        let case = format!("drain {rows} rows while {RATE}/s arrive, {}", kind.label());
        if options.wants(&case) {
            report.begin_case(&case);
            let source = Source::make(stage, kind).await?;
            source.fill(rows).await?;
            measure(stage, &source, rows, report, &case).await?;
            stage.delete_topic(&source.topic).await?;
        }
    }
    Ok(())
}

async fn measure(
    stage: &Stage,
    source: &Source,
    backlog: u32,
    report: &mut Report,
    case: &str,
) -> Result<()> {
    let kafka = stage.kafka.bootstrap();
    let backlog = usize::try_from(backlog)?;
    let most = backlog + usize::try_from(AT_MOST.as_secs())? * usize::try_from(RATE)?;
    let reader = Reader::start(&kafka, &source.topic, most, true)?;
    let arriving = Arriving::begin(source, backlog..most, reader.begun()).await?;
    tokio::time::sleep(MARGIN).await;
    let started = reader.begun().elapsed().as_secs_f64();
    let mut relay = stage.relay(&[source.option()])?;
    let before = stage.cpu(relay.pid())?;
    // From the end, where the last ones come: a look at all of them costs nothing before that.
    let deadline = Instant::now() + AT_MOST;
    while (0..backlog)
        .rev()
        .any(|number| reader.seen(number) == NEVER)
    {
        reader.goes_on()?;
        ensure!(
            Instant::now() < deadline && relay.process.is_running(),
            "{} of {backlog} rows; the relay says:\n{}",
            reader.count(),
            relay.process.log_tail(20)
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let cpu = stage.cpu(relay.pid())?.since(before);
    tokio::time::sleep(MARGIN).await;
    let (end, commits) = arriving.end().await?;
    let waited = reader.wait_for(u64::try_from(end)?, AT_MOST).await;
    ensure!(
        waited.is_ok(),
        "{waited:?}; the relay says:\n{}",
        relay.process.log_tail(20)
    );
    // The kernel notes it, so nothing between two looks is missed.
    let (_, peak) = machine::memory_mib(relay.pid())?;
    let last = (0..backlog).map(|number| reader.seen(number)).max();
    let cleared = last.unwrap_or(NEVER) as f64 / 1e9;
    // The last second is of a source without a backlog.
    let late = end.saturating_sub(usize::try_from(RATE)?).max(backlog);
    let afterwards = commits.to_visible(&reader, late..end)?;
    let timeline = reader.stop()?;
    relay.process.kill9()?;
    let mut lower = |metric, value| report.add(case, metric, Better::Lower, value);
    lower("start to backlog cleared, s", cleared - started);
    lower("relay peak RSS, MiB", peak);
    let each = 1e6 / backlog as f64;
    lower("relay CPU, µs/row", cpu.relay * each);
    lower("database CPU, µs/row", cpu.database * each);
    lower("broker CPU, µs/row", cpu.broker * each);
    lower(
        "p99 of the last second, ms",
        afterwards.value_at_quantile(0.99) as f64 / 1e6,
    );
    report.timeline(case, started, &timeline);
    exactly_once(&kafka, source, u64::try_from(end)?)
}

/// Rows that are committed at a fixed rate until somebody says so.
struct Arriving {
    task: JoinHandle<Result<usize>>,
    enough: Arc<AtomicBool>,
    commits: Arc<Commits>,
}

impl Arriving {
    async fn begin(
        source: &Source,
        numbers: std::ops::Range<usize>,
        zero: Instant,
    ) -> Result<Self> {
        let writer = Arc::new(source.writer().await?);
        let commits = Arc::new(Commits::new(numbers.end, zero));
        let enough = Arc::new(AtomicBool::new(false));
        let (notes, ends) = (Arc::clone(&commits), Arc::clone(&enough));
        let task = tokio::spawn(async move {
            let begun = tokio::time::Instant::now();
            let mut writing = tokio::task::JoinSet::new();
            let mut next = numbers.start;
            while next < numbers.end && !ends.load(Ordering::Relaxed) {
                let due = Duration::from_secs(1) * u32::try_from(next - numbers.start)? / RATE;
                tokio::time::sleep_until(begun + due).await;
                let (writer, notes, number) = (Arc::clone(&writer), Arc::clone(&notes), next);
                writing.spawn(async move {
                    writer.write(number).await?;
                    notes.returned(number)
                });
                next += 1;
            }
            while let Some(done) = writing.join_next().await {
                done??;
            }
            writer.close().await;
            Ok(next)
        });
        Ok(Self {
            task,
            enough,
            commits,
        })
    }

    /// The number behind the last row, and when each was committed.
    async fn end(self) -> Result<(usize, Arc<Commits>)> {
        self.enough.store(true, Ordering::Relaxed);
        Ok((self.task.await??, self.commits))
    }
}
