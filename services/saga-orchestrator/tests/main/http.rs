//! What each service shows of an order, and what it refuses.

use axum::body::Body;
use axum::http::Request;
use onceward_saga::SagaBackend;
use serde_json::{Value, json};

use crate::world::{World, on_both};

on_both!(
    every_service_shows_its_part_of_an_order, 60_000;
    stock_is_set_and_bad_bodies_name_the_field, 60_000;
    lists_come_in_pages, 60_000;
    an_operator_resumes_a_stuck_saga_and_no_other, 1;
);

async fn every_service_shows_its_part_of_an_order<B: SagaBackend>(mut world: World<B>) {
    let done = world.order("user_123", "product_1", 2, 19_999);
    let declined = world.order(payment::ALWAYS_REFUSED, "product_2", 1, 500);
    let nowhere = world.order(delivery::ALWAYS_REFUSED, "product_1", 3, 700);
    world.settle().await;
    let find = |items: &Value, id: uuid::Uuid| -> Value {
        let mut found = items.as_array().unwrap().iter();
        found
            .find(|item| item["order_id"] == id.to_string())
            .cloned()
            .unwrap()
    };

    let (status, inventory) = world.get("inventory", "/inventory").await;
    assert_eq!(status, 200);
    let product = |n: usize| inventory["products"][n].clone();
    let expected = json!({"product_id": "product_1", "stock": 999_998, "reserved": 0, "sold": 2});
    assert_eq!(product(0), expected);
    assert_eq!(product(1)["stock"], 10_000);
    assert_eq!(product(4)["product_id"], "product_5");
    let reservations = &inventory["reservations"]["items"];
    assert_eq!(find(reservations, done)["state"], "sold");
    assert_eq!(find(reservations, declined)["state"], "released");

    let (_, payments) = world.get("payment", "/payments").await;
    assert_eq!(find(&payments["items"], done)["amount"], json!(199.99));
    assert_eq!(find(&payments["items"], done)["status"], "completed");
    assert_eq!(
        find(&payments["items"], declined)["reason"],
        payment::REFUSED
    );
    assert_eq!(find(&payments["items"], nowhere)["status"], "refunded");
    let totals = json!([
        {"status": "completed", "count": 1, "amount_minor": 19_999},
        {"status": "failed", "count": 1, "amount_minor": 500},
        {"status": "refunded", "count": 1, "amount_minor": 700},
    ]);
    assert_eq!(payments["totals"], totals);

    let (_, deliveries) = world.get("delivery", "/deliveries").await;
    assert_eq!(find(&deliveries["items"], done)["status"], "scheduled");
    assert_eq!(find(&deliveries["items"], nowhere)["status"], "failed");
    assert_eq!(deliveries["items"].as_array().unwrap().len(), 2);

    let (_, sagas) = world
        .get("saga-orchestrator", "/sagas?status=compensated")
        .await;
    assert_eq!(sagas["items"].as_array().unwrap().len(), 2);
    assert_eq!(find(&sagas["items"], nowhere)["reason"], delivery::REFUSED);
    let path = format!("/sagas?order_id={done}");
    let (_, sagas) = world.get("saga-orchestrator", &path).await;
    let id = sagas["items"][0]["saga_id"].as_str().unwrap().to_owned();
    let (_, saga) = world
        .get("saga-orchestrator", &format!("/sagas/{id}"))
        .await;
    assert_eq!(saga["status"], "completed");
    let kinds: Vec<_> = saga["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["kind"])
        .collect();
    assert_eq!(
        (kinds.len(), kinds[0], kinds[7]),
        (8, &json!("started"), &json!("completed"))
    );
    assert_eq!(saga["timers"][2]["name"], "deadline/delivery/0/1");

    let nobody = uuid::Uuid::nil();
    let path = format!("/sagas/{nobody}");
    assert_eq!(world.get("saga-orchestrator", &path).await.0, 404);
    for path in [
        "/sagas/7",
        "/sagas/%ff",
        "/sagas?order_id=%00",
        "/sagas?status=lost",
        "/sagas?limit=0",
        "/sagas?color=red",
        "/sagas?before=x",
    ] {
        let (status, problem) = world.get("saga-orchestrator", path).await;
        assert_eq!((status, &problem["status"]), (400, &json!(400)), "{path}");
    }
}

async fn stock_is_set_and_bad_bodies_name_the_field<B: SagaBackend>(mut world: World<B>) {
    world.order("user_123", "product_4", 7, 1);
    world.settle().await;
    let (status, product) = world
        .put("inventory", "/inventory/product_4", r#"{"stock":3}"#)
        .await;
    let expected = json!({"product_id": "product_4", "stock": 3, "reserved": 0, "sold": 7});
    assert_eq!((status, &product), (200, &expected));
    let again = world
        .put("inventory", "/inventory/product_4", r#"{"stock":3}"#)
        .await;
    assert_eq!(again, (200, expected.clone()));
    for (body, status) in [
        (r#"{"stock":-1}"#, 422),
        (r#"{"stock":1.5}"#, 422),
        (r#"{"stock":"3"}"#, 422),
        (r#"{"stock":99999999999999999999}"#, 422),
        (r#"{}"#, 422),
        (r#"{"stock":1,"color":"red"}"#, 422),
        (r#"{"stock":"#, 400),
    ] {
        let (found, problem) = world.put("inventory", "/inventory/product_4", body).await;
        assert_eq!(found, status, "{body}: {problem}");
        assert!(
            problem["errors"][0]["field"].is_string(),
            "{body}: {problem}"
        );
    }
    let unknown = world
        .put("inventory", "/inventory/product_6", r#"{"stock":3}"#)
        .await;
    assert_eq!(unknown.0, 404);
    let (_, inventory) = world.get("inventory", "/inventory").await;
    assert_eq!(inventory["products"][3], expected);
}

async fn lists_come_in_pages<B: SagaBackend>(mut world: World<B>) {
    let mut orders: Vec<String> = (0..5)
        .map(|n| world.order("user_123", "product_1", n + 1, 1).to_string())
        .collect();
    world.settle().await;
    orders.sort();
    orders.reverse();
    for (service, path, at) in [
        ("inventory", "/inventory", "/reservations"),
        ("payment", "/payments", ""),
        ("delivery", "/deliveries", ""),
        ("saga-orchestrator", "/sagas", ""),
    ] {
        let mut seen: Vec<String> = Vec::new();
        let mut query = "?limit=2".to_owned();
        loop {
            let (_, body) = world.get(service, &format!("{path}{query}")).await;
            let page = body.pointer(at).unwrap();
            let items = page["items"].as_array().unwrap();
            seen.extend(
                items
                    .iter()
                    .map(|item| item["order_id"].as_str().unwrap().to_owned()),
            );
            match &page["next"] {
                Value::String(next) => query = format!("?limit=2&before={next}"),
                Value::Number(next) => query = format!("?limit=2&before={next}"),
                _ => break,
            }
        }
        if service == "saga-orchestrator" {
            seen.sort();
            seen.reverse();
        }
        assert_eq!(seen, orders, "{service}");
    }
}

async fn an_operator_resumes_a_stuck_saga_and_no_other<B: SagaBackend>(mut world: World<B>) {
    let before = world.ledger().await;
    world.stop("payment");
    let order = world.order("user_123", "product_1", 2, 19_999);
    world.settle().await;
    // Reserved, and payment is silent: all of it is to be undone.
    world.stop("inventory");
    world.deadlines_pass().await;
    world.settle().await;
    let (_, sagas) = world
        .get("saga-orchestrator", &format!("/sagas?order_id={order}"))
        .await;
    let id: uuid::Uuid = sagas["items"][0]["saga_id"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let path = format!("/sagas/{id}/resume");
    let resume = async |world: &World<B>, path: &str, body| {
        world.operate("saga-orchestrator", "POST", path, body).await
    };
    let (status, problem) = resume(&world, &path, r#"{"by":"anna"}"#).await;
    assert_eq!(status, 409, "{problem}");
    let told = problem["detail"].as_str().unwrap();
    assert!(told.contains("compensating"), "{told}");

    world.cannot_undo(id, "inventory").await;
    for (body, status) in [("{}", 422), (r#"{"by":" "}"#, 422), ("", 400)] {
        assert_eq!(resume(&world, &path, body).await.0, status, "{body}");
    }
    let from_afar = Request::post(&path)
        .body(Body::from(r#"{"by":"eve"}"#))
        .unwrap();
    assert_eq!(world.ask("saga-orchestrator", from_afar).await.0, 403);
    let nobody = format!("/sagas/{}/resume", uuid::Uuid::nil());
    assert_eq!(resume(&world, &nobody, r#"{"by":"anna"}"#).await.0, 404);

    let (status, saga) = resume(&world, &path, r#"{"by":"anna"}"#).await;
    assert_eq!(
        (status, &saga["status"]),
        (200, &json!("compensating")),
        "{saga}"
    );
    let log = saga["events"].as_array().unwrap();
    let resumed = log.iter().find(|event| event["kind"] == "resumed").unwrap();
    assert_eq!(resumed["body"]["by"], "anna");
    assert_eq!(log.last().unwrap()["kind"], "step_cancelling");

    world.start("inventory");
    world.start("payment");
    world.settle().await;
    let (status, saga) = world
        .get("saga-orchestrator", &format!("/sagas/{id}"))
        .await;
    assert_eq!(
        (status, &saga["status"]),
        (200, &json!("compensated")),
        "{saga}"
    );
    assert_eq!(world.last_word(order).await, "order.cancelled.v1");
    assert_eq!(world.ledger().await, before);
}
