//! Routes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::http::{HeaderMap, StatusCode};
use onceward::Tx;
use onceward_saga::SagaBackend;
use serde_json::{Value, json};
use skeleton::{Answer, ApiError, App, RequestIdentity, write_once};
use sqlx::Postgres;

use super::{Shop, on_postgres, on_sqlite, router};

const GOOD: &str =
    r#"{"user_id":"user_123","product_id":"product_1","quantity":2,"amount":199.99}"#;
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

async fn an_order_is_taken_with_its_message_and_shown<B: SagaBackend>(shop: &Shop<B>) {
    let story = "0190b4a0-0000-7000-8000-000000000001";
    let (status, headers, body) = shop
        .post(GOOD, &[("correlation-id", story), ("traceparent", TRACE)])
        .await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let id = body["order_id"].as_str().unwrap();
    assert_eq!(body, json!({"order_id": id, "status": "pending"}));
    assert_eq!(headers["location"], format!("/orders/{id}"));
    assert_eq!(headers["correlation-id"], story);

    let (status, _, order) = shop.get(&format!("/orders/{id}")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(order["amount"].to_string(), "199.99");
    assert_eq!(order["correlation_id"], story);
    assert_eq!(order["steps"][0]["step"], "order.created");
    assert_eq!(order["reason"], Value::Null);

    let (topic, key, payload, headers): (String, String, Vec<u8>, String) =
        sqlx::query_as("select topic, message_key, payload, headers from outbox")
            .fetch_one(shop.db.pool())
            .await
            .unwrap();
    assert_eq!((topic.as_str(), key.as_str()), ("order.created", id));
    let payload: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(payload["amount_minor"], 19_999);
    let headers: Value = serde_json::from_str(&headers).unwrap();
    assert_eq!(headers["correlation-id"], story);
    assert_eq!(headers["traceparent"], TRACE);
}

/// With which message an order begins, by setting and by its own word.
async fn the_style_is_the_orders_own_or_the_settings<B: SagaBackend>(mut shop: Shop<B>) {
    let with = |saga: &str| GOOD.replace('}', &format!(",\"saga\":{saga}}}"));
    let (orchestrated, choreographed) = (
        order::SagaStyle::Orchestration,
        order::SagaStyle::Choreography,
    );
    for (setting, body, style, topic) in [
        (
            orchestrated,
            GOOD.to_owned(),
            "orchestration",
            "order.created",
        ),
        (
            orchestrated,
            with("\"choreography\""),
            "choreography",
            "order-created",
        ),
        (
            choreographed,
            GOOD.to_owned(),
            "choreography",
            "order-created",
        ),
        (choreographed, with("null"), "choreography", "order-created"),
        (
            choreographed,
            with("\"orchestration\""),
            "orchestration",
            "order.created",
        ),
    ] {
        let settings = order::Settings {
            saga: setting,
            ..order::Settings::default()
        };
        shop.router = router(&shop.db, &settings);
        let (_, _, placed) = shop.post(body, &[]).await;
        let id = placed["order_id"].as_str().unwrap();
        let (_, _, order) = shop.get(&format!("/orders/{id}")).await;
        assert_eq!(
            (&order["saga"], &order["steps"][0]["step"]),
            (&json!(style), &json!(topic))
        );
        let said: String = sqlx::query_scalar("select topic from outbox where message_key = $1")
            .bind(id.to_owned())
            .fetch_one(shop.db.pool())
            .await
            .unwrap();
        assert_eq!(said, topic);
    }
    assert_eq!(
        shop.count("timer").await,
        3,
        "a deadline for each without a coordinator"
    );
}

/// Who reacts to whom, by setting and by the order's own word; what it begins with is remembered.
async fn the_choreography_is_the_orders_own_or_the_settings<B: SagaBackend>(mut shop: Shop<B>) {
    use order::{Choreographed, SagaStyle};
    let with = |more: &str| GOOD.replace('}', &format!(",{more}}}"));
    let of_style = with(r#""saga":"choreography""#);
    let own = |name: &str| with(&format!(r#""choreography":"{name}""#));
    let mut ids = Vec::new();
    for (choreography, body, named, topic) in [
        (
            Choreographed::Pipeline,
            of_style,
            "pipeline",
            "pipeline.order_created",
        ),
        (
            Choreographed::PaymentFirst,
            own("pipeline"),
            "pipeline",
            "pipeline.order_created",
        ),
        (
            Choreographed::Pipeline,
            own("payment-first"),
            "payment-first",
            "order-created",
        ),
    ] {
        let settings = order::Settings {
            saga: SagaStyle::Orchestration,
            choreography,
            ..order::Settings::default()
        };
        shop.router = router(&shop.db, &settings);
        let (_, _, placed) = shop.post(body, &[]).await;
        ids.push((placed["order_id"].clone(), named, topic));
    }
    shop.router = router(&shop.db, &order::Settings::default());
    for (id, named, topic) in ids {
        let id = id.as_str().unwrap();
        let (_, _, order) = shop.get(&format!("/orders/{id}")).await;
        assert_eq!(
            (&order["saga"], &order["choreography"]),
            (&json!("choreography"), &json!(named))
        );
        let said: Vec<u8> =
            sqlx::query_scalar("select payload from outbox where message_key = $1 and topic = $2")
                .bind(id.to_owned())
                .bind(topic.to_owned())
                .fetch_one(shop.db.pool())
                .await
                .unwrap();
        let said: Value = serde_json::from_slice(&said).unwrap();
        let (_, _, events) = shop.get(&format!("/orders/{id}/events")).await;
        assert_eq!(events["items"][0]["payload"], said, "made again");
    }
}

#[tokio::test]
async fn the_choreography_is_the_orders_own_or_the_settings_on_sqlite() {
    the_choreography_is_the_orders_own_or_the_settings(on_sqlite().await).await;
}

#[tokio::test]
async fn the_choreography_is_the_orders_own_or_the_settings_on_postgres() {
    the_choreography_is_the_orders_own_or_the_settings(on_postgres().await).await;
}

#[tokio::test]
async fn the_style_is_the_orders_own_or_the_settings_on_sqlite() {
    the_style_is_the_orders_own_or_the_settings(on_sqlite().await).await;
}

#[tokio::test]
async fn the_style_is_the_orders_own_or_the_settings_on_postgres() {
    the_style_is_the_orders_own_or_the_settings(on_postgres().await).await;
}

#[tokio::test]
async fn an_order_is_taken_with_its_message_and_shown_on_sqlite() {
    an_order_is_taken_with_its_message_and_shown(&on_sqlite().await).await;
}

#[tokio::test]
async fn an_order_is_taken_with_its_message_and_shown_on_postgres() {
    an_order_is_taken_with_its_message_and_shown(&on_postgres().await).await;
}

/// Bad bodies with the status and the field that the problem must name.
fn bad_bodies() -> Vec<(String, u16, &'static str)> {
    let with = |field: &str, value: &str| {
        let mut body: serde_json::Map<String, Value> = serde_json::from_str(GOOD).unwrap();
        body.remove(field);
        let rest = serde_json::to_string(&body).unwrap();
        format!("{},\"{field}\":{value}}}", rest.trim_end_matches('}'))
    };
    let mut bodies = Vec::new();
    for field in ["user_id", "product_id", "quantity", "amount"] {
        let mut body: serde_json::Map<String, Value> = serde_json::from_str(GOOD).unwrap();
        body.remove(field);
        bodies.push((serde_json::to_string(&body).unwrap(), 422, field));
        bodies.push((with(field, "null"), 422, field));
        bodies.push((with(field, "[1]"), 422, field));
    }
    for value in [
        "-1",
        "0",
        "10001",
        "1.5",
        "2.0",
        "1e2",
        "\"2\"",
        "99999999999999999999",
    ] {
        bodies.push((with("quantity", value), 422, "quantity"));
    }
    for value in [
        "-0.01",
        "0",
        "0.00",
        "199.999",
        "1e3",
        "\"199.99\"",
        "1000000000.01",
        "9e999",
    ] {
        bodies.push((with("amount", value), 422, "amount"));
    }
    for value in [
        "\"\"",
        "\" \"",
        "5",
        "\"a\\u0000b\"",
        &format!("\"{}\"", "u".repeat(101)),
    ] {
        bodies.push((with("user_id", value), 422, "user_id"));
    }
    bodies.push((with("product_id", "\"product_6\""), 422, "product_id"));
    for value in ["\"\"", "\"chaos\"", "1"] {
        bodies.push((with("saga", value), 422, "saga"));
        bodies.push((with("choreography", value), 422, "choreography"));
    }
    let both = "\"orchestration\",\"choreography\":\"pipeline\"";
    bodies.push((with("saga", both), 422, "choreography"));
    bodies.push((with("coupon", "1"), 422, "coupon"));
    bodies.push((with("amount", "1,\"amount\":2"), 400, "body"));
    for broken in [
        "",
        "{",
        "[]",
        "null",
        "\"x\"",
        "{\"user_id\":}",
        &"[".repeat(10_000),
    ] {
        bodies.push((broken.to_owned(), 400, "body"));
    }
    bodies.push(("x".repeat(1 << 20), 413, "body"));
    bodies
}

async fn bad_bodies_name_their_field_and_write_nothing<B: SagaBackend>(shop: &Shop<B>) {
    for (body, status, field) in bad_bodies() {
        let shown: String = body.chars().take(120).collect();
        let (answered, headers, problem) = shop.post(body, &[("idempotency-key", "k")]).await;
        assert_eq!(answered.as_u16(), status, "{shown}: {problem}");
        assert_eq!(
            headers["content-type"], "application/problem+json",
            "{shown}"
        );
        assert_eq!(problem["status"], status, "{shown}");
        assert_eq!(problem["errors"][0]["field"], field, "{shown}: {problem}");
    }
    for table in ["orders", "outbox", "idempotency_key"] {
        assert_eq!(shop.count(table).await, 0, "{table}");
    }
}

#[tokio::test]
async fn bad_bodies_name_their_field_and_write_nothing_on_sqlite() {
    bad_bodies_name_their_field_and_write_nothing(&on_sqlite().await).await;
}

#[tokio::test]
async fn bad_bodies_name_their_field_and_write_nothing_on_postgres() {
    bad_bodies_name_their_field_and_write_nothing(&on_postgres().await).await;
}

async fn twins_of_a_key_make_one_order<B: SagaBackend>(shop: &Shop<B>) {
    let key = [("idempotency-key", "k1")];
    let (a, b, c) = tokio::join!(
        shop.post(GOOD, &key),
        shop.post(GOOD, &key),
        shop.post(GOOD, &key)
    );
    assert_eq!(a.0, StatusCode::CREATED, "{}", a.2);
    for twin in [&b, &c] {
        assert_eq!((&twin.0, &twin.2), (&a.0, &a.2));
        assert_eq!(twin.1["location"], a.1["location"]);
    }
    let (status, _, problem) = shop.post(GOOD.replace("199.99", "1.00"), &key).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(problem["errors"][0]["field"], "idempotency-key");
    let (status, _, _) = shop.post(GOOD, &[("idempotency-key", "")]).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(
        (shop.count("orders").await, shop.count("outbox").await),
        (1, 1)
    );
}

#[tokio::test]
async fn twins_of_a_key_make_one_order_on_sqlite() {
    twins_of_a_key_make_one_order(&on_sqlite().await).await;
}

#[tokio::test]
async fn twins_of_a_key_make_one_order_on_postgres() {
    twins_of_a_key_make_one_order(&on_postgres().await).await;
}

async fn the_list_is_paged_newest_first<B: SagaBackend>(shop: &Shop<B>) {
    let mut ids = Vec::new();
    for _ in 0..5 {
        let (_, _, body) = shop.post(GOOD, &[]).await;
        ids.insert(0, body["order_id"].clone());
    }
    let mut path = "/orders?limit=2".to_owned();
    let (mut seen, mut sizes) = (Vec::new(), Vec::new());
    loop {
        let (_, _, page) = shop.get(&path).await;
        let items = page["items"].as_array().unwrap();
        sizes.push(items.len());
        seen.extend(items.iter().map(|order| order["order_id"].clone()));
        match page["next"].as_str() {
            Some(next) => path = format!("/orders?limit=2&before={next}"),
            None => break,
        }
    }
    assert_eq!((seen, sizes), (ids, vec![2, 2, 1]));
    for (path, field) in [
        ("/orders?limit=0", "limit"),
        ("/orders?before=x", "before"),
        ("/orders/x", "id"),
    ] {
        let (status, _, problem) = shop.get(path).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(problem["errors"][0]["field"], field);
    }
    let (status, _, _) = shop
        .get("/orders/0190b4a0-0000-7000-8000-000000000001")
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_list_is_paged_newest_first_on_sqlite() {
    the_list_is_paged_newest_first(&on_sqlite().await).await;
}

#[tokio::test]
async fn the_list_is_paged_newest_first_on_postgres() {
    the_list_is_paged_newest_first(&on_postgres().await).await;
}

/// `write_once` on Postgres, where the work's first statement fails twice with this code: the status
/// it was answered with, and how often it ran.
async fn answered_after(code: &'static str) -> (StatusCode, u32) {
    let shop = on_postgres().await;
    let app = App::new(shop.db.clone(), order::DEFINITION.source().unwrap());
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let work = async move |tx: &mut Tx<'static, Postgres>| {
        if counted.fetch_add(1, Ordering::SeqCst) < 2 {
            let raise =
                format!("do $$ begin raise exception 'no' using errcode = '{code}'; end $$");
            sqlx::query(sqlx::AssertSqlSafe(raise))
                .execute(&mut **tx)
                .await
                .map_err(onceward::Error::database("order insert"))?;
        }
        Answer::json(StatusCode::CREATED, &1).map_err(ApiError::internal)
    };
    let identity = RequestIdentity {
        method: "POST",
        path: "/orders",
        user_id: "user_123",
        body: b"",
    };
    let mut headers = HeaderMap::new();
    headers.insert("idempotency-key", "key".parse().unwrap());
    let status = match write_once(&app, &headers, identity, work).await {
        Ok(answer) => answer.status,
        Err(refusal) => refusal.status(),
    };
    (status, runs.load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_request_that_the_database_makes_a_victim_runs_again() {
    assert_eq!(answered_after("40P01").await, (StatusCode::CREATED, 3));
    assert_eq!(answered_after("40001").await, (StatusCode::CREATED, 3));
}

#[tokio::test]
async fn a_request_that_meets_a_database_in_trouble_is_told_to_try_again() {
    let unavailable = (StatusCode::SERVICE_UNAVAILABLE, 1);
    // Shut down by the administrator; a lock that was waited for too long.
    assert_eq!(answered_after("57P01").await, unavailable);
    assert_eq!(answered_after("55P03").await, unavailable);
    // A fault of our own.
    let broken = (StatusCode::INTERNAL_SERVER_ERROR, 1);
    assert_eq!(answered_after("42601").await, broken);
}
