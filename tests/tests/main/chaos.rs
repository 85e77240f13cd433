//! Orders keep coming while everything is killed, one after the other.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use auditor::shop::Books;
use integration_tests::{Client, Database, Order, PATIENCE, Result, Settings, World};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const PER_SECOND: u64 = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_anything_loses_and_doubles_nothing_on_sqlite() -> Result<()> {
    kill_9_of_anything_loses_and_doubles_nothing(Database::Sqlite).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_anything_loses_and_doubles_nothing_on_postgres() -> Result<()> {
    kill_9_of_anything_loses_and_doubles_nothing(Database::Postgres).await
}

async fn kill_9_of_anything_loses_and_doubles_nothing(database: Database) -> Result<()> {
    let settings = Settings {
        payment_fail_percent: 20,
        delivery_fail_percent: 5,
        ..Settings::default()
    };
    let mut world = World::start(database, settings).await?;
    let client = world.client();

    // Whatever is killed beside the order service, every POST is answered at once.
    let posting = tokio::spawn(post_orders(client.clone(), 120, Retry::Never));
    for name in [
        "kafka",
        "relay",
        "customer",
        "inventory",
        "payment",
        "delivery",
        "shipping",
        "notification",
        "analytics",
        "saga-orchestrator",
    ] {
        tokio::time::sleep(Duration::from_millis(500)).await;
        world.kill9_and_restart(name)?;
    }
    let mut posted = posting.await??;

    // The order service itself: the client tries again with its Idempotency-Key.
    let posting = tokio::spawn(post_orders(client.clone(), 60, Retry::WithKey));
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        world.kill9_and_restart("order")?;
    }
    posted.extend(posting.await??);

    all_is_right(&world, &client, &posted).await
}

