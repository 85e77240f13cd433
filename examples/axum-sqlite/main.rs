//! The same shop on SQLite, where the outbox adds an orderly end: SIGTERM lets the relay finish.

use std::env;

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use onceward::{CancellationToken, Db, Event, OpenOptions, Outbox, schema};
use onceward_kafka::{KafkaBroker, KafkaConfig};
use outbox_relay::{Relay, RelayOptions};
use serde::{Deserialize, Serialize};
use sqlx::Sqlite;
use tokio::signal::unix::{SignalKind, signal};
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
    db: Db<Sqlite>,
    outbox: Outbox,
}

/// `Db::write` lets requests that come at the same time share one commit: SQLite has one writer.
async fn place(State(app): State<App>, Json(order): Json<Order>) -> Result<StatusCode, String> {
    let (outbox, context) = (app.outbox.clone(), app.outbox.new_context());
    let written = app.db.write(async move |tx| {
        sqlx::query("insert into orders (id, item, amount_minor) values ($1, $2, $3)")
            .bind(order.id)
            .bind(&order.item)
            .bind(order.amount_minor)
            .execute(&mut **tx)
            .await?;
        outbox.append(tx, &context, &order).await?;
        Ok::<_, onceward::BoxError>(StatusCode::CREATED)
    });
    written.await.map_err(|error| error.to_string())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt::init();
    let url = env::var("DATABASE_URL")?; // sqlite:///path/shop.db?mode=rwc
    let db = Db::<Sqlite>::open(&url, OpenOptions::default()).await?;
    let outbox = Outbox::new("sqlite-shop".parse()?);
    schema::migrate(db.pool(), outbox.source()).await?;
    sqlx::query(include_str!("orders.sql"))
        .execute(db.pool())
        .await?;

    let broker = KafkaBroker::new(KafkaConfig::plaintext(env::var("KAFKA")?))?;
    broker.make_topics(["order.placed"], 3, 1).await?;
    let relay = Relay::new(RelayOptions::for_source(outbox.source(), &url), broker)?;
    let router = Router::new()
        .route("/orders", post(place))
        .with_state(App { db, outbox })
        // /relay/readyz, /relay/status
        .nest("/relay", outbox_relay::router(relay.handle(), None));

    let stop = CancellationToken::new();
    let relaying = tokio::spawn(relay.run(stop.clone()));
    let mut terminate = signal(SignalKind::terminate())?;
    let address = env::var("LISTEN").unwrap_or("127.0.0.1:3001".into());
    axum::serve(tokio::net::TcpListener::bind(address).await?, router)
        .with_graceful_shutdown(async move {
            terminate.recv().await;
        })
        .await?;
    stop.cancel();
    relaying.await??;
    Ok(())
}
