//! Backlogs: a relay starts on an outbox that is full.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use onceward_testkit::machine;

use crate::checks::exactly_once;
use crate::cli::Options;
use crate::reader::{Reader, Timeline};
use crate::relay::{Relay, Whose};
use crate::report::{Better, Report};
use crate::source::{Kind, Source};
use crate::stage::{Cpu, Stage};

/// No backlog takes longer.
pub(crate) const AT_MOST: Duration = Duration::from_secs(300);

/// Rows of a transaction, where they are many.
const BIG: u32 = 10_000;

pub(crate) async fn run(stage: &mut Stage, options: &Options, report: &mut Report) -> Result<()> {
    let rows = options.rows();
    // Ours reads rows, not transactions; only beside another is there something to compare.
    let sizes: &[u32] = if options.against.is_some() {
        &[1, BIG]
    } else {
        &[1]
    };
    for (kind, whose) in options.contenders() {
        for size in sizes {
            let of = match size {
                1 => String::new(),
                many => format!(" of {many} a transaction"),
            };
            let case = whose.case(&format!("drain {rows} rows{of}, {}", kind.label()));
            if !options.wants(&case) {
                continue;
            }
            report.begin_case(&case);
            let source = Source::make(stage, kind).await?.by(whose);
            let mut all = rows;
            if whose == Whose::Debezium {
                leave_a_mark(stage, &source, rows).await?;
                all += 1;
            }
            source.fill_with(rows, *size).await?;
            let drained = drain(stage, &[&source], all, &[]).await?;
            drained.tell(report, &case);
            report.timeline(&case, drained.started, &drained.timeline);
            stage.delete_topic(&source.topic).await?;
        }
    }
    Ok(())
}

/// Debezium begins where the WAL stands when it first runs, and remembers nothing until it has published a
/// row: here the one numbered after those of the backlog.
async fn leave_a_mark(stage: &Stage, source: &Source, number: u32) -> Result<()> {
    let mut relay = Relay::start(stage, &[source], &[])?;
    relay.wait_ready().await?;
    let reader = Reader::start(&stage.kafka.bootstrap(), &source.topic, 0, false)?;
    let writer = source.writer().await?;
    writer.write(usize::try_from(number)?).await?;
    writer.close().await;
    reader.wait_for(1, Duration::from_secs(60)).await?;
    reader.stop()?;
    relay.process().kill9()?;
    Ok(())
}

/// Lets the broker's compiler see what is coming, so that the first case pays no more than the others.
pub(crate) async fn warm_up(stage: &mut Stage) -> Result<()> {
    const ROWS: u32 = 200_000;
    println!("warming up");
    let source = Source::make(stage, Kind::Sqlite).await?;
    source.fill(ROWS).await?;
    drain(stage, &[&source], ROWS, &[]).await?;
    stage.delete_topic(&source.topic).await
}

/// How a backlog went.
pub(crate) struct Drained {
    rows: u64,
    /// Those of them that were there before the relay was started.
    already: u64,
    /// When the relay was started, in seconds of the timeline.
    started: f64,
    timeline: Timeline,
    cpu: Cpu,
    pub(crate) peak_mib: f64,
}

/// Starts a relay on full outboxes, and waits until a reader has all their rows: `rows` of each.
pub(crate) async fn drain(
    stage: &Stage,
    sources: &[&Source],
    rows: u32,
    relay_args: &[String],
) -> Result<Drained> {
    let kafka = stage.kafka.bootstrap();
    let topics: Vec<&str> = sources.iter().map(|source| &*source.topic).collect();
    let all = u64::from(rows) * u64::try_from(sources.len())?;
    let reader = Reader::of_all(&kafka, &topics, 0, true)?;
    // Connected and waiting before the relay is there.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (started, already) = (Instant::now(), reader.count());
    let relay = Relay::start(stage, sources, relay_args)?;
    let before = stage.cpu(relay.pid())?;
    let waited = reader.wait_for(all, AT_MOST).await;
    ensure!(
        waited.is_ok(),
        "{waited:?}; the relay says:\n{}",
        relay.said()
    );
    let cpu = stage.cpu(relay.pid())?.since(before);
    let (_, peak_mib) = machine::memory_mib(relay.pid())?;
    let started = started.duration_since(reader.begun()).as_secs_f64();
    let timeline = reader.stop()?;
    relay.end().await?;
    for source in sources {
        exactly_once(&kafka, source, u64::from(rows))?;
    }
    Ok(Drained {
        rows: all,
        already,
        started,
        timeline,
        cpu,
        peak_mib,
    })
}

impl Drained {
    /// When this share of the rows was seen, and how many there were.
    fn after(&self, share: f64) -> (f64, u64) {
        let wanted = (self.rows as f64 * share).max((self.already + 1) as f64);
        let mut points = self.timeline.iter();
        let reached = points.find(|(_, count)| *count as f64 >= wanted);
        reached.copied().unwrap_or((f64::NAN, 0))
    }

    /// Rows a second between the first tenth and the end: without the start, which has a row of its own.
    pub(crate) fn rate(&self) -> f64 {
        let (early, last) = (self.after(0.1), self.after(1.0));
        (last.1 - early.1) as f64 / (last.0 - early.0)
    }

    /// Seconds from the relay's start to the last row.
    pub(crate) fn seconds(&self) -> f64 {
        self.after(1.0).0 - self.started
    }

    /// CPU of these many seconds, in µs a row.
    pub(crate) fn each(&self, seconds: f64) -> f64 {
        seconds * 1e6 / self.rows as f64
    }

    pub(crate) fn relay_cpu(&self) -> f64 {
        self.each(self.cpu.relay)
    }

    pub(crate) fn database_cpu(&self) -> f64 {
        self.each(self.cpu.database)
    }

    pub(crate) fn tell(&self, report: &mut Report, case: &str) {
        let mut lower = |metric, value| report.add(case, metric, Better::Lower, value);
        lower("start to first row, s", self.after(0.0).0 - self.started);
        lower("start to last row, s", self.seconds());
        lower("relay peak RSS, MiB", self.peak_mib);
        lower("relay CPU, µs/row", self.relay_cpu());
        lower("database CPU, µs/row", self.database_cpu());
        lower("broker CPU, µs/row", self.each(self.cpu.broker));
        report.add(case, "rows/s", Better::Higher, self.rate());
        report.add(
            case,
            "consumer CPU, µs/row",
            Better::None,
            self.each(self.cpu.bench),
        );
    }
}
