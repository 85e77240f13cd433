//! The command line, and the order of the cases.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use crate::report::Report;
use crate::stage::Stage;
use crate::{arriving, consumer, curves, drain, http, idle, live, recovery, retained, saga, write};

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
    #[arg(
        long,
        value_name = "FILE",
        default_value = "benches/results/baseline.json"
    )]
    baseline: PathBuf,
    /// Make this run's results the baseline; cases that did not run keep theirs
    #[arg(long)]
    save_baseline: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// Everything below but the curves
    All,
    /// Backlogs, latency, idle cost, recovery from kill -9
    Relay,
    /// Backlogs and latency while millions of published rows are still in the outbox
    Retained,
    /// An order's transaction with and without its outbox row
    Write,
    /// Inbox, handler and offset; duplicates
    Consumer,
    /// The whole shop: an order through all services
    Saga,
    /// POST /orders
    Http,
    /// How it scales with payload, sources, writers, partitions, batches, backlog, retained rows
    Curves,
}

impl Options {
    pub(crate) fn runs(&self) -> u32 {
        self.runs.unwrap_or(if self.quick { 1 } else { 3 })
    }
    pub(crate) fn rows(&self) -> u32 {
        let default = if self.quick { 200_000 } else { 1_000_000 };
        self.rows.unwrap_or(default)
    }
    /// Published rows that stay in the outbox, where there are any.
    pub(crate) fn retained(&self) -> u32 {
        if self.quick { 1_000_000 } else { 10_000_000 }
    }
    /// How long a load goes on that counts.
    pub(crate) fn seconds(&self) -> u32 {
        if self.quick { 8 } else { 30 }
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
    if !matches!(options.what, What::Write | What::Http) {
        drain::warm_up(&mut stage).await?;
    }
    for run in 1..=options.runs() {
        if options.runs() > 1 {
            println!("run {run} of {}", options.runs());
        }
        let wanted = |what| options.what == What::All || options.what == what;
        if wanted(What::Relay) {
            drain::run(&mut stage, options, &mut report).await?;
            arriving::run(&mut stage, options, &mut report).await?;
            live::run(&mut stage, options, &mut report).await?;
            idle::run(&mut stage, options, &mut report).await?;
            recovery::run(&mut stage, options, &mut report).await?;
        }
        if wanted(What::Retained) {
            retained::run(&mut stage, options, &mut report).await?;
        }
        if wanted(What::Write) {
            write::run(&mut stage, options, &mut report).await?;
        }
        if wanted(What::Consumer) {
            consumer::run(&mut stage, options, &mut report).await?;
        }
        if wanted(What::Saga) {
            saga::run(&mut stage, options, &mut report).await?;
        }
        if wanted(What::Http) {
            http::run(&mut stage, options, &mut report).await?;
        }
        if options.what == What::Curves {
            curves::run(&mut stage, options, &mut report).await?;
        }
    }
    drop(stage);
    let baseline = Report::read(&options.baseline)?;
    report.print(baseline.as_ref());
    let file = report.file(&options.out);
    report.save(&file)?;
    println!("written: {}", file.display());
    if options.save_baseline {
        if let Some(older) = baseline {
            report.keep(older);
        }
        report.save(&options.baseline)?;
        println!("baseline: {}", options.baseline.display());
    }
    Ok(())
}
