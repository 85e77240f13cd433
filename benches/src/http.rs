//! `POST /orders` at the order service.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use hyper::Method;
use onceward_testkit::machine;
use onceward_testkit::postgres::create_database;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cli::Options;
use crate::client::Client;
use crate::programs::{self, Served, program};
use crate::report::{Better, Report};
use crate::source::Kind;
use crate::stage::Stage;

const CLIENTS: usize = 16;
const STEADY_RATE: u32 = 500;
pub(crate) const ORDER: &[u8] =
    br#"{"user_id":"user_123","product_id":"product_1","quantity":2,"amount":199.99}"#;

pub(crate) async fn run(stage: &mut Stage, options: &Options, report: &mut Report) -> Result<()> {
    let time = Duration::from_secs(if options.quick { 6 } else { 20 });
    for kind in Kind::ALL {
        let most = format!("POST /orders, {CLIENTS} clients, {}", kind.label());
        let steady = format!("POST /orders, {STEADY_RATE}/s, {}", kind.label());
        if !options.wants(&most) && !options.wants(&steady) {
            continue;
        }
        let service = start(stage, kind).await?;
        // Caches, connections, the branch predictor.
        closed_loop(&service, Duration::from_secs(2)).await?;
        if options.wants(&most) {
            report.begin_case(&most);
            measure(stage, report, &service, &most, closed_loop(&service, time)).await?;
        }
        if options.wants(&steady) {
            report.begin_case(&steady);
            measure(stage, report, &service, &steady, open_loop(&service, time)).await?;
        }
    }
    Ok(())
}

async fn start(stage: &mut Stage, kind: Kind) -> Result<Served> {
    let name = stage.name("order");
    let url = match kind {
        Kind::Postgres => {
            create_database(&stage.postgres.url("postgres"), &name)?;
            stage.postgres.url(&name)
        }
        Kind::Sqlite => {
            let file = stage.folder.path().join(&name).with_extension("db");
            format!("sqlite://{}", file.display())
        }
    };
    let kafka = stage.kafka.bootstrap();
    programs::run(program("shop")?.args(["topics", "--kafka", &kafka]))?;
    programs::run(program("shop")?.args(["migrate", "order", "--database", &url]))?;
    let mut command = program("shop")?;
    command.args(["order", "--database", &url, "--kafka", &kafka]);
    let mut service = Served::start("shop", command, "--listen", stage.folder.path())?;
    service.wait_ready().await?;
    Ok(service)
}

async fn measure(
    stage: &Stage,
    report: &mut Report,
    service: &Served,
    case: &str,
    load: impl Future<Output = Result<Histogram<u64>>>,
) -> Result<()> {
    let (before, begun) = (stage.cpu(service.pid())?, Instant::now());
    let histogram = load.await?;
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = stage.cpu(service.pid())?.since(before);
    let (resident, _) = machine::memory_mib(service.pid())?;
    let rate = histogram.len() as f64 / seconds;
    report.add(case, "requests/s", Better::Higher, rate);
    let mut add = |metric, quantile| {
        let value = histogram.value_at_quantile(quantile);
        report.add(case, metric, Better::Lower, value as f64 / 1e6);
    };
    add("p50, ms", 0.5);
    add("p99, ms", 0.99);
    add("max, ms", 1.0);
    let percent = |cpu: f64| 100.0 * cpu / seconds;
    report.add(
        case,
        "service CPU, % of a core",
        Better::None,
        percent(cpu.relay),
    );
    report.add(
        case,
        "database CPU, % of a core",
        Better::None,
        percent(cpu.database),
    );
    report.add(case, "service RSS, MiB", Better::Lower, resident);
    report.histogram(case, &histogram);
    Ok(())
}

/// Each client sends its next order when the last was answered.
async fn closed_loop(service: &Served, time: Duration) -> Result<Histogram<u64>> {
    let until = Instant::now() + time;
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let address = service.address();
        clients.spawn(async move {
            let mut client = Client::connect(&address).await?;
            let mut histogram = Histogram::<u64>::new(3)?;
            while Instant::now() < until {
                let begun = Instant::now();
                post(&mut client).await?;
                histogram.record(u64::try_from(begun.elapsed().as_nanos())?)?;
            }
            Ok(histogram)
        });
    }
    together(clients).await
}

/// Each order has its time; what waits for a free client is charged for the wait.
async fn open_loop(service: &Served, time: Duration) -> Result<Histogram<u64>> {
    let (sender, due) = mpsc::unbounded_channel::<Instant>();
    let due = Arc::new(tokio::sync::Mutex::new(due));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (address, due) = (service.address(), Arc::clone(&due));
        clients.spawn(async move {
            let mut client = Client::connect(&address).await?;
            let mut histogram = Histogram::<u64>::new(3)?;
            loop {
                let next = due.lock().await.recv().await;
                let Some(due) = next else {
                    return Ok(histogram);
                };
                post(&mut client).await?;
                histogram.record(u64::try_from(due.elapsed().as_nanos())?)?;
            }
        });
    }
    let begun = Instant::now();
    let (count, every) = (
        STEADY_RATE * u32::try_from(time.as_secs())?,
        Duration::from_secs(1) / STEADY_RATE,
    );
    for number in 0..count {
        let at = begun + every * number;
        tokio::time::sleep_until(at).await;
        sender.send(at).context("all clients have ended")?;
    }
    drop(sender);
    together(clients).await
}

async fn post(client: &mut Client) -> Result<()> {
    let status = client
        .send(Method::POST, "/orders", Bytes::from_static(ORDER))
        .await?;
    ensure!((200..300).contains(&status), "POST /orders: {status}");
    Ok(())
}

async fn together(mut clients: JoinSet<Result<Histogram<u64>>>) -> Result<Histogram<u64>> {
    let mut all = Histogram::<u64>::new(3)?;
    while let Some(ended) = clients.join_next().await {
        all.add(ended??)?;
    }
    Ok(all)
}
