//! The whole shop: an order through inventory, payment and delivery and back, eight hops, each through an
//! outbox, Kafka and an inbox.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use hyper::Method;
use onceward::{Clock, SystemClock};
use onceward_testkit::kafka::Kafka;
use onceward_testkit::machine;
use sqlx::{PgPool, Postgres, Row, Sqlite, SqlitePool};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cli::Options;
use crate::client::Client;
use crate::hops::{self, nanoseconds};
use crate::http::ORDER;
use crate::programs::{self, Served, program};
use crate::report::{Better, Report};
use crate::source::{Kind, database};
use crate::stage::{Stage, pid_of, start_kafka};
use crate::warm;

/// The customer service takes part where orders are validated first.
const SERVICES: [&str; 6] = [
    "order",
    "customer",
    "inventory",
    "payment",
    "delivery",
    "saga-orchestrator",
];
const CLIENTS: usize = 16;
/// Orders a second.
const RATES: [u32; 2] = [20, 100];
const WARM_UP_RATE: u32 = 50;
/// At a time.
const WARM_UP_SECONDS: u32 = 10;
const AT_MOST: Duration = Duration::from_secs(120);

pub(crate) async fn run(stage: &mut Stage, options: &Options, report: &mut Report) -> Result<()> {
    for kind in Kind::ALL {
        // Orders that are validated first have two hops more, side by side.
        let validated = format!(
            "saga, validated first, one order at a time, {}",
            kind.label()
        );
        if options.wants(&validated) {
            let shop = Shop::start(stage, kind, true).await?;
            shop.one_at_a_time(report, &validated, options).await?;
        }
        let idle = format!("saga, one order at a time, {}", kind.label());
        let steady = RATES.map(|rate| (format!("saga, {rate} orders/s, {}", kind.label()), rate));
        let burst = format!("saga, as many as it can, {}", kind.label());
        let mut cases = steady.iter().map(|(case, _)| case).chain([&idle, &burst]);
        if !cases.any(|case| options.wants(case)) {
            continue;
        }
        let shop = Shop::start(stage, kind, false).await?;
        if options.wants(&idle) {
            shop.one_at_a_time(report, &idle, options).await?;
        }
        for (case, rate) in steady.iter().filter(|(case, _)| options.wants(case)) {
            report.begin_case(case);
            let since = shop.placed().await?;
            let before = shop.cpu(stage)?;
            let begun = Instant::now();
            let seconds = if options.quick { 5 } else { 20 };
            shop.steadily(*rate, seconds).await?;
            shop.tell_cpu(report, case, &before, &shop.cpu(stage)?, begun);
            shop.tell_latency(report, case, since).await?;
        }
        if options.wants(&burst) {
            report.begin_case(&burst);
            let since = shop.placed().await?;
            let before = shop.cpu(stage)?;
            let begun = Instant::now();
            shop.at_once(if options.quick { 1_000 } else { 6_000 })
                .await?;
            shop.tell_cpu(report, &burst, &before, &shop.cpu(stage)?, begun);
            let ended = shop.ended(since).await?;
            let first = ended.iter().map(|(created, _)| *created).min().unwrap_or(0);
            let last = ended.iter().map(|(_, updated)| *updated).max().unwrap_or(0);
            let rate = ended.len() as f64 * 1e6 / (last - first).max(1) as f64;
            report.add(&burst, "orders/s, end to end", Better::Higher, rate);
        }
    }
    Ok(())
}

/// Relay and services on databases of their own.
struct Shop {
    /// Of the services' databases.
    urls: Vec<String>,
    orders: Orders,
    relay: Served,
    services: Vec<Served>,
    // Dropped last, so that nobody complains of its end.
    broker: Kafka,
}

