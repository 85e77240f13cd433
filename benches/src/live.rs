//! Commit to visible: the clock of each row starts when its COMMIT has returned.
//!
//! The load is open loop: each row has its time, and is committed then whatever became of the rows
//! before it. So a relay that stands still is charged for every row that waits (no coordinated
//! omission).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use onceward_testkit::machine;
use tokio::time::Instant;

use crate::checks::exactly_once;
use crate::cli::Options;
use crate::reader::{NEVER, Reader};
use crate::report::{Better, Report};
use crate::source::{Kind, Source, Writer};
use crate::stage::Stage;

/// A load.
struct Load {
    case: String,
    kind: Kind,
    /// Time between two rows.
    every: Duration,
    /// Rows whose times don't count, at the beginning.
    warm_up: usize,
    rows: usize,
    /// Through a unit of work, which sends hints.
    hints: bool,
}

pub(crate) async fn run(stage: &mut Stage, options: &Options, report: &mut Report) -> Result<()> {
    let seconds = if options.quick { 8 } else { 30 };
    let rates: &[usize] = if options.quick {
        &[100, 1_000]
    } else {
        &[100, 1_000, 5_000]
    };
    let mut loads = Vec::new();
    for kind in Kind::ALL {
        for rate in rates {
            loads.push(Load {
                case: format!("live {rate}/s, {}", kind.label()),
                kind,
                every: Duration::from_secs(1) / u32::try_from(*rate)?,
                warm_up: 2 * rate,
                rows: (2 + seconds) * rate,
                hints: true,
            });
        }
        for hints in [true, false] {
            // SQLite needs no hints: the relay sees every commit.
            if kind == Kind::Sqlite && !hints {
                continue;
            }
            let with = if hints { "with hints" } else { "without hints" };
            loads.push(Load {
                case: format!("live from idle {with}, {}", kind.label()),
                kind,
                every: Duration::from_secs(2),
                warm_up: 1,
                rows: if options.quick { 8 } else { 31 },
                hints,
            });
        }
    }
    for load in loads {
        if options.wants(&load.case) {
            report.begin_case(&load.case);
            measure(stage, report, &load).await?;
        }
    }
    Ok(())
}

async fn measure(stage: &mut Stage, report: &mut Report, load: &Load) -> Result<()> {
    let source = Source::make(stage, load.kind).await?;
    let kafka = stage.kafka.bootstrap();
    let reader = Reader::start(&kafka, &source.topic, load.rows, false)?;
    let mut relay = stage.relay(&[source.option()])?;
    relay.wait_ready().await?;
    let before = stage.cpu(relay.pid())?;
    let begun = Instant::now();
    let committed = write(&source, load, reader.begun()).await?;
    let waited = reader
        .wait_for(u64::try_from(load.rows)?, Duration::from_secs(60))
        .await;
    ensure!(
        waited.is_ok(),
        "{waited:?}; the relay says:\n{}",
        relay.process.log_tail(20)
    );
    let cpu = stage.cpu(relay.pid())?.since(before);
    let seconds = begun.elapsed().as_secs_f64();
    let (resident, _) = machine::memory_mib(relay.pid())?;
    let mut histogram = Histogram::<u64>::new(3)?;
    for (number, committed) in committed.iter().enumerate().skip(load.warm_up) {
        let seen = reader.seen(number);
        let committed = committed.load(Ordering::Relaxed);
        ensure!(
            seen != NEVER && committed != NEVER,
            "row {number} has no times"
        );
        // A row can be visible before its writer is told of the commit.
        histogram.record(u64::try_from(seen - committed).unwrap_or(0))?;
    }
    reader.stop()?;
    relay.process.kill9()?;
    let case = load.case.as_str();
    let mut add = |metric, value: u64| {
        report.add(case, metric, Better::Lower, value as f64 / 1e6);
    };
    add("p50, ms", histogram.value_at_quantile(0.5));
    add("p90, ms", histogram.value_at_quantile(0.9));
    add("p99, ms", histogram.value_at_quantile(0.99));
    add("max, ms", histogram.max());
    let percent = |cpu: f64| 100.0 * cpu / seconds;
    report.add(
        case,
        "relay CPU, % of a core",
        Better::Lower,
        percent(cpu.relay),
    );
    report.add(
        case,
        "database CPU, % of a core",
        Better::Lower,
        percent(cpu.database),
    );
    report.add(
        case,
        "broker CPU, % of a core",
        Better::Lower,
        percent(cpu.broker),
    );
    report.add(case, "relay RSS, MiB", Better::Lower, resident);
    report.histogram(case, &histogram);
    exactly_once(&kafka, &source.topic, u64::try_from(load.rows)?)
}

/// Commits all rows at their times; gives when each COMMIT had returned, nanoseconds since `zero`.
async fn write(
    source: &Source,
    load: &Load,
    zero: std::time::Instant,
) -> Result<Arc<Vec<AtomicI64>>> {
    let writer = Arc::new(source.writer().await?);
    let never = || AtomicI64::new(NEVER);
    let committed: Arc<Vec<AtomicI64>> = Arc::new((0..load.rows).map(|_| never()).collect());
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    let hints = load.hints;
    for number in 0..load.rows {
        tokio::time::sleep_until(begun + load.every * u32::try_from(number)?).await;
        let (writer, committed) = (Arc::clone(&writer), Arc::clone(&committed));
        tasks.spawn(async move {
            one(&writer, number, hints).await?;
            let now = i64::try_from(zero.elapsed().as_nanos())?;
            committed
                .get(number)
                .context("a row too many")?
                .store(now, Ordering::Relaxed);
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        let done: Result<()> = done?;
        done?;
    }
    writer.close().await;
    Ok(committed)
}

async fn one(writer: &Writer, number: usize, hints: bool) -> Result<()> {
    if hints {
        writer.write(number).await
    } else {
        writer.write_plainly(number).await
    }
}
