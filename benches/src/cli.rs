//! The command line, and the order of the cases.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};

use crate::relay::Whose;
use crate::report::Report;
use crate::source::Kind;
use crate::stage::Stage;
use crate::{arriving, consumer, curves, drain, http, idle, live, recovery, retained, saga, write};

/// Measures the relay and the services on a Kafka and a Postgres of its own.
#[derive(Debug, Parser)]
#[command(
    name = "./dev bench",
    max_term_width = 100,
    after_help = "Results are written as JSON, latencies, backlogs and kills as SVG pictures beside it.\n\
        --against debezium fetches Debezium and Kafka Connect from Maven Central once, runs both relays'\n\
        cases one after the other and prints the ratios. Debezium has no SQLite: ratios are those on Postgres."
)]
pub(crate) struct Options {
    /// What to measure
    #[arg(value_enum, default_value = "all")]
    pub(crate) what: What,
    /// Put the relay's cases beside this one, in the same run on the same broker and databases; ours by both
    /// publishers, and on SQLite too
    #[arg(long, value_enum)]
    pub(crate) against: Option<Whose>,
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
    /// Compare with this file [default: benches/results/baseline.json, with --against debezium
    /// debezium.json beside it]
    #[arg(long, value_name = "FILE", hide_default_value = true)]
    baseline: Option<PathBuf>,
    /// Make this run's results and pictures the baseline; cases that did not run keep theirs
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
    /// What the relay's cases run on, and whose relays are measured there.
    pub(crate) fn contenders(&self) -> Vec<(Kind, Whose)> {
        match self.against {
            None => Kind::ALL.map(|kind| (kind, Whose::Ours)).into(),
            Some(other) => {
                let both = [Whose::Ours, Whose::OursByRdkafka];
                let on_postgres = both.into_iter().chain([other]);
                let on_postgres = on_postgres.map(|whose| (Kind::Postgres, whose));
                let on_sqlite = both.map(|whose| (Kind::Sqlite, whose));
                on_postgres.chain(on_sqlite).collect()
            }
        }
    }
    /// Fails where nothing could be compared.
    fn check(&self) -> Result<()> {
        ensure!(
            self.against.is_none() || matches!(self.what, What::All | What::Relay),
            "--against puts relays beside each other: ./dev bench relay --against debezium"
        );
        Ok(())
    }
    fn wants_kind(&self, what: What) -> bool {
        match self.what {
            What::All => what == What::Relay || self.against.is_none(),
            one => one == what,
        }
    }
    fn baseline(&self) -> PathBuf {
        let name = match self.against {
            Some(Whose::Debezium) => "debezium.json",
            _ => "baseline.json",
        };
        let default = || Path::new("benches/results").join(name);
        self.baseline.clone().unwrap_or_else(default)
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
    options.check()?;
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
        if options.wants_kind(What::Relay) {
            drain::run(&mut stage, options, &mut report).await?;
            arriving::run(&mut stage, options, &mut report).await?;
            live::run(&mut stage, options, &mut report).await?;
            idle::run(&mut stage, options, &mut report).await?;
            recovery::run(&mut stage, options, &mut report).await?;
        }
        if options.wants_kind(What::Retained) {
            retained::run(&mut stage, options, &mut report).await?;
        }
        if options.wants_kind(What::Write) {
            write::run(&mut stage, options, &mut report).await?;
        }
        if options.wants_kind(What::Consumer) {
            consumer::run(&mut stage, options, &mut report).await?;
        }
        if options.wants_kind(What::Saga) {
            saga::run(&mut stage, options, &mut report).await?;
        }
        if options.wants_kind(What::Http) {
            http::run(&mut stage, options, &mut report).await?;
        }
        if options.what == What::Curves {
            curves::run(&mut stage, options, &mut report).await?;
        }
    }
    drop(stage);
    let file = options.baseline();
    let baseline = Report::read(&file)?;
    report.print(baseline.as_ref(), options.against);
    report.write(&report.file(&options.out))?;
    if options.save_baseline {
        if let Some(older) = baseline {
            report.keep(older);
        }
        report.write(&file)?;
    }
    Ok(())
}
