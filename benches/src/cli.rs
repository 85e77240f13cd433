//! The command line, and the order of the cases.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

use crate::report::Report;
use crate::stage::Stage;
use crate::{drain, http, idle, live};

/// Measures the relay and the services on a Kafka and a Postgres of its own.
#[derive(Debug, Parser)]
#[command(name = "./dev bench", max_term_width = 100)]
pub(crate) struct Options {
    /// What to measure
    #[arg(value_enum, default_value = "all")]
    pub(crate) what: What,
    /// One short run of each case instead of three long ones
    #[arg(long)]
    pub(crate) quick: bool,
    /// How often each case runs [default: 3, with --quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=50))]
    runs: Option<u32>,
    /// Only these cases: those whose names contain this text
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// Rows of the backlog that is drained [default: 1000000, with --quick 200000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1_000..))]
    rows: Option<u32>,
    /// More arguments for the relay, e.g. "--batch-rows 5000"
    #[arg(
        long,
        value_name = "ARGUMENTS",
        default_value = "",
        allow_hyphen_values = true
    )]
    pub(crate) relay_args: String,
    /// Where the results go
    #[arg(long, value_name = "DIR", default_value = "benches/results")]
    out: PathBuf,
    /// Compare with this file
    #[arg(long, value_name = "FILE", default_value = "benches/baseline.json")]
    baseline: PathBuf,
    /// Make this run's results the baseline
    #[arg(long)]
    save_baseline: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// The relay and the HTTP side
    All,
    /// Backlogs, latency, idle cost
    Relay,
    /// POST /orders
    Http,
}

impl Options {
    pub(crate) fn runs(&self) -> u32 {
        self.runs.unwrap_or(if self.quick { 1 } else { 3 })
    }
    pub(crate) fn rows(&self) -> u32 {
        let default = if self.quick { 200_000 } else { 1_000_000 };
        self.rows.unwrap_or(default)
    }
    /// Whether the case of this name is wanted.
    pub(crate) fn wants(&self, case: &str) -> bool {
        self.case.as_ref().is_none_or(|text| case.contains(text))
    }
}

pub(crate) fn run() -> ExitCode {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(measure(&options)),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(options: &Options) -> Result<()> {
    let mut report = Report::begin(options)?;
    let mut stage = Stage::set(options)?;
    report.version("postgres", stage.postgres_version().await?);
    for run in 1..=options.runs() {
        if options.runs() > 1 {
            println!("run {run} of {}", options.runs());
        }
        if options.what != What::Http {
            drain::run(&mut stage, options, &mut report).await?;
            live::run(&mut stage, options, &mut report).await?;
            idle::run(&mut stage, options, &mut report).await?;
        }
        if options.what != What::Relay {
            http::run(&mut stage, options, &mut report).await?;
        }
    }
    drop(stage);
    report.print(&options.baseline)?;
    let file = report.write(&options.out)?;
    println!("\nwritten: {}", file.display());
    if options.save_baseline {
        std::fs::copy(&file, &options.baseline)
            .with_context(|| format!("writing {}", options.baseline.display()))?;
        println!("baseline: {}", options.baseline.display());
    }
    Ok(())
}
