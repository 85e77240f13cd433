//! What the processes tell of themselves: one trace an order, metrics as documented, logs without
//! what customers wrote, and none of it at the price of the work.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use integration_tests::{
    Client, Collector, Database, Order, PATIENCE, Result, SERVICES, Settings, Span, World,
};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::Value;
use sqlx::{Connection, SqliteConnection};

use crate::documents::{compare_metrics, root};

/// In everything a customer writes here; no log line may have it.
const MARK: &str = "marked-4111-1111";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_one_trace_and_no_log_tells_what_it_says() -> Result<()> {
    let collector = Collector::start().await?;
    let settings = Settings {
        collector: Some(collector.port()),
        log_filter: Some("debug,rdkafka=off,librdkafka=off"),
        ..Settings::default()
    };
    let mut world = World::start(Database::Sqlite, settings).await?;
    let client = world.client();

    a_trace_from_outside_is_continued_to_the_end(&client, &collector).await?;
    an_order_without_one_starts_its_own(&client, &collector).await?;
    marked_orders(&world, &client).await?;
    metrics_are_as_documented(&client).await?;
    a_frozen_collector_holds_nobody_up(&mut world, &client, &collector).await?;
    logs_are_json_and_tell_nothing_private(&world)
}

async fn a_trace_from_outside_is_continued_to_the_end(
    client: &Client,
    collector: &Collector,
) -> Result<()> {
    let (trace, caller) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let header = format!("00-{trace}-{caller}-01");
    let id = order_with(client, &[("traceparent", &header)]).await?;
    client.wait_for(&id, "completed", PATIENCE).await?;
    let last = |spans: &[Span]| {
        let done = |s: &&Span| s.name == "process order.completed" && s.trace_id == trace;
        spans.iter().find(done).cloned()
    };
    collector
        .wait_for("the end of the order's trace", last)
        .await?;
    // What ends later than its children is exported later.
    let spans = collector.wait_for("the whole chain", |spans| chain(spans, trace, caller).ok());
    if let Err(error) = spans.await {
        let spans = collector.spans(|_| true);
        return chain(&spans, trace, caller).map_err(|why| error.context(why));
    }
    Ok(())
}

/// The order's way: request, then per hop the append, the publishing and the handling.
fn chain(spans: &[Span], trace: &str, caller: &str) -> Result<()> {
    let mut at = one(spans, "POST /orders", |s| {
        s.trace_id == trace && s.parent == caller
    })?;
    anyhow::ensure!(
        at.kind == SpanKind::Server && at.service == "order",
        "{at:?}"
    );
    anyhow::ensure!(at.get("http.response.status_code") == "201", "{at:?}");
    at = hop(spans, at, ("order.created", "order", "saga-orchestrator"))?;
    // Both are asked at once; the later answer is what the saga goes on by.
    let mut answers = Vec::new();
    for asked in ["customer", "inventory"] {
        let (request, answer) = (
            format!("{asked}.validate.request"),
            format!("{asked}.validated"),
        );
        let request = hop(spans, at, (&request, "saga-orchestrator", asked))?;
        answers.push(hop(spans, request, (&answer, asked, "saga-orchestrator"))?);
    }
    let leads_on = |answer: &&&Span| {
        let next = "create inventory.reserve";
        child(spans, answer, next, "saga-orchestrator").is_ok()
    };
    let on: Vec<_> = answers.iter().filter(leads_on).collect();
    anyhow::ensure!(on.len() == 1, "{on:?} of {answers:?}");
    at = on[0];
    for (topic, from, to) in [
        ("inventory.reserve", "saga-orchestrator", "inventory"),
        ("inventory.reserved", "inventory", "saga-orchestrator"),
        ("payment.process", "saga-orchestrator", "payment"),
        ("payment.completed", "payment", "saga-orchestrator"),
        ("delivery.schedule", "saga-orchestrator", "delivery"),
        ("delivery.scheduled", "delivery", "saga-orchestrator"),
        ("order.completed", "saga-orchestrator", "order"),
    ] {
        at = hop(spans, at, (topic, from, to))?;
    }
    Ok(())
}

/// A message from one service to another, led to by what `at` handled; what handles it.
fn hop<'a>(
    spans: &'a [Span],
    at: &Span,
    (topic, from, to): (&str, &str, &str),
) -> Result<&'a Span> {
    let create = child(spans, at, &format!("create {topic}"), from)?;
    anyhow::ensure!(create.kind == SpanKind::Producer, "{create:?}");
    let send = child(spans, create, &format!("send {topic}"), "outbox-relay")?;
    anyhow::ensure!(send.kind == SpanKind::Client, "{send:?}");
    linked_batch(spans, send, create, &format!("send {from}"))?;
    let process = child(spans, create, &format!("process {topic}"), to)?;
    anyhow::ensure!(process.kind == SpanKind::Consumer, "{process:?}");
    let group = process.get("messaging.consumer.group.name");
    linked_batch(spans, process, create, &format!("process {group}"))?;
    for (span, operation) in [(create, "create"), (send, "send"), (process, "process")] {
        for (name, value) in [
            ("messaging.system", "kafka"),
            ("messaging.destination.name", topic),
            ("messaging.operation.name", operation),
            ("messaging.operation.type", operation),
            ("messaging.message.id", create.get("messaging.message.id")),
        ] {
            anyhow::ensure!(span.get(name) == value, "{name} must be {value}: {span:?}");
        }
    }
    Ok(process)
}

