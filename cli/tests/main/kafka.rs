//! What needs a broker: lag, places of records, verify, reset.

use std::sync::Arc;

use onceward::publisher::{Broker as _, PublishOutcome, Publisher as _, Records};
use onceward::{ProgressRecord, SourceName};
use onceward_kafka::{KafkaBroker, KafkaConfig};
use onceward_testkit::kafka;

use crate::fixture::{Said, Shop, T0, id, onceward_in, outbox};

/// Runs the command on one source of the shop, with Kafka.
fn on(shop: &Shop, source: &str, arguments: &[&str]) -> Said {
    let named = format!("{source}={}", shop.url(source));
    let broker = kafka::shared().unwrap().bootstrap();
    let mut all = arguments.to_vec();
    all.extend(["--database", &named, "--kafka", &broker]);
    onceward_in(shop.folder(), &all)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn broker() -> KafkaBroker {
    let config = KafkaConfig::plaintext(kafka::shared().unwrap().bootstrap());
    KafkaBroker::new(config).unwrap()
}

/// Publishes row 1 of a source as a relay would, at this position.
async fn publish_row_1(source: &str, source_id: &str, topic: &str, position: i64) {
    let name = SourceName::new(source).unwrap();
    let broker = broker();
    broker.ensure_progress_topic(&name).await.unwrap();
    let mut publisher = broker.open(&name).await.unwrap();
    let mut records = Records::new(T0 / 1000);
    let to = records.add_destination(topic.into(), 0);
    let payload = b"{\"order_id\":\"order-1\"}";
    records.push(to, Some(b"order-1"), payload, |headers| {
        headers.add("ce_id", id(1).as_bytes());
        headers.add("ce_source", source.as_bytes());
        headers.add("onceward-position", position.to_string().as_bytes());
        headers.add("onceward-previous-position", b"0");
    });
    let progress = serde_json::json!({ "format": 1, "source_id": source_id, "epoch": 1,
        "cursor": { "seq": 1 }, "position": position, "passed": 1,
        "id_sum": id(1).replace('-', ""), "last": { "seq": 1, "message_id": id(1) },
        "partitions": { topic: { "0": position } } });
    let progress: ProgressRecord = serde_json::from_value(progress).unwrap();
    let outcome = publisher.publish(&Arc::new(records), &progress).await;
    assert!(
        matches!(outcome, PublishOutcome::Committed { .. }),
        "{outcome:?}"
    );
}

#[test]
fn with_kafka_status_counts_lag_and_trace_finds_records_and_verify_judges() {
    let shop = Shop::on_sqlite();
    let nothing = on(&shop, "order", &["verify"]);
    assert_eq!(nothing.exit.code(), 2, "{}", nothing.all());
    shop.execute("order", &outbox(1, "order.created.v1", "order-1", None, 0));
    shop.execute("order", &outbox(2, "order.created.v1", "order-2", None, 5));
    let broker = kafka::shared().unwrap();
    let tool = "org.apache.kafka.tools.TopicCommand";
    let address = broker.bootstrap();
    let words = [
        "--bootstrap-server",
        &address,
        "--create",
        "--topic",
        "order.created",
    ];
    broker.run_tool(tool, &words).unwrap();
    runtime().block_on(publish_row_1("order", &id(900), "order.created", 1));

    let clean = on(&shop, "order", &["verify"]);
    assert_eq!(clean.exit.code(), 0, "{}", clean.all());
    insta::assert_snapshot!("verify_clean", clean.all());
    let status = on(&shop, "order", &["status"]);
    insta::assert_snapshot!("status_with_Kafka", status.all());
    assert_eq!(on(&shop, "order", &["source", "check"]).exit.code(), 0);
    // The mirror was never written, so the row counts as pending until Kafka is asked.
    shop.execute(
        "order",
        "insert into outbox_progress (id, epoch, cursor, position, passed, id_sum, \
         progress_offset, topic_id, cluster_id, updated_at) values (1, 1, '{\"seq\":1}', 1, 1, \
         id:1 , 0, 't', 'c', 0)",
    );
    let trace = on(&shop, "order", &["message", "trace", "order-1"]);
    // At offset 0, or behind a try that was aborted because the topic was so new.
    assert!(
        trace.out.contains("topic   order.created/0@"),
        "{}",
        trace.all()
    );

    // A row that the relay passed vanishes with its record: the database was swapped.
    shop.execute("order", "delete from outbox where seq = 1");
    let broken = on(&shop, "order", &["verify"]);
    assert_eq!(broken.exit.code(), 1, "{}", broken.all());
    insta::assert_snapshot!("verify_broken", broken.all());
    let check = on(&shop, "order", &["source", "check"]);
    assert_eq!(check.exit.code(), 1);
    assert!(check.out.contains("here it is missing"), "{}", check.out);
}

fn accepts_a_loss(shop: &Shop, topic: &str) {
    let made = runtime().block_on(broker().make_topics([topic], 1, 1));
    made.unwrap();
    let partition = format!("{topic}/0");
    let group = "losing-group";
    let accept = |more: &[&str]| {
        let words = ["consumer", "accept-loss", "--consumer", group, &partition];
        on(shop, "inventory", &[&words[..], more].concat())
    };
    let unknown = accept(&[]);
    assert_eq!(unknown.exit.code(), 2, "{}", unknown.all());
    let row = format!(
        "insert into consumer_offset (consumer, topic, topic_id, partition, next_offset, stopped, \
         updated_at) values ('{group}', '{topic}', 'another', 0, 7, null, T+1)"
    );
    shop.execute("inventory", &row);
    let letter = format!(
        "insert into inbox_dead_letter (consumer, topic, partition, record_offset, ce_source, ce_id, \
         headers, payload, attempts, reason, died_at) values ('{group}', '{topic}', 0, 3, '', 'x', \
         '[]', bytes:{{}}, 1, 'no', T+1)"
    );
    shop.execute("inventory", &letter);
    let runs = accept(&["--yes-lose-records"]);
    assert_eq!(runs.exit.code(), 1, "{}", runs.all());
    assert!(runs.err.contains("is not stopped"), "{}", runs.err);
    let stop = format!("update consumer_offset set stopped = 'gone' where consumer = '{group}'");
    shop.execute("inventory", &stop);
    let unsure = accept(&[]);
    assert_eq!(unsure.exit.code(), 1, "{}", unsure.all());
    assert!(unsure.err.contains("was made anew"), "{}", unsure.err);
    assert!(unsure.err.contains("--yes-lose-records"), "{}", unsure.err);
    let done = accept(&["--yes-lose-records"]);
    assert_eq!(done.exit.code(), 0, "{}", done.all());
    let wanted = format!(
        "select 1 / (case when count(*) = 1 then 1 else 0 end) from consumer_offset o join \
         inbox_dead_letter d on d.consumer = o.consumer where o.consumer = '{group}' and \
         o.next_offset = 0 and o.stopped is null and o.topic_id <> 'another' and d.record_offset = -1"
    );
    shop.execute("inventory", &wanted);
    let typo = on(
        shop,
        "inventory",
        &["consumer", "accept-loss", "--consumer", group, "x"],
    );
    assert_eq!(typo.exit.code(), 64, "{}", typo.all());
}

#[test]
fn what_a_log_has_lost_is_accepted_once_it_is_acknowledged() {
    accepts_a_loss(&Shop::on_sqlite(), "lossy-sqlite");
    accepts_a_loss(&Shop::on_postgres(), "lossy-postgres");
}

fn resets(shop: &Shop, source: &str) {
    let early = on(shop, source, &["source", "adopt", source, "--yes"]);
    assert_eq!(early.exit.code(), 1, "{}", early.all());
    assert!(early.err.contains("no progress of it"), "{}", early.err);
    let unsure = on(shop, source, &["source", "reset", source]);
    assert_eq!(unsure.exit.code(), 1);
    assert!(unsure.err.contains("--yes"), "{}", unsure.err);
    let first = on(shop, source, &["source", "reset", source, "--yes"]);
    assert_eq!(first.exit.code(), 0, "{}", first.all());
    assert!(
        first
            .out
            .starts_with(&format!("{source} is in epoch 2 now")),
        "{}",
        first.out
    );
    let check = on(shop, source, &["source", "check"]);
    assert_eq!(check.exit.code(), 0, "{}", check.all());

    // Died between Kafka and the database: the database is still in the old epoch.
    shop.execute(source, "update outbox_source set epoch = 1");
    shop.execute(source, "update outbox_progress set epoch = 1");
    let half = on(shop, source, &["source", "check"]);
    assert_eq!(half.exit.code(), 1);
    assert!(half.out.contains("unfinished reset"), "{}", half.out);
    let again = on(shop, source, &["source", "reset", source, "--yes"]);
    assert!(again.out.contains("in epoch 2 now"), "{}", again.all());
    assert!(
        again.out.contains("an earlier reset was finished"),
        "{}",
        again.out
    );
    assert_eq!(on(shop, source, &["source", "check"]).exit.code(), 0);
}

/// Epoch 2 is there, nothing was published in it.
fn adopts(shop: &Shop, source: &str) {
    let unsure = on(shop, source, &["source", "adopt", source]);
    assert_eq!(unsure.exit.code(), 1);
    assert!(unsure.err.contains("--yes"), "{}", unsure.err);
    let first = on(shop, source, &["source", "adopt", source, "--yes"]);
    assert_eq!(first.exit.code(), 0, "{}", first.all());
    assert!(first.out.contains("in epoch 3 now"), "{}", first.out);
    let check = on(shop, source, &["source", "check"]);
    assert_eq!(check.exit.code(), 0, "{}", check.all());

    // Died between Kafka and the database.
    shop.execute(source, "update outbox_source set epoch = 2");
    shop.execute(source, "update outbox_progress set epoch = 2");
    assert_eq!(on(shop, source, &["source", "check"]).exit.code(), 1);
    let again = on(shop, source, &["source", "adopt", source, "--yes"]);
    assert!(
        again.out.contains("in epoch 3 now") && again.out.contains("an earlier adoption"),
        "{}",
        again.all()
    );
    assert_eq!(on(shop, source, &["source", "check"]).exit.code(), 0);
}

#[test]
fn resets_and_adoptions_start_a_new_epoch_and_finish_what_a_crash_left() {
    let shop = Shop::on_sqlite();
    resets(&shop, "inventory");
    adopts(&shop, "inventory");
    let (shop, source) = (Shop::on_postgres(), "saga-orchestrator");
    resets(&shop, source);
    shop.execute(
        source,
        "update outbox_source set system_identifier = '1', database_name = 'old'",
    );
    let moved = on(&shop, source, &["source", "check"]);
    assert_eq!(moved.exit.code(), 1);
    assert!(
        moved.out.contains("it was database old on another server"),
        "{}",
        moved.out
    );
    adopts(&shop, source);
    // On SQLite a free lock file would tell that this owner is dead, and the source is taken.
    shop.execute(
        source,
        "update outbox_source set owner = 'relay-1', lease_until = 9000000000000000",
    );
    let held = on(&shop, source, &["source", "reset", source, "--yes"]);
    assert_eq!(held.exit.code(), 1);
    assert!(held.err.contains("relay-1 owns"), "{}", held.err);
}

/// What only the lost progress knew stands in the records too.
#[test]
fn a_reset_without_progress_goes_on_behind_the_records() {
    let source = "payment";
    let shop = Shop::of(source);
    let name = SourceName::new(source).unwrap();
    shop.execute(
        source,
        &outbox(1, "payment.completed.v1", "order-1", None, 0),
    );
    let runtime = runtime();
    let topics = ["payment.completed".to_owned()];
    runtime.block_on(async {
        broker().make_topics(topics, 2, 1).await.unwrap();
        publish_row_1(source, &id(903), "payment.completed", 41).await;
    });
    let gone = kafka::shared().unwrap();
    let tool = "org.apache.kafka.tools.TopicCommand";
    let (address, progress) = (gone.bootstrap(), name.progress_topic());
    let words = [
        "--bootstrap-server",
        &address,
        "--delete",
        "--topic",
        &progress,
    ];
    gone.run_tool(tool, &words).unwrap();

    let reset = on(&shop, source, &["source", "reset", source, "--yes"]);
    assert_eq!(reset.exit.code(), 0, "{}", reset.all());
    assert!(reset.out.contains("at position 41"), "{}", reset.all());
    let found = runtime
        .block_on(broker().read_progress(&name, None))
        .unwrap();
    let (_, record) = found.record.unwrap();
    assert_eq!(record.partitions["payment.completed"], [(0, 41)].into());
    assert_eq!(record.partition_counts["payment.completed"], 2);
}