/// Everything that can be killed, the order service too.
const ALL: [&str; 11] = [
    "kafka",
    "relay",
    "order",
    "customer",
    "inventory",
    "payment",
    "delivery",
    "shipping",
    "notification",
    "analytics",
    "saga-orchestrator",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: ./dev check storm"]
async fn a_storm_of_kills_loses_and_doubles_nothing_on_sqlite() -> Result<()> {
    a_storm_of_kills_loses_and_doubles_nothing(Database::Sqlite).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: ./dev check storm"]
async fn a_storm_of_kills_loses_and_doubles_nothing_on_postgres() -> Result<()> {
    a_storm_of_kills_loses_and_doubles_nothing(Database::Postgres).await
}

/// `ONCEWARD_STORM_ORDERS` orders of all ways, while whatever `ONCEWARD_STORM_SEED` says is killed.
async fn a_storm_of_kills_loses_and_doubles_nothing(database: Database) -> Result<()> {
    let told = |name: &str| Ok::<u64, anyhow::Error>(std::env::var(name)?.parse()?);
    let (orders, seed) = (told("ONCEWARD_STORM_ORDERS")?, told("ONCEWARD_STORM_SEED")?);
    let settings = Settings {
        payment_fail_percent: 20,
        delivery_fail_percent: 5,
        ..Settings::default()
    };
    let mut world = World::start(database, settings).await?;
    let client = world.client();
    let mut rng = StdRng::seed_from_u64(seed);
    let posting = tokio::spawn(post_orders(client.clone(), orders, Retry::WithKey));
    let mut killed: BTreeMap<&str, u32> = BTreeMap::new();
    while !posting.is_finished() {
        let pause = Duration::from_millis(rng.random_range(100..1_500));
        tokio::time::sleep(pause).await;
        let name = ALL[rng.random_range(0..ALL.len())];
        world.kill9_and_restart(name)?;
        *killed.entry(name).or_default() += 1;
    }
    println!("killed: {killed:?}");
    all_is_right(&world, &client, &posting.await??).await
}

/// Every order has its end, once; stock, credit, money, counters and mails add up; nothing was lost or doubled.
async fn all_is_right(world: &World, client: &Client, posted: &[String]) -> Result<()> {
    for id in posted {
        client.wait_for_end(id, PATIENCE).await?;
    }
    let books = world.closed_books().await?;
    assert_eq!(
        books.orders,
        u64::try_from(posted.len())?,
        "an order was doubled or lost"
    );
    assert!(books.completed > 0 && books.failed > 0, "{books:?}");
    println!("{} completed, {} failed", books.completed, books.failed);
    analytics_agree(client, &books).await?;
    each_mail_came(client, &books).await?;
    world.verify()
}

/// The counters add up to the order service's own totals, however often their service was killed.
async fn analytics_agree(client: &Client, books: &Books) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // It may be behind, never ahead.
        let found = client.get("analytics", "/analytics?window=all").await?;
        let count = |name: &str| found[name].as_u64().unwrap_or_default();
        let counted = (count("placed"), count("completed"), count("cancelled"));
        let wanted = (books.orders, books.completed, books.failed);
        let said = |topic: &str| found["messages"][topic].as_u64().unwrap_or_default();
        let created =
            said("order.created") + said("order-created") + said("pipeline.order_created");
        let messages = [created, said("order.completed"), said("order.cancelled")];
        let revenue = found["revenue_minor"].as_i64().unwrap_or_default();
        if counted == wanted && messages == [wanted.0, wanted.1, wanted.2] {
            assert_eq!(revenue, books.taken_minor, "{found:#}");
            return Ok(());
        }
        let ahead = counted.0 > wanted.0 || counted.1 > wanted.1 || counted.2 > wanted.2;
        anyhow::ensure!(
            !ahead && Instant::now() < deadline,
            "analytics counts {counted:?}, messages {messages:?}; the books say {wanted:?}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Every mail that was written came into the mail server, and says the same if it came twice.
async fn each_mail_came(client: &Client, books: &Books) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut wanted = BTreeMap::new();
        let (mut waiting, mut completed, mut cancelled) = (0, 0, 0);
        let mut before = String::new();
        loop {
            let page = client
                .get("notification", &format!("/notifications?limit=500{before}"))
                .await?;
            for mail in page["items"].as_array().into_iter().flatten() {
                waiting += usize::from(mail["state"] != "sent");
                completed += u64::from(mail["template"] == "order_completed");
                cancelled += u64::from(mail["template"] == "order_cancelled");
                let id = mail["mail_id"].as_str().unwrap_or_default();
                let order = mail["order_id"].as_str().unwrap_or_default();
                wanted.insert(format!("{id}@onceward.example"), order.to_owned());
            }
            let Some(next) = page["next"].as_str() else {
                break;
            };
            before = format!("&before={next}");
        }
        let all_written = (completed, cancelled) == (books.completed, books.failed);
        if waiting == 0 && all_written {
            let came = client.get("mail-sink", "/messages").await?;
            let mut found: BTreeMap<String, &serde_json::Value> = BTreeMap::new();
            for mail in came.as_array().into_iter().flatten() {
                let id = mail["message_id"].as_str().unwrap_or_default();
                let text = &mail["text"];
                assert_eq!(found.insert(id.to_owned(), text).unwrap_or(text), text);
                let order = wanted.get(id).map(String::as_str).unwrap_or("(none)");
                let said = text.as_str().unwrap_or_default();
                assert!(said.contains(order), "{id} is about {order}: {said}");
            }
            assert!(found.keys().eq(wanted.keys()), "a mail is missing");
            return Ok(());
        }
        anyhow::ensure!(
            Instant::now() < deadline,
            "{waiting} mails still wait; {completed} completed, {cancelled} cancelled, of {books:?}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Retry {
    Never,
    WithKey,
}

/// Posts at a fixed rate, not waiting for answers, and gives the ids of the orders.
pub(crate) async fn post_orders(client: Client, count: u64, retry: Retry) -> Result<Vec<String>> {
    let start = Instant::now();
    let mut posts = tokio::task::JoinSet::new();
    for n in 0..count {
        let due = start + Duration::from_millis(1000 * n / PER_SECOND);
        tokio::time::sleep_until(due.into()).await;
        posts.spawn(post_one(client.clone(), n, retry));
    }
    let mut ids = Vec::new();
    let mut slowest = Duration::ZERO;
    while let Some(post) = posts.join_next().await {
        let (id, took) = post??;
        slowest = slowest.max(took);
        ids.push(id);
    }
    println!("{count} orders posted, the slowest POST took {slowest:?}");
    Ok(ids)
}

async fn post_one(client: Client, n: u64, retry: Retry) -> Result<(String, Duration)> {
    let mut order = Order {
        user_id: format!("user_{n}"),
        quantity: 1,
        saga: (n % 3 == 1).then_some("choreography"),
        choreography: (n % 3 == 2).then_some("pipeline"),
        ..Order::default()
    };
    match n % 20 {
        6 => order.user_id = "user_without_credit".into(),
        12 | 17 => (order.product_id, order.quantity) = ("product_3".into(), 100),
        _ => {}
    }
    let key = format!("chaos-{n}");
    let start = Instant::now();
    loop {
        let key = (retry == Retry::WithKey).then_some(key.as_str());
        match client.post_order(&order, key).await {
            Ok((201, body)) => {
                let id = body["order_id"].as_str().unwrap_or_default().to_owned();
                return Ok((id, start.elapsed()));
            }
            answer if retry == Retry::Never => anyhow::bail!("POST /orders: {answer:?}"),
            _ if start.elapsed() > PATIENCE => {
                anyhow::bail!("order {n} was not accepted within {PATIENCE:?}")
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
