//! How it scales: the same measurement at several values of one thing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::checks::exactly_once;
use crate::cli::Options;
use crate::commits::Commits;
use crate::curve::Curve;
use crate::drain::{Drained, drain};
use crate::live::{self, Load};
use crate::reader::Reader;
use crate::report::{Better, Report};
use crate::retained::Outbox;
use crate::source::{Kind, Shape, Source};
use crate::stage::Stage;

const PAYLOADS: [usize; 5] = [100, 300, 1_000, 10_000, 100_000];
const SOURCES: [u32; 4] = [1, 2, 5, 10];
const WRITERS: [usize; 4] = [1, 4, 16, 64];
const PARTITIONS: [i32; 3] = [3, 10, 30];
const BATCHES: [u32; 5] = [100, 1_000, 5_000, 10_000, 20_000];
/// Payload bytes of a backlog of large rows, in all.
const BYTES: usize = 200_000_000;

pub(crate) async fn run(stage: &mut Stage, options: &Options, report: &mut Report) -> Result<()> {
    for kind in Kind::ALL {
        for what in What::ALL {
            let name = format!("{}, {}", what.label(), kind.label());
            if options.wants(&name) {
                report.begin_case(&name);
                let curve = what.measure(stage, options, kind).await?;
                if let Some(cost) = what.stays_flat()
                    && let Some(growth) = curve.growth(cost)
                {
                    report.add(&name, "cost a row, last ÷ first", Better::Lower, growth);
                }
                report.curve(&name, curve);
            }
        }
    }
    Ok(())
}

/// What varies.
#[derive(Debug, Clone, Copy)]
enum What {
    Payload,
    Sources,
    Writers,
    Partitions,
    Batch,
    Backlog,
    Retained,
}

impl What {
    const ALL: [Self; 7] = [
        Self::Payload,
        Self::Sources,
        Self::Writers,
        Self::Partitions,
        Self::Batch,
        Self::Backlog,
        Self::Retained,
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Payload => "curve of payload",
            Self::Sources => "curve of sources",
            Self::Writers => "curve of writers",
            Self::Partitions => "curve of partitions",
            Self::Batch => "curve of batch rows",
            Self::Backlog => "curve of backlog",
            Self::Retained => "curve of retained rows",
        }
    }

    /// What must not grow along this curve.
    fn stays_flat(self) -> Option<&'static str> {
        match self {
            Self::Backlog | Self::Retained => Some(US_A_ROW),
            Self::Payload | Self::Sources | Self::Writers | Self::Partitions | Self::Batch => None,
        }
    }

    async fn measure(self, stage: &mut Stage, options: &Options, kind: Kind) -> Result<Curve> {
        match self {
            Self::Payload => payload(stage, options, kind).await,
            Self::Sources => sources(stage, options, kind).await,
            Self::Writers => writers(stage, options, kind).await,
            Self::Partitions => partitions(stage, options, kind).await,
            Self::Batch => batch(stage, options, kind).await,
            Self::Backlog => backlog(stage, options, kind).await,
            Self::Retained => retained(stage, options, kind).await,
        }
    }
}

const US_A_ROW: &str = "µs/row";

