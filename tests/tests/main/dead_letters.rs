//! A command that nobody can read, in the middle of a saga.

use std::time::{Duration, Instant};

use integration_tests::{Client, Database, Order, PATIENCE, Result, World};
use serde_json::Value;

/// Who reads the command: the one that carries it out, and the one that shows what was said about
/// an order.
const READERS: [&str; 2] = ["payment", "order"];

/// A poisoned command parks its key and nothing else: the cancel comes by another topic, and
/// overtakes it. What was sent again queues behind it. Replayed after the mend, the command does
/// its work, or none if it was cancelled.
pub(crate) async fn a_poisoned_command_waits_for_its_mend(
    world: &mut World,
    client: &Client,
    database: Database,
) -> Result<()> {
    // The saga gives it up meanwhile.
    let id = poisoned_order(world, client, database).await?;
    let ended = client.wait_for(&id, "failed", PATIENCE).await?;
    assert_eq!(ended["reason"], "timed out", "{ended:#}");
    mend_and_replay(world, &id).await?;
    assert_eq!(
        client.get("order", &format!("/orders/{id}")).await?["status"],
        "failed"
    );
    assert_eq!(payment_of(client, &id).await?, Value::Null);

    // The saga waits for it.
    world.wait_for_replies(PATIENCE).await?;
    let id = poisoned_order(world, client, database).await?;
    let why = "the command can't be read";
    let (code, out, err) = world.onceward(&["saga", "retry", &id, "--why", why])?;
    assert_eq!(code, 0, "{out}{err}");
    until("the second command behind the first", async || {
        Ok(letter_of(world, "payment", &id)?["behind"] == 1)
    })
    .await?;
    let order = client.get("order", &format!("/orders/{id}")).await?;
    assert_eq!(order["status"], "pending", "{order:#}");
    mend_and_replay(world, &id).await?;
    client.wait_for(&id, "completed", PATIENCE).await?;
    let paid = payment_of(client, &id).await?;
    assert_eq!(paid["status"], "completed", "{paid:#}");
    until("no parked key", async || {
        Ok(parked_keys(client).await? == "0")
    })
    .await
}

/// An order whose payment nobody can read; it is a dead letter now.
async fn poisoned_order(world: &World, client: &Client, database: Database) -> Result<String> {
    let (begin, end) = match database {
        Database::Sqlite => (
            "create trigger poison after insert on outbox when new.topic = 'payment.process' begin \
             update outbox set payload = cast('!' || new.payload as blob) where seq = new.seq; end",
            "drop trigger poison",
        ),
        Database::Postgres => (
            "create function poison() returns trigger language plpgsql as $$ begin \
             if new.topic = 'payment.process' then new.payload := '!'::bytea || new.payload; end if; \
             return new; end $$; \
             create trigger poison before insert on outbox for each row execute function poison()",
            "drop function poison cascade",
        ),
    };
    world.execute("saga-orchestrator", begin).await?;
    let id = client.order(&Order::default()).await?;
    until("a dead letter", async || {
        Ok(letter_of(world, "payment", &id)? != Value::Null)
    })
    .await?;
    world.execute("saga-orchestrator", end).await?;
    let letter = letter_of(world, "payment", &id)?;
    let reason = letter["reason"].as_str().unwrap_or_default();
    assert!(
        reason.contains("not a valid payment.process.v1"),
        "{letter:#}"
    );
    until("a parked key", async || {
        Ok(parked_keys(client).await? == "1")
    })
    .await?;
    let dead = client.get("payment", "/dead-letters").await?;
    assert_eq!(dead["items"][0]["message_key"], id, "{dead:#}");
    Ok(id)
}

/// At everybody who reads it: each has a dead letter of its own.
async fn mend_and_replay(world: &World, order: &str) -> Result<()> {
    for service in READERS {
        let dead = async || Ok(letter_of(world, service, order)? != Value::Null);
        until("a dead letter", dead).await?;
        let mend = "update inbox_dead_letter set payload = substr(payload, 2) where state = 'dead'";
        world.execute(service, mend).await?;
        let letter = letter_of(world, service, order)?;
        let letter = letter["message_id"].as_str().unwrap_or_default();
        let group = group_of(service);
        let replay = ["dead-letter", "replay", letter, "--consumer", &group];
        let words = [&replay[..], &["--note", "mended", "--wait"]].concat();
        let (code, out, err) = world.onceward(&words)?;
        assert!(code == 0 && out.contains("done"), "{out}{err}");
        assert_eq!(letter_of(world, service, order)?, Value::Null);
    }
    Ok(())
}

fn group_of(service: &str) -> String {
    format!("{service}-service-group")
}

/// The service's dead letter about this order, as the command lists it.
fn letter_of(world: &World, service: &str, order: &str) -> Result<Value> {
    let (code, out, err) = world.onceward(&["dead-letter", "list", "--json"])?;
    assert_eq!(code, 0, "{out}{err}");
    let letters: Value = serde_json::from_str(&out)?;
    let mut letters = letters.as_array().into_iter().flatten();
    let (key, consumer) = (Value::from(order), Value::from(group_of(service)));
    let found = letters.find(|one| one["message_key"] == key && one["consumer"] == consumer);
    Ok(found.cloned().unwrap_or_default())
}

async fn payment_of(client: &Client, order: &str) -> Result<Value> {
    let page = client.get("payment", "/payments").await?;
    let mut payments = page["items"].as_array().into_iter().flatten();
    let found = payments.find(|one| one["order_id"] == order);
    Ok(found.cloned().unwrap_or_default())
}

/// As the payment service's metrics have it.
async fn parked_keys(client: &Client) -> Result<String> {
    let gauge = "onceward_consumer_parked_keys{consumer=\"payment-service-group\"} ";
    let metrics = client.text("payment", "/metrics").await?;
    let line = metrics.lines().find_map(|line| line.strip_prefix(gauge));
    Ok(line.unwrap_or_default().to_owned())
}

async fn until(what: &str, state: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !state().await? {
        anyhow::ensure!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