/// The order service's database, to look at.
enum Orders {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

/// CPU seconds so far.
struct Spent {
    relay: f64,
    services: f64,
    database: f64,
    broker: f64,
}

impl Shop {
    /// Started and warmed up.
    async fn start(stage: &mut Stage, kind: Kind, validated: bool) -> Result<Self> {
        // Its own, because the services' sources have the same names in every shop.
        let broker = tokio::task::block_in_place(start_kafka)?;
        let kafka = broker.bootstrap();
        programs::run(program("shop")?.args(["topics", "--kafka", &kafka]))?;
        let mut urls = Vec::new();
        for service in SERVICES {
            if service == "customer" && !validated {
                continue;
            }
            let name = stage.name(service);
            let url = database(stage, kind, &name).await?;
            programs::run(program("shop")?.args(["migrate", service, "--database", &url]))?;
            urls.push((service, name, url));
        }
        let sources: Vec<String> = urls
            .iter()
            .map(|(service, _, url)| format!("{service}={url}"))
            .collect();
        let relay = stage.relay_at(&broker, &sources)?;
        let mut services = Vec::new();
        for (service, name, url) in &urls {
            let mut command = program("shop")?;
            command.args([service, "--database", url, "--kafka", &kafka]);
            match *service {
                // So that every order goes all the way.
                "payment" | "delivery" => command.args(["--fail-percent", "0"]),
                "saga-orchestrator" => command.args(["--validate", &validated.to_string()]),
                _ => &mut command,
            };
            let folder = stage.folder.path();
            services.push(Served::start(name, command, "--listen", folder)?);
        }
        let urls: Vec<String> = urls.into_iter().map(|(_, _, url)| url).collect();
        let url = urls.first().map_or("", String::as_str);
        let mut shop = Self {
            orders: match kind {
                Kind::Postgres => Orders::Postgres(PgPool::connect(url).await?),
                Kind::Sqlite => Orders::Sqlite(SqlitePool::connect(url).await?),
            },
            urls,
            broker,
            relay,
            services,
        };
        shop.relay.wait_ready().await?;
        for service in &mut shop.services {
            service.wait_ready().await?;
        }
        // Connections, assignments, caches; and its broker is new.
        let broker = pid_of(&shop.broker)?;
        warm::until_compiled(broker, async || {
            shop.steadily(WARM_UP_RATE, WARM_UP_SECONDS).await
        })
        .await?;
        Ok(shop)
    }

    async fn one_at_a_time(
        &self,
        report: &mut Report,
        case: &str,
        options: &Options,
    ) -> Result<()> {
        report.begin_case(case);
        let (since, begun) = (self.placed().await?, SystemClock.now());
        self.one_by_one(if options.quick { 30 } else { 100 })
            .await?;
        self.tell_latency(report, case, since).await?;
        let hops = match self.orders {
            Orders::Postgres(_) => hops::measure::<Postgres>(&self.urls, begun).await?,
            Orders::Sqlite(_) => hops::measure::<Sqlite>(&self.urls, begun).await?,
        };
        for (metric, histogram) in [
            ("a hop: append to receipt, p50, ms", hops.on_the_way),
            ("a hop: receipt to append, p50, ms", hops.handled),
        ] {
            let median = histogram.value_at_quantile(0.5) as f64 / 1e6;
            report.add(case, metric, Better::Lower, median);
        }
        Ok(())
    }

    async fn client(&self) -> Result<Client> {
        let order = self.services.first().map(Served::address);
        Client::connect(&order.unwrap_or_default()).await
    }

    /// Each order is placed when the one before has ended.
    async fn one_by_one(&self, count: usize) -> Result<()> {
        let mut client = self.client().await?;
        for _ in 0..count {
            let expected = self.placed().await? + 1;
            place(&mut client).await?;
            self.all_ended(expected).await?;
        }
        Ok(())
    }

    /// At a fixed rate, until all have ended.
    async fn steadily(&self, rate: u32, seconds: u32) -> Result<()> {
        let expected = self.placed().await? + i64::from(seconds * rate);
        let begun = Instant::now();
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let (mut connection, first) = (self.client().await?, u32::try_from(client)?);
            clients.spawn(async move {
                for number in (first..seconds * rate).step_by(CLIENTS) {
                    let due = begun + Duration::from_secs(1) * number / rate;
                    tokio::time::sleep_until(due).await;
                    place(&mut connection).await?;
                }
                Ok(())
            });
        }
        all(clients).await?;
        self.all_ended(expected).await
    }

