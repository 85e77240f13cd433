//! What each service shows of an order, and what it refuses.

use axum::body::Body;
use axum::http::Request;
use onceward_saga::{SagaBackend, SagaStatus};
use serde_json::{Value, json};

use crate::world::{World, on_both};

on_both!(
    every_service_shows_its_part_of_an_order, 60_000;
    stock_is_set_and_bad_bodies_name_the_field, 60_000;
    a_customer_is_made_once_and_orders_within_the_credit, 60_000;
    lists_come_in_pages, 60_000;
    an_operator_retries_a_stuck_saga, 1;
    an_operator_ends_stuck_sagas_by_rows, 1, false;
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

    let (_, customer) = world.get("customer", "/customers/user_123").await;
    let credit = [&customer["credit_limit"], &customer["reserved"]];
    assert_eq!(credit, [&json!(1_000_000.0), &json!(0.0)]);
    assert_eq!(customer["spent_minor"], 19_999);
    let (_, customers) = world.get("customer", "/customers").await;
    let users: Vec<_> = customers["items"].as_array().unwrap().iter().collect();
    assert_eq!(users.len(), 3, "{customers}");

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
        (kinds.len(), kinds[0], kinds[11]),
        (12, &json!("started"), &json!("completed"))
    );
    let timers = saga["timers"].as_array().unwrap();
    let names: Vec<_> = timers.iter().map(|timer| &timer["name"]).collect();
    assert!(
        names.contains(&&json!("deadline/delivery/0/1")),
        "{names:?}"
    );

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

