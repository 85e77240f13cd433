//! How fast both publishers are, side by side: one-record transactions, large ones, CPU time.
//!
//! `cargo run --release -p onceward-kafka --example publish_bench [-- 127.0.0.1:9092]`
//! Starts a Kafka of its own unless it is given one; there it makes the topics
//! `outbox.progress.publish-bench` and `publish-bench`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use onceward::publisher::{Broker, PublishOutcome, Publisher, Records};
use onceward::{
    Clock, Cursor, ProgressRecord, SourceId, SourceName, SqliteCursor, SystemClock, partition_for,
};
use onceward_kafka::{
    Compression, KafkaBroker, KafkaConfig, KafkaPublisher, PublisherKind, PublisherOptions,
};
use onceward_testkit::kafka::{Kafka, KafkaOptions};

const TOPIC: &str = "publish-bench";
const PARTITIONS: i32 = 3;
const SECONDS_OF_SMALL: u64 = 3;
const RECORDS_OF_LARGE: usize = 400_000;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (bootstrap, _own) = match std::env::args().nth(1) {
        Some(given) => (given, None),
        None => {
            // With less, requests of some megabytes keep the broker's collector busy.
            let own = Kafka::start_with(KafkaOptions {
                heap_mib: 1024,
                long_lived: true,
                ..KafkaOptions::default()
            })?;
            (own.bootstrap(), Some(own))
        }
    };
    let broker = KafkaBroker::new(KafkaConfig::plaintext(bootstrap))?;
    let source = SourceName::new("publish-bench")?;
    broker.ensure_progress_topic(&source).await?;
    broker
        .make_topics(vec![TOPIC.to_owned()], PARTITIONS, 1)
        .await?;
    println!(
        "{PARTITIONS} partitions; 300-byte JSON and 5 headers a record; what is measured is publish(), \
         from records to the answer of EndTxn"
    );
    println!("publisher  compression  transaction   /s         p50 ms   p99 ms  CPU µs/record");
    let mut bench = Bench {
        source,
        position: 0,
    };
    let compressions = [Compression::None, Compression::Lz4, Compression::Zstd];
    // The first round warms the broker up and is not printed.
    for round in 0..2 {
        for kind in [PublisherKind::RdKafka, PublisherKind::Native] {
            for compression in compressions {
                let options = PublisherOptions { kind, compression };
                let broker = broker.clone().with_publisher(options);
                bench.run(&broker, options, round > 0).await?;
            }
        }
    }
    Ok(())
}

struct Bench {
    source: SourceName,
    position: i64,
}

impl Bench {
    async fn run(
        &mut self,
        broker: &KafkaBroker,
        options: PublisherOptions,
        print: bool,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut publisher = broker.open(&self.source).await?;
        let label = format!(
            "{:<10} {:<12}",
            format!("{:?}", options.kind),
            options.compression.name()
        );
        if print {
            println!(
                "{label} opened in {:.1} ms",
                start.elapsed().as_secs_f64() * 1e3
            );
        }
        for size in [1, 1_000, 5_000, 20_000] {
            let records = Arc::new(records(size));
            let small = Instant::now() + Duration::from_secs(SECONDS_OF_SMALL);
            let mut times = Vec::new();
            let (started, cpu) = (Instant::now(), cpu_time()?);
            loop {
                times.push(self.publish(&mut publisher, &records).await?);
                let enough = match size {
                    1 => Instant::now() > small,
                    _ => times.len() * size >= RECORDS_OF_LARGE,
                };
                if enough {
                    break;
                }
            }
            let count = f64::from(u32::try_from(times.len() * size)?);
            let (wall, cpu) = (started.elapsed().as_secs_f64(), cpu_time()? - cpu);
            times.sort_unstable();
            let ms = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
            if print {
                println!(
                    "{label} {size:>11}   {:<9.0} {:>7.2} {:>8.2} {:>14.2}",
                    count / wall,
                    ms(50),
                    ms(99),
                    cpu * 1e6 / count
                );
            }
        }
        Ok(())
    }

    async fn publish(
        &mut self,
        publisher: &mut KafkaPublisher,
        records: &Arc<Records>,
    ) -> anyhow::Result<Duration> {
        self.position += 1;
        let mut progress = ProgressRecord::genesis(
            SourceId(uuid::Uuid::nil()),
            1,
            Cursor::Sqlite(SqliteCursor { seq: self.position }),
        );
        progress.position = self.position;
        let start = Instant::now();
        match publisher.publish(records, &progress).await {
            PublishOutcome::Committed { dirty: false, .. } => Ok(start.elapsed()),
            other => bail!("{other:?}"),
        }
    }
}

/// What all threads of this process used, in seconds.
fn cpu_time() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(") ").next().context("no fields")?;
    let mut ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u32>);
    let mut next = || ticks.next().context("no times")?.context("no number");
    Ok(f64::from(next()? + next()?) / 100.0)
}

/// Payloads that compress about as JSON does.
fn records(count: usize) -> Records {
    let mut records = Records::new(SystemClock.now() / 1_000);
    for partition in 0..PARTITIONS {
        records.add_destination(TOPIC.into(), partition);
    }
    let mut noise = 0x2545_f491_4f6c_dd1d_u64;
    for number in 0..count {
        let key = format!("order-{}", number % 1_000);
        let partition = partition_for(key.as_bytes(), PARTITIONS);
        let destination = usize::try_from(partition).unwrap_or_default();
        let mut id = || {
            noise = noise.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            format!("{:016x}{noise:016x}", noise.rotate_left(32))
        };
        let mut payload = format!(
            r#"{{"order_id":"{}","user_id":"{}","product_id":"product_{number}","quantity":2,"amount_minor":19999,"currency":"EUR","status":"pending","note":""#,
            id(),
            id()
        );
        while payload.len() < 298 {
            payload.push_str("lorem ");
        }
        payload.truncate(298);
        payload.push_str("\"}");
        let message = id();
        records.push(
            destination,
            Some(key.as_bytes()),
            payload.as_bytes(),
            |headers| {
                headers.add("ce_id", message.as_bytes());
                headers.add("ce_source", b"publish-bench");
                headers.add("ce_type", b"order.created.v1");
                headers.add("ce_specversion", b"1.0");
                headers.add("onceward-position", number.to_string().as_bytes());
            },
        );
    }
    records
}