    /// As fast as they are taken, until all have ended.
    async fn at_once(&self, count: usize) -> Result<()> {
        let expected = self.placed().await? + i64::try_from(count)?;
        let mut clients = JoinSet::new();
        for first in 0..CLIENTS {
            let mut connection = self.client().await?;
            clients.spawn(async move {
                for _ in (first..count).step_by(CLIENTS) {
                    place(&mut connection).await?;
                }
                Ok(())
            });
        }
        all(clients).await?;
        self.all_ended(expected).await
    }

    async fn all_ended(&self, expected: i64) -> Result<()> {
        let deadline = Instant::now() + AT_MOST;
        let ended = "select count(*) from orders where status in ('completed', 'failed')";
        while self.number(ended).await? < expected {
            ensure!(
                Instant::now() < deadline,
                "orders did not end within {AT_MOST:?}; the relay says:\n{}",
                self.relay.process.log_tail(20)
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// How many orders there are.
    async fn placed(&self) -> Result<i64> {
        self.number("select count(*) from orders").await
    }

    async fn number(&self, statement: &'static str) -> Result<i64> {
        Ok(match &self.orders {
            Orders::Postgres(pool) => sqlx::query_scalar(statement).fetch_one(pool).await?,
            Orders::Sqlite(pool) => sqlx::query_scalar(statement).fetch_one(pool).await?,
        })
    }

    /// When orders were made and when they ended, microseconds, without the first `since`.
    async fn ended(&self, since: i64) -> Result<Vec<(i64, i64)>> {
        const ORDERS: &str = "select created_at, updated_at, status from orders order by order_id";
        let mut all = Vec::new();
        let mut failed = 0;
        let mut take = |created: i64, updated: i64, status: String| {
            failed += u32::from(status != "completed");
            all.push((created, updated));
        };
        match &self.orders {
            Orders::Postgres(pool) => {
                for row in sqlx::query(ORDERS).fetch_all(pool).await? {
                    take(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                }
            }
            Orders::Sqlite(pool) => {
                for row in sqlx::query(ORDERS).fetch_all(pool).await? {
                    take(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                }
            }
        }
        ensure!(failed == 0, "{failed} orders did not complete");
        Ok(all.split_off(usize::try_from(since)?.min(all.len())))
    }

    async fn tell_latency(&self, report: &mut Report, case: &str, since: i64) -> Result<()> {
        let mut histogram = Histogram::<u64>::new(3)?;
        for (created, updated) in self.ended(since).await? {
            histogram.record(nanoseconds(updated - created))?;
        }
        for (metric, quantile) in [("p50, ms", 0.5), ("p99, ms", 0.99), ("max, ms", 1.0)] {
            let value = histogram.value_at_quantile(quantile) as f64 / 1e6;
            report.add(case, metric, Better::Lower, value);
        }
        report.histogram(case, &histogram);
        Ok(())
    }

    fn cpu(&self, stage: &Stage) -> Result<Spent> {
        let mut services = 0.0;
        for service in &self.services {
            services += machine::cpu_seconds(service.pid())?;
        }
        let broker = pid_of(&self.broker)?;
        Ok(Spent {
            relay: machine::cpu_seconds(self.relay.pid())?,
            services,
            database: stage.cpu(self.relay.pid())?.database,
            broker: machine::cpu_seconds(broker)?,
        })
    }

    fn tell_cpu(
        &self,
        report: &mut Report,
        case: &str,
        before: &Spent,
        after: &Spent,
        begun: Instant,
    ) {
        let seconds = begun.elapsed().as_secs_f64();
        let mut add = |metric, spent: f64| {
            report.add(case, metric, Better::None, 100.0 * spent / seconds);
        };
        add("relay CPU, % of a core", after.relay - before.relay);
        add(
            "services CPU, % of a core",
            after.services - before.services,
        );
        add(
            "database CPU, % of a core",
            after.database - before.database,
        );
        add("broker CPU, % of a core", after.broker - before.broker);
    }
}

async fn place(client: &mut Client) -> Result<()> {
    let status = client
        .send(Method::POST, "/orders", Bytes::from_static(ORDER))
        .await?;
    ensure!(status == 201, "POST /orders: {status}");
    Ok(())
}

async fn all(mut clients: JoinSet<Result<()>>) -> Result<()> {
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(())
}
