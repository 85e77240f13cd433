//! That a generic service compiles, and answers by the skeleton's rules.
#![expect(clippy::unwrap_used, reason = "test code may panic")]

use axum::Router;
use axum::body::Body as AxumBody;
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::post;
use onceward::schema::SchemaBackend;
use onceward::{Db, OpenOptions, Tx};
use skeleton::{Answer, ApiError, App, Body, RequestIdentity, assemble, write_once};
use sqlx::Sqlite;
use std::time::Duration;
use tower::ServiceExt;

/// A handler generic over the database, as every service has them.
async fn place<B: SchemaBackend>(
    State(app): State<App<B>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Answer, ApiError> {
    let mut fields = body.fields()?;
    let user = fields.text("user", 20);
    let amount = fields.money("amount");
    let (user, amount) = fields.finish(user.zip(amount))?;
    let identity = RequestIdentity {
        method: "POST",
        path: "/things",
        user_id: &user,
        body: &body.0,
    };
    write_once(
        &app,
        &headers,
        identity,
        async move |tx: &mut Tx<'static, B>| {
            sqlx::query("insert into thing (amount) values ($1)")
                .bind(amount.minor())
                .execute(&mut **tx)
                .await?;
            Ok(Answer::json(StatusCode::CREATED, &amount)
                .map_err(ApiError::internal)?
                .at("/things/1"))
        },
    )
    .await
}

async fn router(dir: &tempfile::TempDir) -> (Router, Db<Sqlite>) {
    let path = dir.path().join("things.db");
    std::fs::File::create(&path).unwrap();
    let url = format!("sqlite://{}", path.display());
    let db = Db::<Sqlite>::open(&url, OpenOptions::default())
        .await
        .unwrap();
    let name = onceward::SourceName::new("things").unwrap();
    onceward::schema::migrate(db.pool(), &name).await.unwrap();
    sqlx::query("create table thing (amount bigint not null)")
        .execute(db.pool())
        .await
        .unwrap();
    let app = App::new(db.clone(), name);
    let routes = Router::new()
        .route("/things", post(place::<Sqlite>))
        .with_state(app.clone());
    (assemble(&app, routes, Duration::from_secs(5)), db)
}

#[tokio::test]
async fn a_repeated_idempotency_key_gets_the_same_answer_and_writes_once() {
    let dir = tempfile::tempdir().unwrap();
    let (router, db) = router(&dir).await;
    let send = |body: &'static str| {
        let router = router.clone();
        async move {
            let request = Request::post("/things")
                .header("idempotency-key", "k1")
                .body(AxumBody::from(body))
                .unwrap();
            let response = router.oneshot(request).await.unwrap();
            let status = response.status();
            let location = response.headers().get("location").cloned();
            let body = axum::body::to_bytes(response.into_body(), 100_000)
                .await
                .unwrap();
            (status, location, body)
        }
    };
    let body = r#"{"user":"u","amount":199.99}"#;
    let (first, second) = tokio::join!(send(body), send(body));
    assert_eq!(first.0, StatusCode::CREATED, "{:?}", first.2);
    assert_eq!(first, second);
    assert_eq!(send(body).await, first);
    let other = send(r#"{"user":"u","amount":1}"#).await;
    assert_eq!(other.0, StatusCode::UNPROCESSABLE_ENTITY);
    let rows: i64 = sqlx::query_scalar("select count(*) from thing")
        .fetch_one(db.pool())
        .await
        .unwrap();
    assert_eq!(rows, 1);
}
