//! Adds up what was sold. Adding twice would be wrong, so each event must count exactly once.

use std::env;

use onceward::consumer::{Consumer, ConsumerOptions, Handler, HandlerError, Handlers};
use onceward::{CancellationToken, Db, Event, MessageContext, OpenOptions, Tx, schema};
use onceward_kafka::{KafkaConfig, KafkaSubscriber};
use serde::{Deserialize, Serialize};
use sqlx::Postgres;
use uuid::Uuid;

/// What this service reads of the shop's event; it need not know the rest.
#[derive(Serialize, Deserialize, Event)]
#[event(type = "order.placed.v1", id = id)]
struct OrderPlaced {
    id: Uuid,
    amount_minor: i64,
}

struct AddToRevenue;

impl Handler<Postgres, OrderPlaced> for AddToRevenue {
    /// Commits together with the inbox row and the next offset, or not at all.
    async fn handle(
        &self,
        tx: &mut Tx<'static, Postgres>,
        _context: &MessageContext,
        order: OrderPlaced,
    ) -> Result<(), HandlerError> {
        sqlx::query("update revenue set orders = orders + 1, amount_minor = amount_minor + $1")
            .bind(order.amount_minor)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt::init();
    let db = Db::<Postgres>::open(&env::var("DATABASE_URL")?, OpenOptions::default()).await?;
    schema::migrate(db.pool(), &"accounting".parse()?).await?;
    sqlx::raw_sql(include_str!("revenue.sql"))
        .execute(db.pool())
        .await?;

    let handlers = Handlers::default().on::<OrderPlaced, _>(AddToRevenue);
    let kafka = KafkaSubscriber::new(KafkaConfig::plaintext(env::var("KAFKA")?));
    let options = ConsumerOptions::new("accounting".parse()?, ["order.placed"]);
    let consumer = Consumer::new(db, handlers, kafka, options);

    let stop = CancellationToken::new();
    let consuming = tokio::spawn(consumer.run(stop.clone()));
    tokio::signal::ctrl_c().await?;
    stop.cancel();
    consuming.await??;
    Ok(())
}
