//! Backlogs: a relay starts on an outbox that is full.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use onceward_testkit::machine;

use crate::checks::exactly_once;
use crate::cli::Options;
use crate::reader::Reader;
use crate::report::{Better, Report};
use crate::source::{Kind, Source};
use crate::stage::Stage;

pub(crate) async fn run(stage: &mut Stage, options: &Options, report: &mut Report) -> Result<()> {
    for kind in Kind::ALL {
        let case = format!("drain {} rows, {}", options.rows(), kind.label());
        if options.wants(&case) {
            report.begin_case(&case);
            drain(stage, options, report, kind, &case).await?;
        }
    }
    Ok(())
}

/// Lets the broker's compiler see what is coming, so that the first case pays no more than the others.
pub(crate) async fn warm_up(stage: &mut Stage) -> Result<()> {
    const ROWS: u32 = 200_000;
    println!("warming up");
    let source = Source::make(stage, Kind::Sqlite).await?;
    source.fill(ROWS).await?;
    let reader = Reader::start(&stage.kafka.bootstrap(), &source.topic, 0, true)?;
    let mut relay = stage.relay(&[source.option()])?;
    reader
        .wait_for(u64::from(ROWS), Duration::from_secs(300))
        .await?;
    reader.stop()?;
    relay.process.kill9()?;
    stage.delete_topic(&source.topic).await
}

async fn drain(
    stage: &mut Stage,
    options: &Options,
    report: &mut Report,
    kind: Kind,
    case: &str,
) -> Result<()> {
    let rows = options.rows();
    let source = Source::make(stage, kind).await?;
    source.fill(rows).await?;
    let kafka = stage.kafka.bootstrap();
    let reader = Reader::start(&kafka, &source.topic, 0, true)?;
    // Connected and waiting before the relay is there.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let started = Instant::now();
    let mut relay = stage.relay(&[source.option()])?;
    let before = stage.cpu(relay.pid())?;
    let waited = reader
        .wait_for(u64::from(rows), Duration::from_secs(300))
        .await;
    ensure!(
        waited.is_ok(),
        "{waited:?}; the relay says:\n{}",
        relay.process.log_tail(20)
    );
    let cpu = stage.cpu(relay.pid())?.since(before);
    let (_, peak) = machine::memory_mib(relay.pid())?;
    let offset = started.duration_since(reader.begun()).as_secs_f64();
    let timeline = reader.stop()?;
    relay.process.kill9()?;

    let after = |share: f64| {
        let wanted = (f64::from(rows) * share).max(1.0);
        let reached = timeline.iter().find(|(_, count)| *count as f64 >= wanted);
        reached.copied().unwrap_or((f64::NAN, 0))
    };
    let (first, early, last) = (after(0.0), after(0.1), after(1.0));
    // Between the first tenth and the end: without the start, which has a row of its own.
    let rate = (last.1 - early.1) as f64 / (last.0 - early.0);
    report.add(case, "rows/s", Better::Higher, rate);
    report.add(
        case,
        "start to first row, s",
        Better::Lower,
        first.0 - offset,
    );
    report.add(case, "start to last row, s", Better::Lower, last.0 - offset);
    report.add(case, "relay peak RSS, MiB", Better::Lower, peak);
    let each = 1e6 / f64::from(rows);
    report.add(case, "relay CPU, µs/row", Better::Lower, cpu.relay * each);
    report.add(
        case,
        "database CPU, µs/row",
        Better::Lower,
        cpu.database * each,
    );
    report.add(case, "broker CPU, µs/row", Better::Lower, cpu.broker * each);
    report.add(case, "consumer CPU, µs/row", Better::None, cpu.bench * each);
    report.timeline(case, offset, &timeline);
    exactly_once(&kafka, &source.topic, u64::from(rows))?;
    stage.delete_topic(&source.topic).await
}
