//! The order service's routes and projection, without a port and without Kafka, on both databases.
#![expect(clippy::unwrap_used, reason = "test code may panic")]

mod api;
mod projection;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use onceward::{Db, OpenOptions, sqlite_options};
use onceward_saga::SagaBackend;
use serde_json::Value;
use skeleton::App;
use sqlx::{ConnectOptions, Connection, Postgres, Sqlite};
use tempfile::TempDir;
use tower::ServiceExt;

/// A migrated order service.
struct Shop<B: SagaBackend> {
    router: Router,
    db: Db<B>,
    _dir: Option<TempDir>,
}

async fn on_sqlite() -> Shop<Sqlite> {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/order.db", dir.path().display());
    let made = sqlite_options(&url).unwrap().create_if_missing(true);
    made.connect().await.unwrap().close().await.unwrap();
    let db = Db::<Sqlite>::open(&url, OpenOptions::default())
        .await
        .unwrap();
    shop(db, Some(dir)).await
}

async fn on_postgres() -> Shop<Postgres> {
    let url = tokio::task::spawn_blocking(|| {
        onceward_testkit::postgres::shared()
            .unwrap()
            .create_database()
            .unwrap()
    })
    .await
    .unwrap();
    let db = Db::<Postgres>::open(&url, OpenOptions::default())
        .await
        .unwrap();
    shop(db, None).await
}

async fn shop<B: SagaBackend>(db: Db<B>, dir: Option<TempDir>) -> Shop<B> {
    skeleton::migrate(&order::DEFINITION, db.pool())
        .await
        .unwrap();
    Shop {
        router: router(&db, &order::Settings::default()),
        db,
        _dir: dir,
    }
}

fn router<B: SagaBackend>(db: &Db<B>, settings: &order::Settings) -> Router {
    let app = App::new(db.clone(), order::DEFINITION.source().unwrap());
    let service = order::service(&app, settings);
    let limits = skeleton::Limits::default();
    skeleton::assemble(&order::DEFINITION, &app, service.routes, limits).unwrap()
}

/// An answer: status, headers, body.
type Answered = (StatusCode, HeaderMap, Value);

impl<B: SagaBackend> Shop<B> {
    async fn send(&self, request: Request<Body>) -> Answered {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let body = serde_json::from_slice(&body).unwrap();
        (parts.status, parts.headers, body)
    }

    async fn post(&self, body: impl Into<Body>, headers: &[(&str, &str)]) -> Answered {
        let mut request = Request::post("/orders");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn get(&self, path: &str) -> Answered {
        self.send(Request::get(path).body(Body::empty()).unwrap())
            .await
    }

    async fn count(&self, table: &'static str) -> i64 {
        let statement = format!("select count(*) from {table}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(statement))
            .fetch_one(self.db.pool())
            .await
            .unwrap()
    }
}
