//! How fast the publisher is: latency of one-record transactions and throughput of large ones.
//!
//! `cargo run --release -p onceward-kafka --example publish_bench -- 127.0.0.1:9092`
//! Makes the topics `outbox.progress.publish-bench` and `publish-bench` there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use onceward::publisher::{Broker, PublishOutcome, Publisher, Records};
use onceward::{
    Clock, Cursor, ProgressRecord, SourceId, SourceName, SqliteCursor, SystemClock, partition_for,
};
use onceward_kafka::{KafkaConfig, KafkaPublisher, RdKafkaBroker};

const TOPIC: &str = "publish-bench";
const PARTITIONS: i32 = 3;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let bootstrap = std::env::args().nth(1).context("give host:port of Kafka")?;
    let broker = RdKafkaBroker::new(KafkaConfig::plaintext(bootstrap))?;
    let source = SourceName::new("publish-bench")?;
    broker.ensure_progress_topic(&source).await?;
    broker
        .make_topics(vec![TOPIC.to_owned()], PARTITIONS, 1)
        .await?;
    let start = Instant::now();
    let mut publisher = broker.open(&source).await?;
    println!("open: {:?}", start.elapsed());
    let start = Instant::now();
    broker.read_progress(&source, None).await?;
    println!("read progress: {:?}", start.elapsed());

    let mut position = 0;
    let mut times = Vec::new();
    // Back to back each waits for the markers of the one before; with a pause it does not.
    for pause in [Duration::ZERO, Duration::from_millis(25)] {
        times.clear();
        for _ in 0..300 {
            tokio::time::sleep(pause).await;
            position += 1;
            times.push(publish(&mut publisher, 1, position).await?);
        }
        times.sort_unstable();
        println!(
            "one record a transaction, {pause:?} between: p50 {:?}, p99 {:?}",
            times[times.len() / 2],
            times[times.len() * 99 / 100]
        );
    }
    for size in [1_000, 5_000, 20_000] {
        let rounds = 200_000 / size;
        let mut total = Duration::ZERO;
        for _ in 0..rounds {
            position += 1;
            total += publish(&mut publisher, size, position).await?;
        }
        let records = f64::from(u32::try_from(size * rounds)?);
        println!(
            "{size} records a transaction: {:.0} records/s",
            records / total.as_secs_f64()
        );
    }
    Ok(())
}

/// Time of one transaction, without the making of its records.
async fn publish(
    publisher: &mut KafkaPublisher,
    size: usize,
    position: i64,
) -> anyhow::Result<Duration> {
    let records = Arc::new(records(size));
    let mut progress = ProgressRecord::genesis(
        SourceId(uuid::Uuid::nil()),
        1,
        Cursor::Sqlite(SqliteCursor { seq: position }),
    );
    progress.position = position;
    let start = Instant::now();
    match publisher.publish(&records, &progress).await {
        PublishOutcome::Committed { dirty: false, .. } => Ok(start.elapsed()),
        other => bail!("{other:?}"),
    }
}

fn records(count: usize) -> Records {
    let mut records = Records::new(SystemClock.now() / 1_000);
    for partition in 0..PARTITIONS {
        records.add_destination(TOPIC.into(), partition);
    }
    for number in 0..count {
        let key = format!("order-{number}");
        let partition = partition_for(key.as_bytes(), PARTITIONS);
        let destination = usize::try_from(partition).unwrap_or_default();
        records.push(destination, Some(key.as_bytes()), &[b'x'; 200], |headers| {
            headers.add("ce_id", b"018f4e3a-0000-7000-8000-000000000000");
            headers.add("ce_source", b"publish-bench");
            headers.add("ce_type", b"order.created.v1");
            headers.add("ce_specversion", b"1.0");
            headers.add("onceward-position", b"123456");
        });
    }
    records
}