fn one<'a>(spans: &'a [Span], name: &str, wanted: impl Fn(&Span) -> bool) -> Result<&'a Span> {
    let found = spans.iter().find(|span| span.name == name && wanted(span));
    found.ok_or_else(|| {
        let near: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
        anyhow::anyhow!("no such {name:?}; of that name there are {near:#?}")
    })
}

/// A message may have many consumers, and a handler more than one try.
fn child<'a>(spans: &'a [Span], of: &Span, name: &str, service: &str) -> Result<&'a Span> {
    one(spans, name, |span| {
        (&span.trace_id, &span.parent) == (&of.trace_id, &of.span_id)
            && span.service == service
            && !span.failed
    })
}

/// The batch a message's span was part of: in a trace of its own, and linked both ways.
fn linked_batch(spans: &[Span], member: &Span, message: &Span, name: &str) -> Result<()> {
    let batch = one(spans, name, |batch| member.links_to(batch))?;
    anyhow::ensure!(
        batch.trace_id != member.trace_id && batch.parent.is_empty(),
        "{batch:?}"
    );
    anyhow::ensure!(
        batch.links_to(message),
        "no link to {message:?} in {batch:?}"
    );
    anyhow::ensure!(
        !batch.get("messaging.batch.message_count").is_empty(),
        "{batch:?}"
    );
    Ok(())
}

async fn an_order_without_one_starts_its_own(client: &Client, collector: &Collector) -> Result<()> {
    let story = "0190b4a0-0000-7000-8000-00000000abcd";
    // Broken, so it counts as none.
    let headers = [("correlation-id", story), ("traceparent", "00-1234-56-01")];
    let id = order_with(client, &headers).await?;
    client.wait_for(&id, "completed", PATIENCE).await?;
    let conversation = "messaging.message.conversation_id";
    let last = |spans: &[Span]| {
        let done = |s: &&Span| s.name == "process order.completed" && s.get(conversation) == story;
        spans.iter().find(done).cloned()
    };
    let last = collector
        .wait_for("the end of the second order", last)
        .await?;
    let of_story = collector.spans(|s| s.get(conversation) == story);
    let traces: BTreeSet<&str> = of_story.iter().map(|s| s.trace_id.as_str()).collect();
    assert_eq!(traces, BTreeSet::from([last.trace_id.as_str()]));
    let request = collector
        .wait_for("the second order's request", |spans| {
            let ours = |s: &&Span| s.name == "POST /orders" && s.get("correlation.id") == story;
            spans.iter().find(ours).cloned()
        })
        .await?;
    assert_eq!(
        (request.trace_id, request.parent),
        (last.trace_id, String::new())
    );
    Ok(())
}

async fn order_with(client: &Client, headers: &[(&str, &str)]) -> Result<String> {
    let (status, body) = client.post_order_with(&Order::default(), headers).await?;
    anyhow::ensure!(status == 201, "POST /orders: {status} {body}");
    Ok(body["order_id"].as_str().unwrap_or_default().to_owned())
}