async fn a_customer_is_made_once_and_orders_within_the_credit<B: SagaBackend>(mut world: World<B>) {
    const ADA: &str = r#"{"user_id":"ada / β","name":"Ada","credit_limit":10.00}"#;
    let make =
        async |world: &World<B>, body| world.operate("customer", "POST", "/customers", body).await;
    let (status, made) = make(&world, ADA).await;
    assert_eq!((status, &made["name"]), (201, &json!("Ada")), "{made}");
    assert_eq!(make(&world, ADA).await.0, 409);
    for (body, status) in [
        (r#"{"user_id":"","name":"A","credit_limit":1}"#, 422),
        (r#"{"user_id":"a","name":"A","credit_limit":-1}"#, 422),
        (r#"{"user_id":"a","name":"A","credit_limit":1e3}"#, 422),
        (r#"{"user_id":"a","name":"A"}"#, 422),
        ("[]", 400),
    ] {
        let (found, problem) = make(&world, body).await;
        assert_eq!(found, status, "{body}: {problem}");
    }
    let from_afar = Request::post("/customers").body(Body::from(ADA)).unwrap();
    assert_eq!(world.ask("customer", from_afar).await.0, 403);

    let fits = world.order("ada / β", "product_1", 1, 1_000);
    world.settle().await;
    let too_much = world.order("ada / β", "product_1", 1, 1_001);
    world.settle().await;
    assert_eq!(world.saga(fits).await.0, SagaStatus::Completed);
    let rejected = (SagaStatus::Compensated, Some(customer::EXCEEDED.to_owned()));
    assert_eq!(world.saga(too_much).await, rejected);
    // As the Location of its making says it.
    let (_, shown) = world.get("customer", "/customers/ada%20%2F%20%CE%B2").await;
    assert_eq!(shown["spent_minor"], 1_000, "{shown}");
    assert_eq!(world.get("customer", "/customers/nobody").await.0, 404);
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

/// An order whose stock is reserved and can't be released: its saga is stuck.
async fn stuck<B: SagaBackend>(world: &mut World<B>) -> (uuid::Uuid, uuid::Uuid) {
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
    let saga = sagas["items"][0]["saga_id"].as_str().unwrap();
    let saga: uuid::Uuid = saga.parse().unwrap();
    world.cannot_undo(saga, "inventory").await;
    (order, saga)
}

async fn an_operator_retries_a_stuck_saga<B: SagaBackend>(mut world: World<B>) {
    let before = world.ledger().await;
    let (order, id) = stuck(&mut world).await;
    let path = format!("/sagas/{id}/operate");
    let operate = async |world: &World<B>, path: &str, body| {
        world.operate("saga-orchestrator", "POST", path, body).await
    };
    const RETRY: &str = r#"{"verb":"retry","by":"anna","why":"ticket 4711"}"#;
    for (body, status) in [
        ("{}", 422),
        (r#"{"verb":"forget","by":"anna","why":"so"}"#, 422),
        (r#"{"verb":"retry","by":"anna","why":" "}"#, 422),
        (
            r#"{"verb":"retry","by":"anna","why":"so","step":"delivery"}"#,
            409,
        ),
        (r#"{"verb":"force-complete","by":"anna","why":"so"}"#, 409),
        (r#"{"verb":"skip","by":"anna","why":"so"}"#, 409),
        ("", 400),
    ] {
        let (found, told) = operate(&world, &path, body).await;
        assert_eq!(found, status, "{body}: {told}");
    }
    let from_afar = Request::post(&path).body(Body::from(RETRY)).unwrap();
    assert_eq!(world.ask("saga-orchestrator", from_afar).await.0, 403);
    let nobody = format!("/sagas/{}/operate", uuid::Uuid::nil());
    assert_eq!(operate(&world, &nobody, RETRY).await.0, 404);

    let (status, saga) = operate(&world, &path, RETRY).await;
    assert_eq!(
        (status, &saga["status"]),
        (200, &json!("compensating")),
        "{saga}"
    );
    let log = saga["events"].as_array().unwrap();
    let operated: Vec<_> = log.iter().filter(|e| e["kind"] == "operated").collect();
    assert_eq!(operated.len(), 1, "what was refused left no trace: {saga}");
    assert_eq!(operated[0]["body"]["by"], "anna");
    assert_eq!(operated[0]["body"]["why"], "ticket 4711");
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
    let (status, told) = operate(&world, &path, RETRY).await;
    let told = told["detail"].as_str().unwrap();
    assert!(status == 409 && told.contains("has ended"), "{told}");
}

async fn an_operator_ends_stuck_sagas_by_rows<B: SagaBackend>(mut world: World<B>) {
    let (skipped, first) = stuck(&mut world).await;
    let (forced, second) = stuck(&mut world).await;
    let asked = [
        world.request(first, "skip", Some("payment")).await,
        world.request(first, "skip", Some("inventory")).await,
        world.request(first, "retry", None).await,
        world.request(second, "force-compensate", None).await,
        world.request(second, "force-compensate", None).await,
        world.request(uuid::Uuid::nil(), "retry", None).await,
    ];
    // Two runners at once: each wish is carried out by one of them.
    let (one, other) = tokio::join!(world.carry_out_requests(), world.carry_out_requests());
    assert!(one + other >= asked.len());
    let mut became = Vec::new();
    for id in asked {
        became.push(world.request_became(id).await);
    }
    let states: Vec<_> = became.iter().map(|(state, _)| state.as_str()).collect();
    let expected = ["done", "done", "refused", "done", "refused", "refused"];
    assert_eq!(states, expected, "{became:?}");
    assert!(became[2].1.contains("has ended"), "{became:?}");
    assert!(became[5].1.contains("there is no saga"), "{became:?}");
    for order in [skipped, forced] {
        assert_eq!(world.last_word(order).await, "order.cancelled.v1");
    }
    // What was on its way is carried out after all, and changes the end of no saga.
    world.start("inventory");
    world.start("payment");
    world.settle().await;
    for order in [skipped, forced] {
        assert_eq!(world.saga(order).await.0, SagaStatus::Compensated);
        assert_eq!(world.last_word(order).await, "order.cancelled.v1");
    }
    assert_eq!(world.ledger().await.reserved, 0);
}
