//! Topics and headers of your own.

use std::env;

use onceward::{
    CancellationToken, Db, Event, OpenOptions, Outbox, RawMessage, Routing, WriteError, schema,
};
use onceward_kafka::{KafkaBroker, KafkaConfig};
use outbox_relay::{Relay, RelayOptions};
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;

#[derive(Serialize, Deserialize, Event)]
#[event(type = "order.placed.v1", id = number, key = customer)] // in order per customer
struct OrderPlaced {
    number: u32,
    customer: String,
}

#[derive(Serialize, Deserialize, Event)]
#[event(type = "page.viewed.v1", aggregate = "page", id = path, key = none)] // in no order
struct PageViewed {
    path: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = env::var("DATABASE_URL")?; // sqlite:///path/routing.db?mode=rwc
    let db = Db::<Sqlite>::open(&url, OpenOptions::default()).await?;
    // Without a route, order.placed.v1 would go to order.placed.
    let routing = Routing::default()
        .with("order.placed.v1", "acme.orders")
        .with("page.viewed.v1", "acme.clicks");
    let outbox = Outbox::new("routing".parse()?).with_routing(routing);
    schema::migrate(db.pool(), outbox.source()).await?;
    let broker = KafkaBroker::new(KafkaConfig::plaintext(env::var("KAFKA")?))?;
    let topics = ["acme.orders", "acme.clicks", "acme.orders.large"];
    broker.make_topics(topics, 3, 1).await?;

    let (to, context) = (outbox.clone(), outbox.new_context());
    let written = db.write(async move |tx| {
        let page = PageViewed {
            path: "/chairs".into(),
        };
        to.append(tx, &context, &page).await?;
        for number in 1..=3 {
            let order = OrderPlaced {
                number,
                customer: "ada".into(),
            };
            // The correlation id, the trace and the ce_* headers are added by the outbox.
            let mut message = RawMessage::of(&order)?.with_header("tenant", "acme");
            if number == 3 {
                message = message.to_topic("acme.orders.large");
            }
            to.append_raw(tx, &context, message).await?;
        }
        Ok(())
    });
    written
        .await
        .map_err(|error: WriteError<anyhow::Error>| error)?;

    let stop = CancellationToken::new();
    let relay = Relay::new(RelayOptions::for_source(outbox.source(), &url), broker)?;
    let handle = relay.handle();
    let relaying = tokio::spawn(relay.run(stop.clone()));
    while handle.status().sources[0].position < 4 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    stop.cancel();
    relaying.await??;
    println!("4 messages published");
    Ok(())
}