/// What is told of every backlog.
fn figures(drained: &Drained) -> [(&'static str, f64); 5] {
    [
        ("rows/s", drained.rate()),
        (US_A_ROW, 1e6 / drained.rate()),
        ("relay CPU, µs/row", drained.relay_cpu()),
        ("database CPU, µs/row", drained.database_cpu()),
        ("relay peak RSS, MiB", drained.peak_mib),
    ]
}

/// A backlog of a new source.
async fn cleared(
    stage: &mut Stage,
    kind: Kind,
    shape: Shape,
    rows: u32,
    relay_args: &[String],
) -> Result<Drained> {
    let source = Source::shaped(stage, kind, shape).await?;
    source.fill(rows).await?;
    let drained = drain(stage, &[&source], rows, relay_args).await?;
    stage.delete_topic(&source.topic).await?;
    Ok(drained)
}

/// One backlog of a curve.
#[derive(Default)]
struct Point {
    /// Where it stands on the curve.
    at: f64,
    rows: u32,
    shape: Shape,
    relay_args: Vec<String>,
}

/// A curve of backlogs; `more` is told of each besides [`figures`].
async fn backlogs(
    stage: &mut Stage,
    kind: Kind,
    over: &'static str,
    points: impl IntoIterator<Item = Point>,
    more: impl Fn(&Point, &Drained) -> Vec<(&'static str, f64)>,
) -> Result<Curve> {
    let mut curve = Curve::over(over);
    for point in points {
        let drained = cleared(stage, kind, point.shape, point.rows, &point.relay_args).await?;
        let all = [&figures(&drained)[..], &more(&point, &drained)].concat();
        curve.add(point.at, &all);
    }
    Ok(curve)
}

async fn payload(stage: &mut Stage, options: &Options, kind: Kind) -> Result<Curve> {
    let points = PAYLOADS.map(|payload_bytes| Point {
        at: payload_bytes as f64,
        rows: options
            .rows()
            .min(u32::try_from(BYTES / payload_bytes).unwrap_or(u32::MAX)),
        shape: Shape {
            payload_bytes,
            ..Shape::default()
        },
        ..Point::default()
    });
    let megabytes = |point: &Point, drained: &Drained| {
        let payload_bytes = point.shape.payload_bytes as f64;
        vec![("MB/s", drained.rate() * payload_bytes / 1e6)]
    };
    backlogs(stage, kind, "payload, bytes", points, megabytes).await
}

/// The same backlog, spread over more and more databases.
async fn sources(stage: &mut Stage, options: &Options, kind: Kind) -> Result<Curve> {
    let mut curve = Curve::over("sources of one relay");
    for count in SOURCES {
        let rows = options.rows() / count;
        let mut sources = Vec::new();
        for _ in 0..count {
            let source = Source::make(stage, kind).await?;
            source.fill(rows).await?;
            sources.push(source);
        }
        let all: Vec<&Source> = sources.iter().collect();
        let drained = drain(stage, &all, rows, &[]).await?;
        curve.add(f64::from(count), &figures(&drained));
        for source in &sources {
            stage.delete_topic(&source.topic).await?;
        }
    }
    Ok(curve)
}

async fn partitions(stage: &mut Stage, options: &Options, kind: Kind) -> Result<Curve> {
    let mut curve = Curve::over("partitions of the topic");
    for partitions in PARTITIONS {
        let shape = Shape {
            partitions,
            ..Shape::default()
        };
        let drained = cleared(stage, kind, shape, options.rows(), &[]).await?;
        let source = Source::shaped(stage, kind, shape).await?;
        let load = Load::steady(1_000, options.seconds())?;
        let live = live::measure(stage, &source, &load).await?;
        stage.delete_topic(&source.topic).await?;
        let all = [&figures(&drained)[..], &live.quantiles()].concat();
        curve.add(f64::from(partitions), &all);
    }
    Ok(curve)
}

async fn batch(stage: &mut Stage, options: &Options, kind: Kind) -> Result<Curve> {
    let over = "rows of a Kafka transaction at most";
    let points = BATCHES.map(|rows| Point {
        at: f64::from(rows),
        // Small transactions are slow: as many of them as will do.
        rows: options.rows().min(rows * 1_000),
        relay_args: vec!["--batch-rows".to_owned(), rows.to_string()],
        ..Point::default()
    });
    backlogs(stage, kind, over, points, |_, _| vec![]).await
}

async fn backlog(stage: &mut Stage, options: &Options, kind: Kind) -> Result<Curve> {
    let points = [10, 4, 2, 1].map(|part| Point {
        at: f64::from(options.rows() / part),
        rows: options.rows() / part,
        ..Point::default()
    });
    let seconds = |_: &Point, drained: &Drained| vec![("start to last row, s", drained.seconds())];
    backlogs(stage, kind, "rows of the backlog", points, seconds).await
}

/// The same backlog and the same load, on an outbox that keeps more and more.
async fn retained(stage: &mut Stage, options: &Options, kind: Kind) -> Result<Curve> {
    let mut curve = Curve::over("published rows retained");
    let most = options.retained();
    let mut outbox = Outbox::empty(stage, kind).await?;
    for rows in [0, most / 10, most] {
        outbox.retain(stage, rows).await?;
        let retained = outbox.retained();
        let drained = outbox.drain(stage, options.rows()).await?;
        let live = outbox.live(stage, options.seconds()).await?;
        let all = [&figures(&drained)[..], &live.quantiles()].concat();
        curve.add(f64::from(retained), &all);
    }
    outbox.drop_topic(stage).await?;
    Ok(curve)
}

/// Writers that commit one row after the other, as fast as they can, and a relay that follows.
async fn writers(stage: &mut Stage, options: &Options, kind: Kind) -> Result<Curve> {
    let mut curve = Curve::over("writers");
    for writers in WRITERS {
        let source = Source::make(stage, kind).await?;
        let seconds = Duration::from_secs(u64::from(options.seconds()));
        curve.add(
            writers as f64,
            &written(stage, &source, writers, seconds).await?,
        );
        stage.delete_topic(&source.topic).await?;
    }
    Ok(curve)
}

async fn written(
    stage: &Stage,
    source: &Source,
    writers: usize,
    time: Duration,
) -> Result<[(&'static str, f64); 4]> {
    /// More than they can write in a second.
    const MOST_A_SECOND: usize = 50_000;
    let kafka = stage.kafka.bootstrap();
    let most = MOST_A_SECOND * usize::try_from(time.as_secs())?;
    let reader = Reader::start(&kafka, &source.topic, most, false)?;
    let mut relay = stage.relay(&[source.option()])?;
    relay.wait_ready().await?;
    let writer = Arc::new(source.writer().await?);
    let commits = Arc::new(Commits::new(most, reader.begun()));
    let next = Arc::new(AtomicUsize::new(0));
    let before = stage.cpu(relay.pid())?;
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..writers {
        let (writer, commits, next) = (writer.clone(), commits.clone(), next.clone());
        tasks.spawn(async move {
            while begun.elapsed() < time {
                let number = next.fetch_add(1, Ordering::Relaxed);
                writer.write(number).await?;
                commits.returned(number)?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let rows = next.load(Ordering::Relaxed);
    writer.close().await;
    let waited = reader
        .wait_for(u64::try_from(rows)?, Duration::from_secs(60))
        .await;
    ensure!(
        waited.is_ok(),
        "{waited:?}; the relay says:\n{}",
        relay.process.log_tail(20)
    );
    let cpu = stage.cpu(relay.pid())?.since(before);
    // The first tenth is the start.
    let histogram = commits.to_visible(&reader, rows / 10..rows)?;
    reader.stop()?;
    relay.process.kill9()?;
    exactly_once(&kafka, source, u64::try_from(rows)?)?;
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e6;
    Ok([
        ("rows committed/s", rows as f64 / seconds),
        ("p50, ms", at(0.5)),
        ("p99, ms", at(0.99)),
        ("relay CPU, µs/row", cpu.relay * 1e6 / rows as f64),
    ])
}
