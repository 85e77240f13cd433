//! `Idempotency-Key`.

use axum::body::Body as AxumBody;
use axum::http::{Request, StatusCode};
use tower::ServiceExt;

use super::{router, world};

#[tokio::test]
async fn a_repeated_idempotency_key_gets_the_same_answer_and_writes_once() {
    let dir = tempfile::tempdir().unwrap();
    let app = world(&dir).await;
    let (router, db) = (router(&app), app.db());
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
