//! What the README promises, word for word.

use std::time::Duration;

use integration_tests::{Client, Database, Order, PATIENCE, Result, Settings, World};
use serde_json::Value;

use crate::{dead_letters, rebuild};

/// How long replies are waited for where one does not come.
const SHORT: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_end_as_the_readme_says_on_sqlite() -> Result<()> {
    orders_end_as_the_readme_says(Database::Sqlite).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_end_as_the_readme_says_on_postgres() -> Result<()> {
    orders_end_as_the_readme_says(Database::Postgres).await
}

async fn orders_end_as_the_readme_says(database: Database) -> Result<()> {
    let mut world = World::start(database, Settings::default()).await?;
    let client = world.client();
    let orchestrated = [
        "customer.validated",
        "inventory.validated",
        "inventory.reserved",
        "payment.completed",
        "delivery.scheduled",
    ];
    completes(&client, &Order::default(), &orchestrated).await?;
    let choreographed = ["order-created", "payment-processed", "inventory-updated"];
    let one = Order {
        saga: Some("choreography"),
        ..Order::default()
    };
    completes(&client, &one, &choreographed).await?;
    let delivered = [
        "pipeline.order_created",
        "pipeline.order_paid",
        "pipeline.inventory_reserved",
        "pipeline.order_shipped",
        "pipeline.order_delivered",
    ];
    let one = Order {
        choreography: Some("pipeline"),
        ..Order::default()
    };
    completes(&client, &one, &delivered).await?;
    for saga in [None, Some("choreography")] {
        fails_for(
            &client,
            Order {
                product_id: "product_3".into(),
                quantity: 100,
                saga,
                ..Order::default()
            },
            "insufficient inventory",
        )
        .await?;
        fails_for(
            &client,
            Order {
                user_id: "user_declined".into(),
                saga,
                ..Order::default()
            },
            "declined",
        )
        .await?;
    }
    fails_for(
        &client,
        Order {
            user_id: "user_without_credit".into(),
            ..Order::default()
        },
        "credit limit exceeded",
    )
    .await?;
    for choreography in [None, Some("pipeline")] {
        fails_for(
            &client,
            Order {
                user_id: "user_undeliverable".into(),
                choreography,
                ..Order::default()
            },
            "undeliverable",
        )
        .await?;
    }
    the_same_key_is_one_order(&client).await?;
    world.wait_for_replies(SHORT).await?;
    a_silent_payment_is_undone(&mut world, &client).await?;
    an_operator_turns_an_order_back(&mut world, &client).await?;
    rebuild::equals_the_live_one_until_somebody_tampers(&world, database).await?;
    dead_letters::a_poisoned_command_waits_for_its_mend(&mut world, &client, database).await?;

    // The stream says the same as the page, and holds up no stop.
    let live = client.first_event("analytics", "/analytics/live").await?;
    assert_eq!(live["window_seconds"], 60, "{live:#}");
    let books = world.closed_books().await?;
    // One of each way and the one with a key; short stock, declined and silent in each style,
    // without credit, undeliverable in two ways, and turned back; a poisoned one of each end.
    assert_eq!((books.completed, books.failed), (5, 11));
    world.verify()?;

    let stopped = world.stop("relay")?;
    assert!(
        stopped < Duration::from_secs(2),
        "the relay took {stopped:?} to stop"
    );
    Ok(())
}

async fn completes(client: &Client, order: &Order, said: &[&str]) -> Result<()> {
    let id = client.order(order).await?;
    let order = client.wait_for(&id, "completed", PATIENCE).await?;
    let steps: Vec<&str> = order["steps"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|step| step["step"].as_str())
        .collect();
    for step in said {
        assert!(steps.contains(step), "{step} is missing: {order:#}");
    }
    assert_eq!(order["amount"].to_string(), "199.99");
    Ok(())
}

async fn fails_for(client: &Client, order: Order, reason: &str) -> Result<()> {
    let id = client.order(&order).await?;
    let ended = client.wait_for(&id, "failed", PATIENCE).await?;
    let said = ended["reason"].as_str().unwrap_or_default();
    assert!(said.contains(reason), "expected {reason:?} in {ended:#}");
    Ok(())
}

async fn the_same_key_is_one_order(client: &Client) -> Result<()> {
    let key = Some("a-key-of-the-client");
    let (status, first) = client.post_order(&Order::default(), key).await?;
    let (again, second) = client.post_order(&Order::default(), key).await?;
    assert_eq!((status, again, &first), (201, 201, &second));
    let other = Order {
        quantity: 3,
        ..Order::default()
    };
    assert_eq!(
        client.post_order(&other, key).await?.0,
        422,
        "another body under the same key"
    );
    let id = first["order_id"].as_str().unwrap_or_default();
    client.wait_for(id, "completed", PATIENCE).await?;
    Ok(())
}

async fn a_silent_payment_is_undone(world: &mut World, client: &Client) -> Result<()> {
    world.stop("payment")?;
    let mut ids = Vec::new();
    for saga in [None, Some("choreography")] {
        let order = Order {
            saga,
            ..Order::default()
        };
        ids.push(client.order(&order).await?);
    }
    for id in &ids {
        let waiting: Value = client.wait_for(id, "cancelling", PATIENCE).await?;
        assert_eq!(waiting["reason"], "timed out", "{waiting:#}");
    }
    world.spawn("payment")?;
    for id in &ids {
        let ended = client.wait_for(id, "failed", PATIENCE).await?;
        assert_eq!(ended["reason"], "timed out", "{ended:#}");
    }
    Ok(())
}

async fn an_operator_turns_an_order_back(world: &mut World, client: &Client) -> Result<()> {
    world.stop("payment")?;
    let id = client.order(&Order::default()).await?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while world.onceward(&["saga", "show", &id])?.0 != 0 {
        assert!(tokio::time::Instant::now() < deadline, "no saga of {id}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let why = "the customer called, ticket 4711";
    let (code, out, err) =
        world.onceward(&["saga", "force-compensate", &id, "--by", "ada", "--why", why])?;
    assert_eq!(code, 0, "{out}{err}");
    assert!(
        out.contains("force-compensate") && out.contains(", done"),
        "{out}"
    );
    world.spawn("payment")?;
    client.wait_for(&id, "failed", PATIENCE).await?;
    let (_, shown, _) = world.onceward(&["saga", "show", &id])?;
    assert!(shown.contains("ada") && shown.contains(why), "{shown}");
    let (code, _, err) = world.onceward(&["saga", "skip", &id, "--why", "again"])?;
    assert!(code == 1 && err.contains("has ended"), "{err}");
    Ok(())
}
