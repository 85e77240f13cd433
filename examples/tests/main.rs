//! Every example runs as a user would run it, on one real Kafka and one real Postgres.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests end by panicking"
)]

mod program;
mod topic;

use onceward_kafka::{KafkaBroker, KafkaConfig};
use onceward_testkit::{kafka, postgres, wait};
use program::{Program, at_most, place, readyz};
use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};

const BEFORE: &str = include_str!("../axum-postgres/before.rs");
const AFTER: &str = include_str!("../axum-postgres/after.rs");

#[test]
fn an_existing_axum_service_takes_an_outbox_in_at_most_15_added_lines() {
    let diff = TextDiff::from_lines(BEFORE, AFTER);
    let count = |tag| diff.iter_all_changes().filter(|c| c.tag() == tag).count();
    // A changed line is one taken away and one added.
    let (added, removed) = (count(ChangeTag::Insert), count(ChangeTag::Delete));
    let unified = diff.unified_diff().context_radius(1).to_string();
    assert!(
        added <= 15 && removed <= 2,
        "+{added} -{removed}\n{unified}"
    );
    let readme = include_str!("../README.md");
    assert!(
        readme.contains(&unified),
        "README.md shows another diff than\n{unified}"
    );
}

/// The revenue as the consumer's database has it.
fn revenue(url: &str) -> onceward_testkit::Result<(i64, i64)> {
    program::query(url, "select orders, amount_minor from revenue")
}

#[test]
fn orders_of_both_shops_count_exactly_once_whoever_is_killed() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let server = postgres::shared().unwrap();
    let databases = [(); 2].map(|()| server.create_database().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = format!("sqlite://{}/shop.db?mode=rwc", folder.path().display());
    let mut shop = Program::new("axum-postgres", &databases[0], &kafka);
    let mut other_shop = Program::new("axum-sqlite", &file, &kafka);
    let mut books = Program::new("consume-once", &databases[1], &kafka);
    shop.start();
    other_shop.start();
    books.start();
    for number in 1..=6 {
        place(&shop, number);
        place(&other_shop, 100 * number);
        // The relay lives in the shop: whatever it was doing, it is cut off in it.
        match number {
            2 => shop.kill9_and_restart(),
            3 | 5 => books.kill9_and_restart(),
            4 => other_shop.kill9_and_restart(),
            _ => {}
        }
    }
    let expected = (12, (1..=6).map(|number| 101 * number).sum());
    wait::until("the revenue of all orders", at_most(), || {
        let found = revenue(&databases[1]).unwrap_or_default();
        assert!(found.1 <= expected.1, "{found:?} is more than was sold");
        Ok((found == expected).then_some(()))
    })
    .unwrap_or_else(|e| panic!("{e}\n{}\n{}\n{}", shop.log(), other_shop.log(), books.log()));
    for (source, sum) in [("shop", 21), ("sqlite-shop", 2_100)] {
        let records = topic::read(&kafka, "order.placed", source);
        let sold = records.iter().map(|r| r.payload["amount_minor"].as_i64());
        assert_eq!((records.len(), sold.sum()), (6, Some(sum)), "{source}");
    }
    assert_eq!(readyz(&other_shop), 200);
    other_shop.terminate();
}

#[test]
fn a_trip_is_booked_or_undone() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/trips.db?mode=rwc", folder.path().display());
    let said = Program::new("trip-saga", &url, &kafka).run();
    let expected = "trip 1: completed \n\
                    trip 2: compensated the card was declined\n\
                    seats left: 1\n";
    assert_eq!(said, expected);
}

#[test]
fn messages_go_where_they_are_routed_with_the_headers_they_were_given() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/routing.db?mode=rwc", folder.path().display());
    let said = Program::new("routing", &url, &kafka).run();
    assert_eq!(said, "4 messages published\n");

    let orders = topic::read(&kafka, "acme.orders", "routing");
    let numbers: Vec<&Value> = orders.iter().map(|r| &r.payload["number"]).collect();
    assert_eq!(numbers, [&json!(1), &json!(2)], "in the customer's order");
    for record in &orders {
        assert_eq!(record.key.as_deref(), Some("ada"));
        assert_eq!(record.headers["tenant"], "acme");
        assert_eq!(record.headers["ce_type"], "order.placed.v1");
    }
    let large = topic::read(&kafka, "acme.orders.large", "routing");
    assert_eq!(large.len(), 1);
    assert_eq!(large[0].payload["number"], 3);
    let clicks = topic::read(&kafka, "acme.clicks", "routing");
    assert_eq!(clicks.len(), 1);
    assert_eq!(clicks[0].key, None);
}

#[test]
fn a_tenth_service_grants_points_once_in_whatever_order_it_hears() {
    let kafka = kafka::shared().unwrap().bootstrap();
    let broker = KafkaBroker::new(KafkaConfig::plaintext(&kafka)).unwrap();
    let topics = ["order.created", "order.completed"];
    program::block_on(broker.make_topics(topics, 3, 1)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/loyalty.db?mode=rwc", folder.path().display());
    let mut loyalty = Program::new("loyalty", &url, &kafka);
    loyalty.start();
    let order = |number: u32| format!("00000000-0000-7000-8000-{number:012}");
    let created = |number: u32| {
        // More than this service reads.
        let told = json!({
            "order_id": order(number), "user_id": "ada", "amount_minor": 19_999, "quantity": 2,
        });
        topic::publish(&kafka, "order.created", number, &told);
    };
    let completed = |number: u32| {
        let told = json!({"order_id": order(number)});
        topic::publish(&kafka, "order.completed", 100 + number, &told);
    };
    let has = |loyalty: &Program, points: &str| {
        let all = wait::until("the points", at_most(), || {
            let found = loyalty.get("/points/ada");
            Ok((found.as_deref() == Some(points)).then_some(()))
        });
        all.unwrap_or_else(|e| panic!("{e}\n{}", loyalty.log()));
    };
    created(1);
    completed(1);
    has(&loyalty, "199");
    // The other way round, a repeated message, and an order that never completes.
    completed(2);
    completed(1);
    created(3);
    loyalty.kill9_and_restart();
    created(2);
    has(&loyalty, "398");
    let told = wait::until("what it says", at_most(), || {
        let told = topic::read(&kafka, "points.granted", "loyalty");
        Ok((told.len() >= 2).then_some(told))
    });
    let told = told.unwrap();
    let told: Vec<_> = told
        .iter()
        .map(|r| (r.key.as_deref(), &r.payload))
        .collect();
    let grant = |number| json!({"user_id": "ada", "order_id": order(number), "points": 199});
    assert_eq!(told, [(Some("ada"), &grant(1)), (Some("ada"), &grant(2))]);
}

#[test]
fn the_tutorial_shows_the_tenth_service_in_under_100_lines() {
    let (program, page) = (
        include_str!("../loyalty/main.rs"),
        include_str!("../../docs/TUTORIAL.md"),
    );
    let blocks = page.split("```rust\n").skip(1);
    let blocks = blocks.filter_map(|block| block.split("\n```").next());
    let shown: Vec<&str> = blocks.collect();
    assert_eq!(shown.join("\n\n"), program.trim_end());
    let lines = program.lines().map(str::trim);
    let count = lines
        .filter(|line| !line.is_empty() && !line.starts_with("//"))
        .count();
    assert!(count < 100, "{count} lines");
    assert!(page.contains(&format!("in {count} lines of Rust")));
}
