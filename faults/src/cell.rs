//! Runs one cell: strikes, waits, counts.

use std::time::{Duration, Instant};

use auditor::{Audit, FindingKind, Source, Verdict, audit};
use onceward_testkit::wait;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::account::End;
use crate::reader::read_all;
use crate::rig::{Cell, Rig, Setting};
use crate::stage::Stage;

/// How a cell is run.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Of the whole run.
    pub seed: u64,
    /// How often the fault strikes; `None` = as often as it says itself.
    pub rounds: Option<u32>,
    /// At least so many events are committed.
    pub events: u64,
    /// A rule that the relays break.
    pub broken: Option<&'static str>,
}

/// What came of a cell.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// How often the fault struck.
    pub runs: u32,
    /// Events in the outbox at the end.
    pub events: u64,
    /// Of these: COMMIT was sent and no answer came.
    pub unknown: u64,
    /// Events that were rolled back.
    pub rolled_back: u64,
    /// Committed and not in the topic.
    pub lost: u64,
    /// In the topic again.
    pub doubled: u64,
    /// Out of their key's order.
    pub reordered: u64,
    /// Gaps in positions, records of nobody, changed ones, and the like.
    pub other: u64,
    /// From each fault's end until events flowed.
    pub recovery_ms: Vec<u64>,
    /// Records seen in each second.
    pub per_second: Vec<u32>,
    /// How long it took.
    pub seconds: f64,
    /// What is wrong, in words; empty if all is well.
    pub problems: Vec<String>,
}

impl Outcome {
    /// Middle and longest recovery.
    pub fn recovery(&self) -> Option<(u64, u64)> {
        let mut sorted = self.recovery_ms.clone();
        sorted.sort_unstable();
        let longest = *sorted.last()?;
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get((sorted.len() - 1) / 2)?;
        Some((lower.midpoint(upper), longest))
    }
}

/// Runs it. What goes wrong is in the outcome.
pub fn run(stage: &mut Stage, cell: &Cell, plan: &Plan) -> Outcome {
    let begun = Instant::now();
    let mut outcome = Outcome::default();
    if let Err(error) = try_run(stage, cell, plan, &mut outcome) {
        outcome.problems.push(format!("{error:#}"));
    }
    outcome.seconds = begun.elapsed().as_secs_f64();
    outcome
}

fn try_run(stage: &mut Stage, cell: &Cell, plan: &Plan, outcome: &mut Outcome) -> Result<()> {
    let seed = cell.seed(plan.seed);
    let mut random = StdRng::seed_from_u64(seed);
    let setting = Setting {
        world: cell.fault.world,
        relays: cell.fault.relays,
        consumers: cell.fault.consumers,
        behind_proxy: cell.fault.behind_proxy,
        cut_postgres: cell.fault.cut_postgres,
        seed,
        broken: plan.broken,
    };
    let mut rig = Rig::set(stage, cell.database, cell.publisher, setting)?;
    let rounds = plan.rounds.unwrap_or(cell.fault.rounds);
    let struck = strike(&mut rig, stage, cell, rounds, &mut random, outcome);
    // What was struck before it failed is counted all the same.
    if struck.is_ok() {
        let enough = |rig: &Rig| rig.account.count(End::Committed) >= plan.events;
        wait::until("enough events", Duration::from_secs(600), || {
            Ok(enough(&rig).then_some(()))
        })?;
    }
    judge(&mut rig, outcome)?;
    // What failed is left for who wants to look.
    if outcome.problems.is_empty() && struck.is_ok() {
        rig.clear(stage)?;
    }
    struck
}

fn strike(
    rig: &mut Rig,
    stage: &mut Stage,
    cell: &Cell,
    rounds: u32,
    random: &mut StdRng,
    outcome: &mut Outcome,
) -> Result<()> {
    for round in 1..=rounds {
        rig.flows()?;
        let wait = Duration::from_millis(random.random_range(0..400));
        std::thread::sleep(wait);
        rig.round = round;
        let struck = (cell.fault.strike)(rig, stage, random)?;
        let recovery = rig.recovered(&struck)?;
        outcome.runs = round;
        let millis = u64::try_from(recovery.as_millis())?;
        outcome.recovery_ms.push(millis);
        let what = match struck.what.as_str() {
            "" => String::new(),
            what => format!("{what}, "),
        };
        println!("    {round}/{rounds} after {wait:.0?}: {what}events flow after {millis} ms");
    }
    Ok(())
}

/// Waits until all is published, then has it counted by the auditor and by the writers' account.
pub fn judge(rig: &mut Rig, outcome: &mut Outcome) -> Result<()> {
    let drained = rig.drain();
    if let Err(error) = &drained {
        outcome.problems.push(format!("{error:#}"));
    } else if let Err(error) = rig.all_run() {
        outcome.problems.push(format!("{error:#}"));
    }
    outcome.per_second = rig.reader.per_second(rig.begun);
    let (kafka, runtime) = (rig.kafka.clone(), &rig.runtime);
    let source = Source {
        name: rig.task.source.to_string(),
        url: rig.url.clone(),
    };
    let report = runtime.block_on(audit(&Audit::new(&kafka, [source])))?;
    let last_numbers = runtime.block_on(rig.store.last_numbers())?;
    let mut tally = rig
        .account
        .check(&last_numbers, &read_all(&kafka, &rig.task.topic)?);
    if !rig.consumers.is_empty() {
        let effects = runtime.block_on(rig.store.effects())?;
        let theirs = rig.account.check(&last_numbers, &effects);
        tally.add(theirs, "effect");
    }

    let window = report.sources.first().cloned().unwrap_or_default();
    outcome.events = last_numbers.values().map(|last| last.unsigned_abs()).sum();
    outcome.unknown = rig.account.count(End::Unknown);
    outcome.rolled_back = rig.account.count(End::RolledBack);
    let count = |kinds: &[FindingKind]| kinds.iter().map(|kind| report.count(*kind)).sum::<u64>();
    use FindingKind as F;
    // Two judges of one thing: the stricter counts.
    outcome.lost = tally
        .lost
        .saturating_sub(window.pending)
        .max(count(&[F::Lost]));
    outcome.doubled = tally.doubled.max(count(&[F::Doubled]));
    outcome.reordered = tally.reordered.max(count(&[F::Reordered, F::KeyMoved]));
    outcome.other = tally.made_up
        + count(&[
            F::PositionGap,
            F::PositionDoubled,
            F::ChainBroken,
            F::Foreign,
            F::Changed,
            F::Identity,
            F::Unhandled,
            F::WithoutRecord,
            F::CopyMissing,
            F::BeyondEnd,
        ]);
    outcome.problems.extend(tally.told);
    let findings = report.findings.iter().take(10);
    outcome.problems.extend(
        findings.map(|finding| format!("auditor: {}: {}", finding.kind.label(), finding.text)),
    );
    if report.verdict != Verdict::Clean && report.findings.is_empty() {
        let unread = report.unreadable.join("; ");
        outcome
            .problems
            .push(format!("auditor: {:?} {unread}", report.verdict));
    }
    if window.pending + window.parked > 0 {
        outcome.problems.push(format!(
            "{} rows are not published, {} are parked",
            window.pending, window.parked
        ));
    }
    let sum = outcome.lost + outcome.doubled + outcome.reordered + outcome.other;
    let echoes = if rig.consumers.is_empty() { 1 } else { 2 };
    if sum == 0 && drained.is_ok_and(|rows| rows * echoes != window.published) {
        outcome.problems.push(format!(
            "the auditor found {} rows published",
            window.published
        ));
    }
    Ok(())
}
