//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::ensure;
use clap::{Parser, Subcommand};

use crate::Result;
use crate::cell::{Outcome, Plan, run as run_cell};
use crate::database::Kind;
use crate::fault::FAULTS;
use crate::relay::Publisher;
use crate::report::{Report, thousands};
use crate::rig::Cell;
use crate::stage::Stage;

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
}

/// What to run.
#[derive(Debug, Clone, Parser)]
pub struct Options {
    /// Only the cells whose names contain this, such as kafka-killed or relay-killed/sqlite/native
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
    /// Show which cells there are, and run none
    #[arg(long)]
    list: bool,
    /// Where the report goes if all cells run
    #[arg(long, value_name = "FILE", default_value = "docs/FAULTS.md")]
    report: PathBuf,
}

/// Every cell there is.
pub fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for fault in FAULTS {
        for database in Kind::ALL {
            for publisher in Publisher::ALL {
                let concerns =
                    fault.databases.contains(&database) && fault.publishers.contains(&publisher);
                if concerns {
                    cells.push(Cell {
                        fault,
                        database,
                        publisher,
                    });
                }
            }
        }
    }
    cells
}

/// Parses, works, says how it ended.
pub fn run() -> ExitCode {
    let worked = match Cli::parse().command {
        Command::Faults(options) => faults(&options),
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

fn faults(options: &Options) -> Result<bool> {
    let wanted = |cell: &Cell| {
        let only = options.only.as_ref();
        only.is_none_or(|text| cell.name().contains(text))
    };
    let cells: Vec<Cell> = cells().into_iter().filter(wanted).collect();
    ensure!(
        !cells.is_empty(),
        "no cell is called so; ./dev faults --list shows all"
    );
    if options.list {
        for cell in &cells {
            println!("{}", cell.name());
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
        environment: Vec::new(),
    };
    let mut report = Report::begin(seed);
    println!(
        "{} cells, seed {seed}; {} cores, load {:.1}; starting Kafka",
        cells.len(),
        report.machine.cores,
        report.machine.load_before
    );
    let mut stage = Stage::set()?;
    for (number, cell) in cells.iter().enumerate() {
        println!("[{}/{}] {}", number + 1, cells.len(), cell.name());
        let outcome = run_cell(&mut stage, cell, &plan);
        tell(cell, seed, &outcome);
        report.add(cell, outcome);
    }
    if let Some(version) = stage.postgres_version()? {
        report.versions.insert("PostgreSQL".to_owned(), version);
    }
    let failed = report.failed();
    if failed > 0 {
        let kept = stage.keep();
        println!("the relays' logs: {}", kept.display());
    }
    if !options.quick && options.only.is_none() {
        report.write(&options.report)?;
        println!("written: {}", options.report.display());
    }
    println!("{} cells clean, {failed} failed", cells.len() - failed);
    Ok(failed == 0)
}

fn tell(cell: &Cell, seed: u64, outcome: &Outcome) {
    println!(
        "    {} events: {} lost, {} doubled, {} reordered, {} other ({:.0} s)",
        thousands(outcome.events),
        outcome.lost,
        outcome.doubled,
        outcome.reordered,
        outcome.other,
        outcome.seconds
    );
    if outcome.problems.is_empty() {
        return;
    }
    for problem in &outcome.problems {
        println!("    {}", problem.replace('\n', "\n      "));
    }
    println!(
        "    FAILED; again: ./dev faults --only {} --seed {seed}",
        cell.name()
    );
}
