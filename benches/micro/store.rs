//! What the database does: the cursor's reading of an outbox, the inbox of a consumer. On SQLite, which
//! runs in this process: the figures are its work and ours, without a round trip.

use std::hint::black_box;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use criterion::{Criterion, Throughput};
use onceward::consumer::{
    AssignedPartition, Consumer, ConsumerOptions, Handle, Handler, HandlerError, Handlers, Link,
    Record, Retention, Subscriber, SubscriberError, Subscription, TopicPartition,
};
use onceward::schema::migrate;
use onceward::source::{FetchLimits, SourceStore};
use onceward::{
    CancellationToken, ConsumerName, Db, Event, MessageContext, OpenOptions, Outbox, SourceName,
    Tx, UuidV7, header,
};
use sqlx::Sqlite;
use tokio::runtime::Runtime;

use crate::wire::Happened;

const ROWS: u64 = 10_000;
const TOPIC: &str = "bench.happened";
/// Messages that are given to the consumer at once.
const MESSAGES: u64 = 1_000;

async fn database(folder: &Path, source: &SourceName) -> Result<(String, Db<Sqlite>)> {
    let file = folder.join("micro.db");
    let url = format!("sqlite://{}?mode=rwc", file.display());
    let db = Db::<Sqlite>::open(&url, OpenOptions::default()).await?;
    migrate(db.pool(), source).await?;
    Ok((url, db))
}

/// A page of 10,000 rows, with the checks that go with every fetch.
pub(crate) fn cursor(criterion: &mut Criterion, runtime: &Runtime) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let source = SourceName::new("micro")?;
    let (url, db) = runtime.block_on(database(folder.path(), &source))?;
    let outbox = Outbox::new(source.clone());
    let mut store = runtime.block_on(async {
        let filled = db.write(async move |tx: &mut Tx<'static, Sqlite>| {
            for n in 0..ROWS {
                let context = MessageContext::start(&UuidV7);
                outbox.append(tx, &context, &Happened::new(n)).await?;
            }
            Ok::<_, onceward::Error>(())
        });
        filled.await?;
        anyhow::Ok(SourceStore::<Sqlite>::open(&url, &source).await?)
    })?;
    let limits = FetchLimits {
        max_rows: u32::try_from(ROWS)?,
        max_bytes: 64 * 1024 * 1024,
    };
    let genesis = store.genesis();
    let batch = runtime.block_on(store.fetch(&genesis, None, limits))?;
    ensure!(batch.rows.len() == usize::try_from(ROWS)?, "not all rows");
    let mut group = criterion.benchmark_group("cursor");
    group.throughput(Throughput::Elements(ROWS));
    group.bench_function("10,000 rows fetched from SQLite", |bencher| {
        bencher.iter(|| {
            let batch = runtime.block_on(store.fetch(&genesis, None, limits));
            black_box(batch.map(|batch| batch.rows.len()))
        });
    });
    group.finish();
    runtime.block_on(async {
        store.close().await?;
        db.close().await;
        Ok(())
    })
}

/// From a record in memory to the commit of inbox row and offset, with a handler that does nothing.
pub(crate) fn inbox(criterion: &mut Criterion, runtime: &Runtime) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let source = SourceName::new("micro")?;
    let (_, db) = runtime.block_on(database(folder.path(), &source))?;
    let (records, given) = channel();
    let handlers = Handlers::default().on::<Happened, _>(Nothing);
    let options = ConsumerOptions::new(ConsumerName::new("micro")?, [TOPIC]);
    let consumer = Consumer::new(db.clone(), handlers, Memory { given }, options);
    let (handle, stop) = (consumer.handle(), CancellationToken::new());
    let running = runtime.spawn(consumer.run(stop.clone()));
    let mut feed = Feed {
        records,
        handle,
        next: 0,
    };
    feed.handled(MESSAGES)?;
    let mut group = criterion.benchmark_group("inbox");
    group
        .sample_size(20)
        .throughput(Throughput::Elements(MESSAGES));
    let mut failed = None;
    group.bench_function("1,000 messages claimed, handled, committed", |bencher| {
        bencher.iter_custom(|times| {
            let begun = Instant::now();
            for _ in 0..times {
                if let Err(error) = feed.handled(MESSAGES) {
                    failed.get_or_insert(error);
                    break;
                }
            }
            begun.elapsed()
        });
    });
    group.finish();
    stop.cancel();
    runtime.block_on(async {
        running.await??;
        db.close().await;
        anyhow::Ok(())
    })?;
    failed.map_or(Ok(()), Err)
}

struct Nothing;

impl Handler<Sqlite, Happened> for Nothing {
    async fn handle(
        &self,
        _: &mut Tx<'static, Sqlite>,
        _: &MessageContext,
        _: Happened,
    ) -> Result<(), HandlerError> {
        Ok(())
    }
}

/// Gives records to a consumer and waits for their commit.
struct Feed {
    records: Sender<Record>,
    handle: Handle,
    /// Offset of the next record.
    next: i64,
}

impl Feed {
    fn handled(&mut self, count: u64) -> Result<()> {
        for _ in 0..count {
            self.records.send(record(self.next)?)?;
            self.next += 1;
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let status = self.handle.status();
            if status
                .partitions
                .iter()
                .any(|known| known.next_offset >= self.next)
            {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not handled: {status:?}");
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

fn record(offset: i64) -> Result<Record> {
    let number = u64::try_from(offset)?;
    let text = |value: String| Bytes::from(value);
    Ok(Record {
        at: at(),
        offset,
        leader_epoch: Some(0),
        key: Some(text(format!("key-{}", number % 1_000))),
        payload: serde_json::to_vec(&Happened::new(number))?.into(),
        headers: vec![
            (
                header::CE_ID.to_owned(),
                text(uuid::Uuid::from_u128(number.into()).to_string()),
            ),
            (header::CE_SOURCE.to_owned(), text("elsewhere".to_owned())),
            (header::CE_TYPE.to_owned(), text(Happened::TYPE.to_owned())),
            (header::KIND.to_owned(), text("event".to_owned())),
        ],
        defect: None,
    })
}

fn at() -> TopicPartition {
    TopicPartition {
        topic: TOPIC.into(),
        partition: 0,
    }
}

/// Kafka's place: one partition, whose records come through a channel.
struct Memory {
    given: Receiver<Record>,
}

impl Subscriber for Memory {
    fn subscribe(&mut self, _: &Subscription, link: &mut Link) -> Result<(), SubscriberError> {
        let partition = AssignedPartition {
            at: at(),
            topic_id: "micro".to_owned(),
            log_start: 0,
            log_end: 0,
            committed_metadata: None,
            retention: Retention::Unlimited,
        };
        link.assigned(vec![partition]);
        while !link.is_stopping() {
            while link.command().is_some() {}
            let mut record = match self.given.recv_timeout(Duration::from_millis(5)) {
                Ok(record) => record,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            while let Err(full) = link.offer(record) {
                if link.is_stopping() {
                    return Ok(());
                }
                record = full.0;
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        Ok(())
    }
}
