//! What ten sources cost while nothing happens.

use std::time::Duration;

use anyhow::Result;
use onceward_testkit::machine;

use crate::cli::Options;
use crate::reader::Reader;
use crate::relay::{Relay, Whose};
use crate::report::{Better, Report};
use crate::source::{Kind, Source};
use crate::stage::Stage;

const SOURCES: usize = 10;
/// Of each source, when the idle time is over.
const ROWS: usize = 50;

/// Whose relay idles, and on what.
struct Idle {
    kind: Kind,
    whose: Whose,
    hints: bool,
}

pub(crate) async fn run(stage: &mut Stage, options: &Options, report: &mut Report) -> Result<()> {
    for (kind, whose) in options.contenders() {
        for hints in [true, false] {
            // SQLite needs no hints; beside another relay one of the two is enough.
            if !hints && (kind == Kind::Sqlite || options.against.is_some()) {
                continue;
            }
            let with = if hints { "with hints" } else { "without hints" };
            let case = format!("idle, {SOURCES} sources {with}, {}", kind.label());
            let case = whose.case(&case);
            if options.wants(&case) {
                report.begin_case(&case);
                let of = Idle { kind, whose, hints };
                idle(stage, options, report, &of, &case).await?;
            }
        }
    }
    Ok(())
}

async fn idle(
    stage: &mut Stage,
    options: &Options,
    report: &mut Report,
    of: &Idle,
    case: &str,
) -> Result<()> {
    let mut sources = Vec::new();
    for _ in 0..SOURCES {
        sources.push(Source::make(stage, of.kind).await?.by(of.whose));
    }
    let all: Vec<&Source> = sources.iter().collect();
    let mut relay = Relay::start(stage, &all, &[])?;
    relay.wait_ready().await?;
    let mut writers = Vec::new();
    // One row each, so that the relay knows whether hints come.
    for source in &sources {
        let reader = Reader::start(&stage.kafka.bootstrap(), &source.topic, 0, false)?;
        let writer = source.writer().await?;
        if of.hints {
            writer.write(0).await?;
        } else {
            writer.write_plainly(0).await?;
        }
        reader.wait_for(1, Duration::from_secs(30)).await?;
        reader.stop()?;
        writers.push(writer);
    }
    // A JVM goes on compiling for a while: ours waits as long.
    let settle = if options.against.is_some() { 20 } else { 2 };
    tokio::time::sleep(Duration::from_secs(settle)).await;
    let window = Duration::from_secs(if options.quick { 8 } else { 30 });
    let before = stage.cpu(relay.pid())?;
    tokio::time::sleep(window).await;
    let cpu = stage.cpu(relay.pid())?.since(before);
    let (resident, _) = machine::memory_mib(relay.pid())?;
    // And while all of them have something to say.
    for number in 1..=ROWS {
        for writer in &writers {
            if of.hints {
                writer.write(number).await?;
            } else {
                writer.write_plainly(number).await?;
            }
        }
    }
    let (live, _) = machine::memory_mib(relay.pid())?;
    for writer in writers {
        writer.close().await;
    }
    relay.end().await?;
    let percent = |cpu: f64| 100.0 * cpu / window.as_secs_f64();
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
    report.add(case, "relay RSS idle, MiB", Better::Lower, resident);
    report.add(case, "relay RSS live, MiB", Better::Lower, live);
    Ok(())
}
