//! Three brokers: one is lost for good under load, then all are restarted one by one, then all are
//! killed at once.

use std::time::Duration;

use integration_tests::{Client, Database, PATIENCE, Result, Settings, World};

use crate::chaos::{Retry, post_orders};

const BROKERS: [&str; 3] = ["kafka-1", "kafka-2", "kafka-3"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_brokers_lose_one_for_good_and_all_at_once_and_no_order() -> Result<()> {
    let settings = Settings {
        payment_fail_percent: 20,
        delivery_fail_percent: 5,
        brokers: 3,
        ..Settings::default()
    };
    let mut world = World::start(Database::Sqlite, settings).await?;
    every_topic_has_three_copies_of_which_two_acknowledge(&mut world)?;
    let client = world.client();
    let mut orders = 0;

    // The first of the addresses that the clients know, and a third of all leaders: gone for good.
    let posting = tokio::spawn(post_orders(client.clone(), 120, Retry::Never));
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.kill9("kafka-1")?;
    orders += all_end(&client, posting.await??).await?;
    books_are_closed(&world, orders).await?;

    // A rolling restart, as an operator does it: the next one only when all copies are in sync.
    world.cluster()?.start_again()?;
    let posting = tokio::spawn(post_orders(client.clone(), 120, Retry::Never));
    for name in BROKERS {
        world.cluster()?.wait_in_sync(PATIENCE)?;
        world.restart_broker(name)?;
    }
    orders += all_end(&client, posting.await??).await?;
    books_are_closed(&world, orders).await?;

    // No controller survives that could fence the dead ones.
    world.cluster()?.wait_in_sync(PATIENCE)?;
    let posting = tokio::spawn(post_orders(client.clone(), 60, Retry::Never));
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.cluster()?.kill9()?;
    world.cluster()?.start_again()?;
    orders += all_end(&client, posting.await??).await?;
    books_are_closed(&world, orders).await
}

/// Waits for the end of each, and counts them.
async fn all_end(client: &Client, posted: Vec<String>) -> Result<u64> {
    for id in &posted {
        client.wait_for_end(id, PATIENCE).await?;
    }
    Ok(u64::try_from(posted.len())?)
}

async fn books_are_closed(world: &World, orders: u64) -> Result<()> {
    let books = world.closed_books().await?;
    assert_eq!(books.orders, orders, "an order was doubled or lost");
    assert!(books.completed > 0 && books.failed > 0, "{books:?}");
    world.verify()
}

/// Kafka's own topics, progress and the shop's: a single copy anywhere would be the one that is lost.
fn every_topic_has_three_copies_of_which_two_acknowledge(world: &mut World) -> Result<()> {
    let told = world.run_kafka_tool("org.apache.kafka.tools.TopicCommand", &["--describe"])?;
    let topics: Vec<&str> = told
        .lines()
        .filter(|line| line.starts_with("Topic:"))
        .collect();
    for wanted in [
        "__transaction_state",
        "outbox.progress.order",
        "order.created",
    ] {
        assert!(
            topics.iter().any(|topic| topic.contains(wanted)),
            "{wanted}:\n{told}"
        );
    }
    for topic in topics {
        let copies = topic.contains("ReplicationFactor: 3");
        assert!(copies && topic.contains("min.insync.replicas=2"), "{topic}");
    }
    Ok(())
}
