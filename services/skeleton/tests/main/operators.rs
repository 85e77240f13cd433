//! Operator routes.

use std::net::SocketAddr;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Request, StatusCode};
use serde_json::Value;
use skeleton::{OperatorOptions, OperatorToken};

use super::{ask, get, router, world};

const TOKEN: &str = "a-token-of-twenty-ch";
const PATH: &str = "/things/0190b4a0-0000-7000-8000-000000000001";

async fn smash(
    router: &axum::Router,
    peer: &str,
    token: Option<&str>,
) -> (StatusCode, HeaderMap, String) {
    let peer: SocketAddr = peer.parse().unwrap();
    let mut request = Request::delete(PATH).extension(ConnectInfo(peer));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    ask(router, request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn with_a_token_whoever_sends_it_is_an_operator_and_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let options = OperatorOptions {
        operator_token: Some(TOKEN.parse::<OperatorToken>().unwrap()),
        operator_token_file: None,
    };
    let app = world(&dir).await.with_operators(options.access().unwrap());
    let router = router(&app);
    let (status, ..) = smash(&router, "192.0.2.1:1", Some(TOKEN)).await;
    assert_eq!(status, StatusCode::OK);
    for (token, challenge) in [
        (None, r#"Bearer realm="operator""#),
        (
            Some("a-token-of-twenty-cX"),
            r#"Bearer realm="operator", error="invalid_token""#,
        ),
    ] {
        let (status, headers, text) = smash(&router, "127.0.0.1:1", token).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(headers["www-authenticate"], challenge);
        assert_eq!(headers["content-type"], "application/problem+json");
        assert!(!text.contains(TOKEN), "{text}");
    }
    let document: Value = serde_json::from_str(&get(&router, "/openapi.json").await.2).unwrap();
    let operation = &document["paths"]["/things/{id}"]["delete"];
    assert_eq!(
        operation["security"][0]["operator"],
        Value::Array(Vec::new())
    );
    assert!(operation["responses"]["401"].is_object());
    let scheme = &document["components"]["securitySchemes"]["operator"];
    assert_eq!(scheme["scheme"], "bearer");
    assert!(!format!("{app:?}").contains(TOKEN));
}

#[tokio::test]
async fn operators_see_what_is_dead_and_not_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let app = world(&dir).await;
    let router = router(&app);
    sqlx::query(
        "insert into inbox_dead_letter (consumer, topic, partition, record_offset, ce_source, ce_id, message_type, \
         message_key, headers, payload, attempts, reason, state, died_at) values \
         ('things-service-group', 'thing.made', 0, 17, 'shop', 'id-1', 'thing.made.v1', cast('key-1' as blob), '[]', \
         cast('a secret' as blob), 10, 'out of things', 'dead', 1000000), \
         ('things-service-group', 'thing.made', 0, 16, 'shop', 'id-0', null, x'ff', '[]', \
         x'00', 10, 'mended', 'replayed', 1000000)",
    )
    .execute(app.db().pool())
    .await
    .unwrap();
    let dead = async |peer: &str| {
        let peer: SocketAddr = peer.parse().unwrap();
        let request = Request::get("/dead-letters").extension(ConnectInfo(peer));
        ask(&router, request.body(Body::empty()).unwrap()).await
    };
    assert_eq!(dead("192.0.2.1:1").await.0, StatusCode::FORBIDDEN);
    let (status, _, text) = dead("127.0.0.1:1").await;
    assert_eq!(status, StatusCode::OK);
    let found: Value = serde_json::from_str(&text).unwrap();
    let expected = serde_json::json!([{
        "consumer": "things-service-group", "place": "thing.made/0@17", "message_id": "id-1",
        "message_type": "thing.made.v1", "message_key": "key-1", "attempts": 10,
        "reason": "out of things", "died_at": "1970-01-01T00:00:01.000000Z",
    }]);
    assert_eq!(found["items"], expected);
}

#[tokio::test]
async fn without_a_token_only_clients_of_this_machine_are_operators() {
    let dir = tempfile::tempdir().unwrap();
    let router = router(&world(&dir).await);
    let (status, ..) = smash(&router, "127.0.0.1:1", None).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _, text) = smash(&router, "192.0.2.1:1", None).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(text.contains("--operator-token-file"), "{text}");
}
