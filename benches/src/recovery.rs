//! How long a stream of rows stands still when something is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinHandle;

use crate::checks::exactly_once;
use crate::cli::Options;
use crate::reader::{NEVER, Reader};
use crate::relay::{Relay, Whose};
use crate::report::{Better, Report};
use crate::source::{Kind, Source};
use crate::stage::Stage;

const RATE: u32 = 100;
/// Rows go on arriving until some time after the second recovery, but not for longer than these last.
const MOST_ROWS: usize = 18_000;
const KILLS: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(8)];
/// Rows go on arriving so long after the second recovery: a picture shows the way back to normal.
const SHOWN: Duration = Duration::from_secs(5);

pub(crate) async fn run(stage: &mut Stage, options: &Options, report: &mut Report) -> Result<()> {
    for (kind, whose) in options.contenders() {
        let case = whose.case(&format!("kill -9 of the relay, {}", kind.label()));
        if options.wants(&case) {
            report.begin_case(&case);
            let mut scene = Scene::set(stage, kind, whose).await?;
            let (mut waits, mut kills) = (Vec::new(), Vec::new());
            for at in KILLS {
                scene.at(at).await;
                let killed = Instant::now();
                kills.push(killed.duration_since(scene.begun).as_secs_f64());
                scene.relay.process().kill9()?;
                // As a supervisor does it.
                scene.relay = Relay::start(stage, &[&scene.source], &[])?;
                waits.push(scene.next_row_after(killed).await?);
            }
            tell(report, &case, "killed to next row, s", &waits);
            scene.end(stage, report, &case, kills).await?;
        }
        let case = whose.case(&format!("kill -9 of Kafka, {}", kind.label()));
        if options.wants(&case) {
            report.begin_case(&case);
            let scene = Scene::set(stage, kind, whose).await?;
            let (mut waits, mut after_port, mut kills) = (Vec::new(), Vec::new(), Vec::new());
            for at in KILLS {
                scene.at(at).await;
                let killed = Instant::now();
                kills.push(killed.duration_since(scene.begun).as_secs_f64());
                stage.kafka.kill9()?;
                tokio::task::block_in_place(|| stage.kafka.start_again())?;
                let answers = Instant::now();
                waits.push(scene.next_row_after(killed).await?);
                after_port.push(answers.elapsed().as_secs_f64());
            }
            tell(report, &case, "killed to next row, s", &waits);
            tell(report, &case, "port answers to next row, s", &after_port);
            scene.end(stage, report, &case, kills).await?;
        }
    }
    Ok(())
}

fn tell(report: &mut Report, case: &str, metric: &str, values: &[f64]) {
    for value in values {
        report.add(case, metric, Better::Lower, *value);
    }
}

/// Rows that arrive at a fixed rate, a relay, and somebody who reads.
struct Scene {
    source: Source,
    relay: Relay,
    reader: Reader,
    /// Ends with how many rows it has written.
    writing: JoinHandle<Result<usize>>,
    enough: Arc<AtomicBool>,
    begun: Instant,
}

impl Scene {
    async fn set(stage: &mut Stage, kind: Kind, whose: Whose) -> Result<Self> {
        let source = Source::make(stage, kind).await?.by(whose);
        let reader = Reader::start(&stage.kafka.bootstrap(), &source.topic, MOST_ROWS, false)?;
        let mut relay = Relay::start(stage, &[&source], &[])?;
        relay.wait_ready().await?;
        let writer = Arc::new(source.writer().await?);
        let begun = Instant::now();
        let enough = Arc::new(AtomicBool::new(false));
        let ends = enough.clone();
        let writing = tokio::spawn(async move {
            let begun = tokio::time::Instant::from_std(begun);
            let mut written = 0;
            while written < MOST_ROWS && !ends.load(Ordering::Relaxed) {
                let due = Duration::from_secs(1) * u32::try_from(written)? / RATE;
                tokio::time::sleep_until(begun + due).await;
                writer.write(written).await?;
                written += 1;
            }
            writer.close().await;
            Ok(written)
        });
        Ok(Self {
            source,
            relay,
            reader,
            writing,
            enough,
            begun,
        })
    }

    /// Waits until so long after the first row.
    async fn at(&self, time: Duration) {
        tokio::time::sleep(time.saturating_sub(self.begun.elapsed())).await;
    }

    /// Seconds from `killed` to the first row that was seen thereafter.
    async fn next_row_after(&self, killed: Instant) -> Result<f64> {
        let zero = self.reader.begun();
        let killed_at = i64::try_from(killed.duration_since(zero).as_nanos())?;
        let deadline = Instant::now() + Duration::from_secs(60);
        // What was visible before may be delivered a little later; a row written after the kill can't.
        let written = usize::try_from(killed.duration_since(self.begun).as_millis())?
            * usize::try_from(RATE)?
            / 1_000;
        loop {
            let seen = (written + 1..MOST_ROWS)
                .map(|number| self.reader.seen(number))
                .filter(|seen| *seen != NEVER && *seen > killed_at)
                .min();
            if let Some(seen) = seen {
                return Ok((seen - killed_at) as f64 / 1e9);
            }
            self.reader.goes_on()?;
            anyhow::ensure!(
                Instant::now() < deadline,
                "nothing flows again; the relay says:\n{}",
                self.relay.said()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn end(
        self,
        stage: &Stage,
        report: &mut Report,
        case: &str,
        kills: Vec<f64>,
    ) -> Result<()> {
        tokio::time::sleep(SHOWN).await;
        self.enough.store(true, Ordering::Relaxed);
        let rows = u64::try_from(self.writing.await??)?;
        let waited = self.reader.wait_for(rows, Duration::from_secs(60)).await;
        waited.with_context(|| self.relay.said())?;
        let zero = self.begun.duration_since(self.reader.begun());
        report.timeline(case, zero.as_secs_f64(), &self.reader.stop()?);
        report.kills(case, kills);
        self.relay.end().await?;
        exactly_once(&stage.kafka.bootstrap(), &self.source, rows)
    }
}
