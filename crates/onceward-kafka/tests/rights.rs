//! The rules of docs/SECURITY.md on a real authorizer: with them all works, and without each single
//! one somebody says which is missing.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use onceward::SourceName;
use onceward::publisher::{Broker, PublishOutcome, Publisher};
use onceward_kafka::{KafkaBroker, KafkaConfig, SaslMechanism, SecurityProtocol};
use onceward_testkit::acl::{Acl, Resource};
use onceward_testkit::secure::{self, SecureKafka, password};

use crate::consumer::joins;
use crate::support::{Row, batch, progress};

const DATA_TOPICS: [&str; 18] = [
    "order.created",
    "order.completed",
    "customer.validate.request",
    "inventory.validate.request",
    "inventory.reserve",
    "inventory.release",
    "payment.process",
    "payment.refund",
    "delivery.schedule",
    "order-created",
    "order-timed-out",
    "payment-processed",
    "inventory-updated",
    "pipeline.order_paid",
    "pipeline.delivery_failed",
    "pipeline.order_timed_out",
    "high_priority_notifications",
    "low_priority_notifications",
];

/// The lines of the document that add rules for this user.
fn lines_for(user: &str) -> Vec<String> {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/SECURITY.md");
    let text = std::fs::read_to_string(document).unwrap();
    let principal = format!("--allow-principal User:{user} ");
    let lines = text.lines().filter(|line| line.starts_with("acl "));
    let found: Vec<String> = lines
        .filter(|line| line.contains(&principal))
        .map(|line| format!("--add {}", &line["acl ".len()..]))
        .collect();
    assert!(!found.is_empty(), "{document} has no rule for {user}");
    found
}

fn rules_for(user: &str) -> Vec<Acl> {
    let lines = lines_for(user);
    let rules = lines.iter().map(|line| Acl::of_command(line).unwrap());
    rules.flatten().collect()
}

fn config(kafka: &SecureKafka, user: &str) -> KafkaConfig {
    KafkaConfig {
        bootstrap_servers: kafka.sasl(),
        security_protocol: Some(SecurityProtocol::SaslSsl),
        ca_file: Some(kafka.ca_file().to_owned()),
        sasl_mechanism: Some(SaslMechanism::ScramSha512),
        username: Some(user.to_owned()),
        password: Some(password(user).into()),
        ..KafkaConfig::default()
    }
}

/// By Kafka's own tool, as a person would.
fn add_by_tool(kafka: &SecureKafka, user: &str) {
    let super_user = kafka.super_user();
    std::thread::scope(|scope| {
        for line in lines_for(user) {
            let super_user = &super_user;
            scope.spawn(move || {
                let mut words = vec!["--bootstrap-server", super_user.as_str()];
                words.extend(line.split_whitespace());
                let tool = "org.apache.kafka.tools.AclCommand";
                kafka.kafka().run_tool(tool, &words).unwrap();
            });
        }
    });
}

async fn kafka() -> &'static SecureKafka {
    let started = tokio::task::spawn_blocking(secure::shared).await.unwrap();
    started.unwrap()
}

/// A name no other life has: its progress topic is not there yet.
fn new_source() -> SourceName {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    SourceName::new(format!("rights{}", NEXT.fetch_add(1, Ordering::Relaxed))).unwrap()
}

/// All that a relay does: what is in its way, if anything is.
async fn relays(broker: &KafkaBroker, topics: &[&str]) -> Result<(), String> {
    let source = new_source();
    let told = |error: onceward::publisher::BrokerError| error.to_string();
    broker.ensure_progress_topic(&source).await.map_err(told)?;
    publishes(broker, &source, topics).await
}

async fn publishes(
    broker: &KafkaBroker,
    source: &SourceName,
    topics: &[&str],
) -> Result<(), String> {
    let told = |error: onceward::publisher::BrokerError| error.to_string();
    broker.look(source, None).await.map_err(told)?;
    let mut publisher = broker.open(source).await.map_err(told)?;
    let names = topics.iter().map(|topic| (*topic).to_owned()).collect();
    broker.topics(names).await.map_err(told)?;
    let rows = topics.iter().map(|topic| Row {
        topic: (*topic).into(),
        partition: 0,
        payload: b"{}".to_vec(),
    });
    match publisher.publish(&batch(rows), &progress(1)).await {
        PublishOutcome::Committed { .. } => {}
        PublishOutcome::NotCommitted(refusal) => return Err(refusal.to_string()),
        other => return Err(format!("{other:?}")),
    }
    broker.read_progress(source, None).await.map_err(told)?;
    Ok(())
}

