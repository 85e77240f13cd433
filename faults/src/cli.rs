//! The command line.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use onceward::SourceName;

use crate::Result;
use crate::account::Account;
use crate::broken::{BROKEN, Broken, is_noticed};
use crate::cell::{Outcome, Plan, run as run_cell};
use crate::consumer;
use crate::database::Store;
use crate::report::{Report, thousands};
use crate::rig::Cell;
use crate::soak;
use crate::stage::Stage;
use crate::stop::{StopCell, stop_cells};
use crate::writers::{Task, write_for_ever};

#[derive(Debug, Parser)]
#[command(name = "./dev", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kill, freeze and cut off real processes while writers commit, and count what became of it
    ///
    /// Every fault on both databases with both publishers, on a Kafka and a Postgres of its own. Ends
    /// with exit code 1 if anything was lost, doubled, reordered or did not recover.
    Faults(Options),
    /// The same at random, for as long as wished, and what a relay costs over time
    ///
    /// Faults drawn from all there are strike a source with two relays and two consumers; beside it a relay
    /// that is left alone shows whether its CPU time and memory stay the same.
    Soak(soak::Options),
    /// What `writer-killed` kills
    #[command(hide = true)]
    Writer(WriterOptions),
    /// What `consumer-killed` kills
    #[command(hide = true)]
    Consumer(consumer::Options),
}

#[derive(Debug, Parser)]
struct WriterOptions {
    #[arg(long)]
    url: String,
    #[arg(long)]
    source: SourceName,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    first_token: u64,
    #[arg(long)]
    journal: PathBuf,
}

/// What to run.
#[derive(Debug, Clone, Parser)]
pub struct Options {
    /// Only the cells whose names contain this, such as kafka-killed or relay-killed/sqlite/native; broken
    /// is what breaks a rule of relay or consumer, to see that it is noticed, and stop where nothing may go on
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Each fault strikes twice; docs/FAULTS.md is left alone
    #[arg(long)]
    quick: bool,
    /// What all moments are drawn from [default: another one each time]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Commit at least so many events in each cell
    #[arg(long, value_name = "N", default_value_t = 0)]
    events: u64,
    /// How often a fault strikes in a cell [default: as the fault says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: Option<u32>,
    /// Put what came of these cells into the report in the place of what stands there
    #[arg(long)]
    update: bool,
    /// Show which cells there are, and run none
    #[arg(long)]
    list: bool,
    /// Where the report goes if all cells run
    #[arg(long, value_name = "FILE", default_value = "docs/FAULTS.md")]
    report: PathBuf,
}

/// Parses, works, says how it ended.
pub fn run() -> ExitCode {
    let worked = match Cli::parse().command {
        Command::Faults(options) => faults(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Writer(options) => write(options).map(|()| true),
        Command::Consumer(options) => consume(options).map(|()| true),
    };
    match worked {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The cell of this name.
pub fn cell_named(name: &str) -> Result<Cell> {
    let mut all = Cell::all().into_iter();
    all.find(|cell| cell.name() == name)
        .with_context(|| format!("no cell is called {name}; ./dev faults --list shows all"))
}

fn faults(options: &Options) -> Result<bool> {
    let wanted = |name: String| options.only.as_ref().is_none_or(|text| name.contains(text));
    let cells: Vec<Cell> = Cell::all()
        .into_iter()
        .filter(|cell| wanted(cell.name()))
        .collect();
    let stops: Vec<StopCell> = stop_cells().filter(|stop| wanted(stop.name())).collect();
    let broken: Vec<&Broken> = BROKEN.iter().filter(|rule| wanted(rule.name())).collect();
    let count = cells.len() + stops.len() + broken.len();
    ensure!(
        count > 0,
        "no cell is called so; ./dev faults --list shows all"
    );
    if options.list {
        let names = cells.iter().map(Cell::name);
        let names = names.chain(stops.iter().map(StopCell::name));
        for name in names.chain(broken.iter().map(|rule| rule.name())) {
            println!("{name}");
        }
        return Ok(true);
    }
    let seed = options
        .seed
        .unwrap_or_else(|| rand::random_range(1..1_000_000));
    let plan = Plan {
        seed,
        rounds: options.rounds.or(options.quick.then_some(2)),
        events: options.events,
        broken: None,
    };
    let mut report = Report::begin(seed);
    println!(
        "{count} cells, seed {seed}; {} cores, load {:.1}; starting Kafka",
        report.machine.cores, report.machine.load_before
    );
    let mut stage = Stage::set()?;
    for (number, cell) in cells.iter().enumerate() {
        println!("[{}/{count}] {}", number + 1, cell.name());
        let outcome = run_cell(&mut stage, cell, &plan);
        tell(&cell.name(), seed, &outcome);
        report.add(cell, outcome);
    }
    for (number, cell) in stops.iter().enumerate() {
        let name = cell.name();
        println!("[{}/{count}] {name}", cells.len() + number + 1);
        let stopped = cell.run(&mut stage, seed);
        match stopped.problem.as_str() {
            "" => println!("    after {} ms: {}", stopped.after_ms, stopped.reason),
            problem => println!("    {problem}\n    FAILED; again: ./dev faults --only {name}"),
        }
        report.add_stop(cell, stopped);
    }
    for (number, rule) in broken.iter().enumerate() {
        let name = rule.name();
        println!(
            "[{}/{count}] {name}, in {}",
            cells.len() + stops.len() + number + 1,
            rule.cell
        );
        let mut outcome = rule.run(&mut stage, seed)?;
        println!("    {}", counts(&outcome));
        if !is_noticed(&outcome) {
            println!("    FAILED: nobody noticed; again: ./dev faults --only {name} --seed {seed}");
        }
        outcome.problems.truncate(3);
        report.add_broken(rule, outcome);
    }
    if let Some(version) = stage.postgres_version()? {
        report.versions.insert("PostgreSQL".to_owned(), version);
    }
    let failed = report.failed();
    if failed > 0 {
        println!("the relays' logs: {}", stage.keep().display());
    }
    if options.update {
        report.merge_into(&options.report)?;
        println!("updated: {}", options.report.display());
    } else if !options.quick && options.only.is_none() {
        report.write(&options.report)?;
        println!("written: {}", options.report.display());
    }
    println!(
        "{} cells as they should be, {failed} failed",
        count - failed
    );
    Ok(failed == 0)
}

fn write(options: WriterOptions) -> Result<()> {
    let journal = File::options().append(true).open(&options.journal)?;
    let task = Task {
        source: options.source,
        topic: options.topic,
        seed: options.seed,
        account: Arc::new(Account::with_journal(journal)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let store = Store::open(&options.url, 8).await?;
        write_for_ever(&store, task, options.first_token).await
    })
}

fn consume(options: consumer::Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(consumer::run(options))
}

fn counts(outcome: &Outcome) -> String {
    format!(
        "{} events: {} lost, {} doubled, {} reordered, {} other ({:.0} s)",
        thousands(outcome.events),
        outcome.lost,
        outcome.doubled,
        outcome.reordered,
        outcome.other,
        outcome.seconds
    )
}

fn tell(cell: &str, seed: u64, outcome: &Outcome) {
    println!("    {}", counts(outcome));
    if outcome.problems.is_empty() {
        return;
    }
    for problem in &outcome.problems {
        println!("    {}", problem.replace('\n', "\n      "));
    }
    println!("    FAILED; again: ./dev faults --only {cell} --seed {seed}");
}
