//! The shop's tenth service: a point for each whole unit of money that a completed order cost.

use std::env;

use axum::extract::{Path, State};
use axum::{Json, Router, http::StatusCode, routing::get};
use onceward::consumer::{Consumer, ConsumerOptions, Handler, HandlerError, Handlers};
use onceward::{CancellationToken, Db, Event, MessageContext, OpenOptions, Outbox, Tx, schema};
use onceward_kafka::{KafkaBroker, KafkaConfig, KafkaSubscriber};
use outbox_relay::{Relay, RelayOptions};
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;
use uuid::Uuid;

#[derive(Serialize, Deserialize, Event)]
#[event(type = "order.created.v1", id = order_id)]
struct OrderCreated {
    order_id: Uuid,
    user_id: String,
    amount_minor: i64, // cents
}

#[derive(Serialize, Deserialize, Event)]
#[event(type = "order.completed.v1", id = order_id)]
struct OrderCompleted {
    order_id: Uuid,
}

#[derive(Serialize, Deserialize, Event, sqlx::FromRow)]
#[event(type = "points.granted.v1", aggregate = "points", id = user_id)]
struct PointsGranted {
    user_id: String,
    order_id: Uuid,
    points: i64,
}

const TABLE: &str = "create table if not exists bought (
    order_id blob primary key, user_id text, points integer, completed integer not null)";

/// What a message tells of an order: buyer and points, or that it is completed.
type Told = (Uuid, Option<String>, Option<i64>, bool);

impl From<OrderCreated> for Told {
    fn from(order: OrderCreated) -> Self {
        let points = Some(order.amount_minor / 100);
        (order.order_id, Some(order.user_id), points, false)
    }
}

impl From<OrderCompleted> for Told {
    fn from(order: OrderCompleted) -> Self {
        (order.order_id, None, None, true)
    }
}

struct Points(Outbox);

impl<E: Event + Into<Told>> Handler<Sqlite, E> for Points {
    async fn handle(
        &self,
        tx: &mut Tx<'static, Sqlite>,
        context: &MessageContext,
        message: E,
    ) -> Result<(), HandlerError> {
        let (order_id, user_id, points, completed) = message.into();
        let note = "insert into bought values ($1, $2, $3, $4) on conflict do update set user_id = \
             coalesce(user_id, $2), points = coalesce(points, $3), completed = max(completed, $4)";
        let note = sqlx::query(note).bind(order_id).bind(user_id);
        note.bind(points).bind(completed).execute(&mut **tx).await?;
        let both = "select * from bought where order_id = $1 and user_id is not null and completed";
        let both = sqlx::query_as(both).bind(order_id);
        if let Some::<PointsGranted>(granted) = both.fetch_optional(&mut **tx).await? {
            self.0.append(tx, context, &granted).await?;
        }
        Ok(())
    }
}

async fn points(
    State(db): State<Db<Sqlite>>,
    Path(user): Path<String>,
) -> Result<Json<i64>, StatusCode> {
    let sum = "select coalesce(sum(points), 0) from bought where user_id = $1 and completed";
    let sum = sqlx::query_scalar(sum).bind(user);
    let sum: Result<i64, _> = sum.fetch_one(db.pool()).await;
    sum.map(Json).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = env::var("DATABASE_URL")?; // sqlite:///path/loyalty.db?mode=rwc
    let kafka = KafkaConfig::plaintext(env::var("KAFKA")?);
    let listen = env::var("LISTEN").unwrap_or("127.0.0.1:8010".into());

    let db = Db::<Sqlite>::open(&url, OpenOptions::default()).await?;
    let outbox = Outbox::new("loyalty".parse()?);
    schema::migrate(db.pool(), outbox.source()).await?;
    sqlx::raw_sql(TABLE).execute(db.pool()).await?;

    let broker = KafkaBroker::new(kafka.clone())?;
    broker.make_topics(["points.granted"], 3, 1).await?;
    let relay = Relay::new(RelayOptions::for_source(outbox.source(), &url), broker)?;

    let handlers = Handlers::default()
        .on::<OrderCreated, _>(Points(outbox.clone()))
        .on::<OrderCompleted, _>(Points(outbox.clone()));
    let options = ConsumerOptions::new("loyalty".parse()?, handlers.topics(outbox.routing()));
    let consumer = Consumer::new(db.clone(), handlers, KafkaSubscriber::new(kafka), options);

    // Nobody cancels these: Ctrl-C is a power cut, which loses and doubles nothing.
    let points = Router::new().route("/points/{user}", get(points));
    let listener = tokio::net::TcpListener::bind(listen).await?;
    tokio::select! {
        relayed = relay.run(CancellationToken::new()) => relayed?,
        consumed = consumer.run(CancellationToken::new()) => consumed?,
        served = axum::serve(listener, points.with_state(db)) => served?,
    }
    Ok(())
}