/// Whether it is told that this rule is missing; the resource's name may go on behind its prefix. Of
/// several topics in one transaction Kafka does not say which it refused: all are named.
fn names(told: &str, rule: &Acl) -> bool {
    let resource = match rule.resource {
        Resource::Topic => "topic",
        Resource::Group => "group",
        Resource::TransactionalId => "transactional id",
    };
    let says =
        |operation: &str| told.contains(&format!("needs the ACL {operation} on {resource} "));
    // Who may neither read nor write a topic doesn't even see it.
    let sees_not = rule.resource == Resource::Topic && says("DESCRIBE");
    (says(&rule.operation) || sees_not) && told.contains(&format!("{resource} {}", rule.name))
}

/// Takes each rule away, expects to be told which one is missing, and gives it back.
async fn each_is_needed<F: Future<Output = Result<(), String>>>(
    kafka: &SecureKafka,
    rules: &[Acl],
    life: impl Fn() -> F,
) -> Vec<String> {
    let mut failed = Vec::new();
    for rule in rules {
        kafka.disallow(rule).unwrap();
        // The authorizer hears of it a moment after the answer.
        let begun = Instant::now();
        let told = loop {
            match life().await {
                Err(told) => break told,
                Ok(()) if begun.elapsed() < Duration::from_secs(5) => {}
                Ok(()) => break "all works".to_owned(),
            }
        };
        println!("without {rule}:\n    {told}");
        if !names(&told, rule) {
            failed.push(format!("without {rule}: {told}"));
        }
        kafka.allow(rule).unwrap();
    }
    let begun = Instant::now();
    while let Err(told) = life().await {
        if begun.elapsed() > Duration::from_secs(60) {
            failed.push(format!("with all rules: {told}"));
            break;
        }
    }
    failed
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rule_of_the_document_is_needed_and_all_are_enough() {
    let kafka = kafka().await;
    // As Kafka's tool understands them.
    tokio::task::block_in_place(|| add_by_tool(kafka, "relay"));
    let users = [
        "setup",
        "order",
        "inventory",
        "payment",
        "delivery",
        "shipping",
        "customer",
        "analytics",
        "notification",
        "saga-orchestrator",
    ];
    for rule in users
        .into_iter()
        .chain(["onceward", "operator"])
        .flat_map(rules_for)
    {
        kafka.allow(&rule).unwrap();
    }

    let setup = KafkaBroker::new(config(kafka, "setup")).unwrap();
    let fresh = AtomicU32::new(0);
    let makes = || async {
        let number = fresh.fetch_add(1, Ordering::Relaxed);
        let kinds = [
            "order.",
            "inventory.",
            "payment.",
            "delivery.",
            "customer.",
            "order-",
            "inventory-",
            "payment-",
            "pipeline.",
            "high_priority_notifications",
            "low_priority_notifications",
        ];
        let names = kinds.map(|kind| format!("{kind}fresh{number}")).to_vec();
        let made = setup.make_topics(names, 1, 1).await;
        made.map(drop).map_err(|error| error.to_string())
    };
    let mut failed = each_is_needed(kafka, &rules_for("setup"), makes).await;
    let names = DATA_TOPICS.map(str::to_owned).to_vec();
    setup.make_topics(names, 1, 1).await.unwrap();

    let relay = KafkaBroker::new(config(kafka, "relay")).unwrap();
    let operator = KafkaBroker::new(config(kafka, "operator")).unwrap();
    let source = new_source();
    relay.ensure_progress_topic(&source).await.unwrap();
    let works = || relays(&relay, &DATA_TOPICS);
    let resets = || async {
        operator
            .ensure_progress_topic(&source)
            .await
            .map_err(|error| error.to_string())?;
        publishes(&operator, &source, &[]).await
    };

    let onceward = KafkaBroker::new(config(kafka, "onceward")).unwrap();
    let looking: Vec<Acl> = rules_for("onceward")
        .into_iter()
        .filter(|rule| rule.name.starts_with("outbox."))
        .collect();
    let looks = || async {
        let looked = onceward.look(&source, None).await;
        looked.map(drop).map_err(|error| error.to_string())
    };

    let inventory = rules_for("inventory");
    let topics: BTreeSet<&str> = inventory
        .iter()
        .filter(|rule| rule.resource == Resource::Topic)
        .map(|rule| rule.name.as_str())
        .collect();
    let consumes = || {
        joins(
            config(kafka, "inventory"),
            "inventory-service-group",
            &topics,
        )
    };
    // Each has rules of its own, and most of the time is waiting.
    let (for_relay, for_operator) = (rules_for("relay"), rules_for("operator"));
    let side_by_side = tokio::join!(
        each_is_needed(kafka, &for_relay, works),
        each_is_needed(kafka, &for_operator, resets),
        each_is_needed(kafka, &looking, looks),
        each_is_needed(kafka, &inventory, consumes),
    );
    failed.extend(<[_; 4]>::from(side_by_side).concat());
    assert!(failed.is_empty(), "{failed:#?}");
}
