//! `./dev soak`: faults drawn from all there are, for as long as wished, on one source with two relays and
//! two consumers; and beside it a source whose only relay nobody touches, to see what it costs over time.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use onceward_testkit::machine;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::Result;
use crate::cell::{Outcome, judge};
use crate::database::Kind;
use crate::fault::{FAULTS, Fault};
use crate::relay::Publisher;
use crate::report::thousands;
use crate::rig::{Rig, Setting};
use crate::stage::Stage;
use crate::world::World;

/// What to run.
#[derive(Debug, Clone, Parser)]
pub struct Options {
    /// For how long
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_080))]
    minutes: u64,
    /// What all faults and moments are drawn from [default: another one each time]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Where the outbox is
    #[arg(long, value_enum, default_value = "postgres")]
    database: Kind,
    /// Which producer
    #[arg(long, value_enum, default_value = "native")]
    publisher: Publisher,
    /// Also write what came of it to this file, as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What the untouched relay used up to a moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    cpu_seconds: f64,
    memory_mib: f64,
    events: usize,
}

/// Runs it; whether all was well.
pub fn run(options: &Options) -> Result<bool> {
    let seed = options
        .seed
        .unwrap_or_else(|| rand::random_range(1..1_000_000));
    let mut random = StdRng::seed_from_u64(seed);
    let (database, publisher) = (options.database, options.publisher);
    println!(
        "{} minutes on {} with {}, seed {seed}; starting Kafka",
        options.minutes,
        database.name(),
        publisher.name()
    );
    let mut stage = Stage::set()?;
    let witness = Setting {
        seed: seed.wrapping_add(1),
        ..Setting::default()
    };
    let mut witness = Rig::set(&mut stage, database, publisher, witness)?;
    let setting = Setting {
        relays: 2,
        consumers: 2,
        behind_proxy: true,
        cut_postgres: database == Kind::Postgres,
        seed,
        ..Setting::default()
    };
    let mut rig = Rig::set(&mut stage, database, publisher, setting)?;
    let fitting: Vec<&Fault> = FAULTS
        .iter()
        .filter(|fault| fault.world == World::Shared && fault.databases.contains(&database))
        .filter(|fault| fault.publishers.contains(&publisher) || fault.consumers > 0)
        .collect();

    let mut outcome = Outcome::default();
    let mut samples = vec![sample(&witness)?];
    let (begun, time) = (Instant::now(), Duration::from_secs(options.minutes * 60));
    while begun.elapsed() < time {
        let Some(fault) = fitting.choose(&mut random) else {
            break;
        };
        rig.round += 1;
        if let Err(error) = strike(
            &mut rig,
            &mut stage,
            fault,
            &mut random,
            begun,
            &mut outcome,
        ) {
            outcome.problems.push(format!("{}: {error:#}", fault.name));
            break;
        }
        samples.push(sample(&witness)?);
    }
    let mut beside = Outcome::default();
    for (rig, outcome) in [(&mut rig, &mut outcome), (&mut witness, &mut beside)] {
        if let Err(error) = judge(rig, outcome) {
            outcome.problems.push(format!("not judged: {error:#}"));
        }
    }
    outcome.seconds = begun.elapsed().as_secs_f64();
    tell("under fire", &outcome);
    tell("beside it", &beside);
    tell_usage(&samples);
    if let Some(file) = &options.out {
        std::fs::write(file, serde_json::to_string_pretty(&[&outcome, &beside])?)?;
    }
    let clean = outcome.problems.is_empty() && beside.problems.is_empty();
    if !clean {
        println!("logs: {}", stage.keep().display());
        println!(
            "FAILED; again: ./dev soak --minutes {} --seed {seed} --database {} --publisher {}",
            options.minutes,
            database.name(),
            publisher.name()
        );
    }
    Ok(clean)
}

fn strike(
    rig: &mut Rig,
    stage: &mut Stage,
    fault: &Fault,
    random: &mut StdRng,
    begun: Instant,
    outcome: &mut Outcome,
) -> Result<()> {
    rig.catch_up()?;
    rig.flows()?;
    std::thread::sleep(Duration::from_millis(random.random_range(0..1_500)));
    let struck = (fault.strike)(rig, stage, random)?;
    let millis = u64::try_from(rig.recovered(&struck)?.as_millis())?;
    outcome.runs += 1;
    outcome.recovery_ms.push(millis);
    println!(
        "  {:>6.0} s  {} {}: effects after {millis} ms, {} wait",
        begun.elapsed().as_secs_f64(),
        fault.name,
        struck.what,
        rig.behind().unwrap_or(-1),
    );
    Ok(())
}

fn sample(witness: &Rig) -> Result<Sample> {
    let pid = witness
        .relays
        .first()
        .map_or(0, |relay| relay.process.pid());
    let (memory_mib, _) = machine::memory_mib(pid)?;
    Ok(Sample {
        cpu_seconds: machine::cpu_seconds(pid)?,
        memory_mib,
        events: witness.reader.count(),
    })
}

fn tell(which: &str, outcome: &Outcome) {
    let (middle, longest) = outcome.recovery().unwrap_or_default();
    println!(
        "{which}: {} faults, {} events: {} lost, {} doubled, {} reordered, {} other; recovery p50 {middle} ms, \
         max {longest} ms",
        outcome.runs,
        thousands(outcome.events),
        outcome.lost,
        outcome.doubled,
        outcome.reordered,
        outcome.other
    );
    for problem in &outcome.problems {
        println!("  {}", problem.replace('\n', "\n    "));
    }
}

/// The first quarter and the last one, which should not differ.
fn tell_usage(samples: &[Sample]) {
    let quarter = (samples.len() / 4).max(2).min(samples.len());
    let parts = [
        ("first quarter", samples.get(..quarter)),
        ("last quarter", samples.get(samples.len() - quarter..)),
    ];
    for (which, part) in parts {
        let Some([first, .., last]) = part else {
            continue;
        };
        let events = last.events.saturating_sub(first.events).max(1) as f64;
        let cpu = (last.cpu_seconds - first.cpu_seconds) * 1e6 / events;
        let memory = part.unwrap_or_default().iter();
        let memory: f64 = memory.map(|sample| sample.memory_mib).sum::<f64>() / quarter as f64;
        println!(
            "the relay beside it, {which}: {memory:.1} MiB, {cpu:.0} µs of CPU an event ({events:.0} events)"
        );
    }
}