/// Everything a customer or a stranger can write somewhere, once.
async fn marked_orders(world: &World, client: &Client) -> Result<()> {
    for (user, product, key) in [
        (MARK, "product_1", format!("key-{MARK}")),
        ("user_declined", MARK, format!("other-{MARK}")),
    ] {
        let order = Order {
            user_id: user.into(),
            product_id: product.into(),
            quantity: 1,
            ..Order::default()
        };
        let (status, body) = client.post_order(&order, Some(&key)).await?;
        if status == 201 {
            let id = body["order_id"].as_str().unwrap_or_default();
            client.wait_for_end(id, PATIENCE).await?;
        }
    }
    for body in [
        format!("{{\"user_id\":\"{MARK}\",\"quantity\":\"{MARK}\",\"{MARK}\":1}}"),
        format!("{{\"user_id\": {MARK}"),
    ] {
        assert!(client.post_raw("order", "/orders", body).await? >= 400);
    }
    // A command that no handler can read.
    let path = world.database("order").trim_start_matches("sqlite://");
    let mut database = SqliteConnection::connect(path).await?;
    sqlx::query(
        "insert into outbox (message_id, aggregate_type, aggregate_id, message_type, topic, \
         message_key, payload, headers, occurred_at) values (randomblob(16), 'order', $1, \
         'payment.process.v1', 'payment.process', $1, $2, '{}', 0)",
    )
    .bind(MARK)
    .bind(format!("\"{MARK}\"").into_bytes())
    .execute(&mut database)
    .await?;
    database.close().await?;
    let dead = "onceward_consumer_dead_letters_total{consumer=\"payment-service-group\"";
    let deadline = Instant::now() + PATIENCE;
    while !client.text("payment", "/metrics").await?.contains(dead) {
        anyhow::ensure!(
            Instant::now() < deadline,
            "the unreadable command is not dead"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

async fn metrics_are_as_documented(client: &Client) -> Result<()> {
    // One that everybody hears of who has not yet: the pipeline ships.
    let order = Order {
        saga: Some("choreography"),
        choreography: Some("pipeline"),
        ..Order::default()
    };
    let id = client.order(&order).await?;
    client.wait_for(&id, "completed", PATIENCE).await?;
    for process in SERVICES.into_iter().chain(["relay"]) {
        let expected = [
            match process {
                "relay" => "onceward_relay_published_records_total",
                _ => "onceward_consumer_handled_total",
            },
            "onceward_trace_exported_spans_total",
        ];
        // An order does not wait for those that only listen.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let shown = client.text(process, "/metrics").await?;
            let names = compare_metrics(process, &shown)?;
            if expected.iter().all(|name| names.contains(*name)) {
                break;
            }
            let late = Instant::now() > deadline;
            anyhow::ensure!(!late, "{process} shows only {names:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(())
}

async fn a_frozen_collector_holds_nobody_up(
    world: &mut World,
    client: &Client,
    collector: &Collector,
) -> Result<()> {
    collector.freeze();
    for _ in 0..10 {
        let id = client.order(&Order::default()).await?;
        client.wait_for(&id, "completed", PATIENCE).await?;
    }
    for name in ["relay", "order", "payment"] {
        let took = world.stop(name)?;
        println!("{name} stopped in {took:?} with spans that nobody takes");
        let most = match name {
            // Its own promise.
            "relay" => Duration::from_secs(2),
            // A second for the spans; the rest is the consumer's farewell on a busy machine.
            _ => Duration::from_secs(4),
        };
        anyhow::ensure!(took < most, "{name} took {took:?} to stop");
    }
    Ok(())
}

fn logs_are_json_and_tell_nothing_private(world: &World) -> Result<()> {
    let dictionary = std::fs::read_to_string(root().join("docs/LOGGING.md"))?;
    let documented: BTreeSet<&str> = dictionary.split('`').skip(1).step_by(2).collect();
    let mut strange: BTreeMap<String, String> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for name in SERVICES.into_iter().chain(["relay"]) {
        let log = world.log(name)?;
        anyhow::ensure!(!log.is_empty(), "{name} logged nothing");
        for line in log.lines() {
            anyhow::ensure!(
                !line.contains(MARK),
                "{name} logged what a customer wrote: {line}"
            );
            let Ok(Value::Object(event)) = serde_json::from_str(line) else {
                anyhow::bail!("{name}: a line that is no JSON object: {line}");
            };
            let target = event["target"].as_str().unwrap_or_default();
            let spans = event.get("spans").and_then(Value::as_array);
            for span in spans.into_iter().flatten() {
                let kind = span["name"].as_str().unwrap_or_default();
                seen.insert(kind.to_owned());
                let story = span["correlation.id"].as_str().unwrap_or_default();
                anyhow::ensure!(
                    !story.is_empty(),
                    "{name}: a span without correlation: {line}"
                );
            }
            if !OURS.iter().any(|ours| target.starts_with(ours)) {
                continue; // others' dictionaries are theirs
            }
            let fields = event.keys().chain(
                spans
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_object)
                    .flat_map(|span| span.keys()),
            );
            for field in fields.filter(|field| !documented.contains(field.as_str())) {
                strange.insert(field.clone(), format!("{name}: {line}"));
            }
        }
    }
    anyhow::ensure!(
        strange.is_empty(),
        "fields that docs/LOGGING.md does not tell (add them to its table of fields): {strange:#?}"
    );
    anyhow::ensure!(
        seen.contains("inbox.handle"),
        "no line of a handler among the logs: {seen:?}"
    );
    let dead = world.log("payment")?;
    let dead = dead.lines().find(|line| line.contains("dead letter"));
    anyhow::ensure!(
        dead.is_some_and(|line| line.contains("Data error at line 1")),
        "{dead:?}"
    );
    Ok(())
}

/// Crates whose log lines the dictionary tells.
const OURS: [&str; 14] = [
    "onceward",
    "outbox_relay",
    "skeleton",
    "shop",
    "order",
    "customer",
    "inventory",
    "payment",
    "delivery",
    "shipping",
    "analytics",
    "notification",
    "saga_orchestrator",
    "contracts",
];
