//! `./dev load`: mixed orders at a fixed rate against a shop that runs, and whether all of them
//! come to an end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Client, Url};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::layout::{Data, Ports, SERVICES};
use crate::manifest::Manifest;
use crate::{Result, control};

mod ends;
mod mix;
mod progress;
mod report;
mod send;

use ends::List;
use progress::Progress;
use report::Report;
use send::{Plan, Tally, lock};

/// The progress is shown anew so often.
const SHOW_EVERY: Duration = Duration::from_millis(200);

/// What to send.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Orders a second, sent when they are due, whatever the answers do
    #[arg(long, value_name = "N", default_value_t = 20.0, value_parser = positive)]
    rate: f64,
    /// For so long
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0, value_parser = positive)]
    seconds: f64,
    /// Most requests under way at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=2000))]
    clients: u32,
    /// Order service to send to, instead of the shop that runs here: http://HOST:PORT
    #[arg(long, value_name = "URL", value_parser = service)]
    url: Option<String>,
    /// Another seed sends other orders in the same mix
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Don't wait until all orders have ended
    #[arg(long)]
    no_wait: bool,
    /// Wait at most so long for the orders to end
    #[arg(long, value_name = "SECONDS", default_value_t = 180.0, value_parser = positive)]
    wait: f64,
    /// The result as JSON
    #[arg(long)]
    json: bool,
}

fn positive(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number <= 1e6 => Ok(number),
        _ => Err("write a number above 0, up to 1000000".to_owned()),
    }
}

/// Without the path, which some paste along.
fn service(text: &str) -> std::result::Result<String, String> {
    match text.parse::<Url>() {
        Ok(url) if url.scheme() == "http" && url.has_host() => {
            let base = text.trim_end_matches('/').trim_end_matches("/orders");
            Ok(base.to_owned())
        }
        _ => Err("write http://HOST:PORT of an order service".to_owned()),
    }
}

/// Sends the orders, waits for their ends and prints what became of them; fails if one was lost.
pub fn run(options: &Options, data: &Data) -> Result<()> {
    let orders = orders(options, data)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let report = runtime.block_on(load(options, orders))?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.text());
    }
    let faults = report.faults();
    if !faults.is_empty() {
        bail!("of {} orders: {}", report.sent, faults.join(", "));
    }
    Ok(())
}

/// Where orders are placed: as told, else where the shop's manifest says, else in the usual place.
fn orders(options: &Options, data: &Data) -> Result<String> {
    if let Some(url) = &options.url {
        return Ok(format!("{url}/orders"));
    }
    if control::running(data)?.is_none() {
        bail!("nothing runs here: start it with ./dev up, or name an order service with --url");
    }
    let manifest = Manifest::read(&data.manifest())?;
    let processes = manifest.map(|manifest| manifest.processes);
    let order = processes
        .into_iter()
        .flatten()
        .find(|process| process.name == SERVICES[0].name);
    let base = order.and_then(|process| process.url).unwrap_or_else(|| {
        let port = Ports::new(0).service(SERVICES[0]);
        format!("http://127.0.0.1:{port}")
    });
    Ok(format!("{base}/orders"))
}

async fn load(options: &Options, orders: String) -> Result<Report> {
    // A proxy would be measured along.
    let client = Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(usize::try_from(options.clients)?)
        .build()?;
    let list = List {
        client: &client,
        orders: &orders,
    };
    let before = list.newest().await?;
    let stop = stop_on_ctrl_c();
    let plan = Plan {
        orders: orders.clone(),
        rate: options.rate,
        count: count(options)?,
        clients: options.clients,
        seed: options.seed,
        run: uuid::Builder::from_random_bytes(rand::random()).into_uuid(),
    };
    let tally = Arc::new(Mutex::new(Tally::new()?));
    let mut progress = Progress::new();
    let took = {
        let mut sending = std::pin::pin!(send::all(&client, &plan, &tally, &stop));
        let mut ticks = tokio::time::interval(SHOW_EVERY);
        loop {
            tokio::select! {
                took = &mut sending => break took?,
                _ = ticks.tick() => progress.sent(&tally, plan.count),
            }
        }
    };
    let wait = match options.no_wait {
        true => Duration::ZERO,
        false => Duration::from_secs_f64(options.wait),
    };
    let keys: Vec<Uuid> = lock(&tally).sent.iter().map(|sent| sent.key).collect();
    let found = list
        .follow(keys.into_iter(), before, wait, &stop, &mut progress)
        .await;
    progress.end();
    let mut report = Report {
        format: 1,
        orders: orders.clone(),
        rate: plan.rate,
        clients: plan.clients,
        seed: plan.seed,
        seconds: took.as_secs_f64(),
        interrupted: stop.is_cancelled(),
        waited: !options.no_wait,
        ..Report::default()
    };
    let tally = lock(&tally);
    report.add_sent(&tally);
    match found {
        Ok(found) => report.add_found(&tally, &found)?,
        Err(error) => {
            // What was measured is not thrown away.
            eprint!("{}", report.text());
            return Err(error.context("whether all orders ended is not known"));
        }
    }
    Ok(report)
}

fn count(options: &Options) -> Result<u64> {
    let count = (options.rate * options.seconds).round().max(1.0);
    if count > 10_000_000.0 {
        bail!("{count} orders are too many to keep track of: lower --rate or --seconds");
    }
    Ok(count as u64)
}

/// The first Ctrl-C ends the load early, a second one ends us.
fn stop_on_ctrl_c() -> CancellationToken {
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.context("Ctrl-C").is_ok() {
            if told.is_cancelled() {
                std::process::exit(130);
            }
            told.cancel();
        }
    });
    stop
}
