//! A shop that takes orders: axum, sqlx, Postgres.

use std::env;

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use onceward::{CancellationToken, Event, Outbox, schema};
use onceward_kafka::{KafkaBroker, KafkaConfig};
use outbox_relay::{Relay, RelayOptions};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use uuid::Uuid;

#[derive(Serialize, Deserialize, Event)]
#[event(type = "order.placed.v1", id = id)]
struct Order {
    id: Uuid,
    item: String,
    amount_minor: i64,
}

#[derive(Clone)]
struct App {
    pool: PgPool,
    outbox: Outbox,
}

async fn place(State(app): State<App>, Json(order): Json<Order>) -> Result<StatusCode, Trouble> {
    let mut tx = app.pool.begin().await?;
    sqlx::query("insert into orders (id, item, amount_minor) values ($1, $2, $3)")
        .bind(order.id)
        .bind(&order.item)
        .bind(order.amount_minor)
        .execute(&mut *tx)
        .await?;
    let context = app.outbox.new_context();
    app.outbox.append(&mut tx, &context, &order).await?;
    tx.commit().await?;
    Ok(StatusCode::CREATED)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt::init();
    let database = env::var("DATABASE_URL")?;
    let pool = PgPool::connect(&database).await?;
    sqlx::query(include_str!("orders.sql"))
        .execute(&pool)
        .await?;
    let outbox = Outbox::new("shop".parse()?);
    schema::migrate(&pool, outbox.source()).await?;
    let broker = KafkaBroker::new(KafkaConfig::plaintext(env::var("KAFKA")?))?;
    broker.make_topics(["order.placed"], 3, 1).await?;
    let options = RelayOptions::for_source(outbox.source(), &database);
    tokio::spawn(Relay::new(options, broker)?.run(CancellationToken::new()));
    let app = Router::new()
        .route("/orders", post(place))
        .with_state(App { pool, outbox });
    let address = env::var("LISTEN").unwrap_or("127.0.0.1:3000".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, app).await?;
    Ok(())
}

/// Any error is ours: 500, and the reason in the log.
struct Trouble(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl axum::response::IntoResponse for Trouble {
    fn into_response(self) -> axum::response::Response {
        eprintln!("error: {:#}", self.0);
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    }
}
