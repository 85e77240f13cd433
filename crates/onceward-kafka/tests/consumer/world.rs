//! A database with an `effect` table, a topic of its own, and consumers that write into it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use onceward::consumer::{
    AcceptedLoss, Consumer, ConsumerOptions, ConsumerStatus, Handle, Handler, HandlerError,
    Handlers, LogNow, LossRefused, TopicPartition, accept_loss,
};
use onceward::{Backend, ConsumerName, DatabaseUrl, Db, Event, MessageContext, SourceName, Tx};
use onceward_kafka::{KafkaBroker, KafkaConfig, KafkaSubscriber};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use sqlx::{Postgres, Sqlite};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Serialize, Deserialize)]
pub struct Ping {
    pub n: i64,
    pub key: String,
}
impl Event for Ping {
    const TYPE: &'static str = "ping.v1";
    const AGGREGATE_TYPE: &'static str = "ping";
    fn aggregate_id(&self) -> String {
        self.key.clone()
    }
}

/// Writes one row per message, without any constraint that would hide a double.
pub struct Effect;
impl<B: Backend> Handler<B, Ping> for Effect {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        _: &MessageContext,
        ping: Ping,
    ) -> Result<(), HandlerError> {
        sqlx::query("insert into effect (n, message_key) values ($1, $2)")
            .bind(ping.n)
            .bind(ping.key)
            .execute(&mut **tx)
            .await?;
        Ok(())
    }
}

pub struct World<B: Backend> {
    pub db: Db<B>,
    pub url: DatabaseUrl,
    pub bootstrap: String,
    pub topic: String,
    pub group: ConsumerName,
    _folder: Option<tempfile::TempDir>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A number no other test of this run uses.
pub fn number() -> u32 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl World<Sqlite> {
    pub async fn sqlite(bootstrap: &str, partitions: i32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("consumer.db");
        std::fs::File::create(&file).unwrap();
        let url = format!("sqlite://{}", file.display());
        let db = Db::<Sqlite>::open(&url, Default::default()).await.unwrap();
        Self::new(db, url, bootstrap, partitions, Some(folder)).await
    }
}
impl World<Postgres> {
    pub async fn postgres(bootstrap: &str, partitions: i32) -> Self {
        let server = tokio::task::spawn_blocking(onceward_testkit::postgres::shared);
        let server = server.await.unwrap().unwrap();
        let url = tokio::task::spawn_blocking(|| server.create_database());
        let url = url.await.unwrap().unwrap();
        let db = Db::<Postgres>::open(&url, Default::default())
            .await
            .unwrap();
        Self::new(db, url, bootstrap, partitions, None).await
    }
}

impl<B: onceward::schema::SchemaBackend> World<B> {
    async fn new(
        db: Db<B>,
        url: String,
        bootstrap: &str,
        partitions: i32,
        folder: Option<tempfile::TempDir>,
    ) -> Self {
        let name = SourceName::new("consumer-test").unwrap();
        onceward::schema::migrate(db.pool(), &name).await.unwrap();
        sqlx::query("create table effect (n bigint not null, message_key text not null)")
            .execute(db.pool())
            .await
            .unwrap();
        let number = number();
        let world = Self {
            db,
            url: url.into(),
            bootstrap: bootstrap.to_owned(),
            topic: format!("ping{number}"),
            group: ConsumerName::new(format!("group{number}")).unwrap(),
            _folder: folder,
        };
        world.make_topic(partitions).await;
        world
    }
}

impl<B: Backend> World<B> {
    /// Where it is, for [`Self::at`] in another process.
    pub fn place(&self) -> String {
        let parts = [
            self.url.reveal(),
            &self.bootstrap,
            &self.topic,
            self.group.as_str(),
        ];
        parts.join(" ")
    }

    /// That of another process, which keeps its files.
    pub async fn at(place: &str, open: impl AsyncFnOnce(&str) -> Db<B>) -> Self {
        let parts: Vec<&str> = place.split(' ').collect();
        let [url, bootstrap, topic, group] = parts[..] else {
            panic!("not a place: {place}");
        };
        Self {
            db: open(url).await,
            url: url.to_owned().into(),
            bootstrap: bootstrap.to_owned(),
            topic: topic.to_owned(),
            group: ConsumerName::new(group).unwrap(),
            _folder: None,
        }
    }

    pub fn broker(&self) -> KafkaBroker {
        KafkaBroker::new(KafkaConfig::plaintext(&self.bootstrap)).unwrap()
    }

    pub async fn make_topic(&self, partitions: i32) {
        let topics = vec![self.topic.clone()];
        self.broker()
            .make_topics(topics, partitions, 1)
            .await
            .unwrap();
    }

    pub async fn try_make_topic(&self, partitions: i32) -> bool {
        let topics = vec![self.topic.clone()];
        self.broker()
            .make_topics(topics, partitions, 1)
            .await
            .is_ok()
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        rdkafka::ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .create()
            .unwrap()
    }

    pub async fn delete_topic(&self) {
        let options = AdminOptions::new();
        let deleted = self.admin();
        let deleted = deleted.delete_topics(&[&self.topic], &options).await;
        for outcome in deleted.unwrap() {
            outcome.unwrap();
        }
    }

    /// As retention does it.
    pub async fn delete_records_before(&self, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, 0, Offset::Offset(offset))
            .unwrap();
        let admin = self.admin();
        admin
            .delete_records(&list, &AdminOptions::new())
            .await
            .unwrap();
    }

    pub fn options(&self) -> ConsumerOptions {
        let mut options = ConsumerOptions::new(self.group.clone(), [self.topic.as_str()]);
        options.idle_advance_interval = Duration::from_millis(300);
        options
    }

    pub fn subscriber(&self) -> KafkaSubscriber {
        KafkaSubscriber::new(KafkaConfig::plaintext(&self.bootstrap))
    }

    pub fn start(&self, options: ConsumerOptions) -> Running {
        self.start_with(options, Handlers::default().on::<Ping, _>(Effect))
    }

    pub fn start_with(&self, options: ConsumerOptions, handlers: Handlers<B>) -> Running {
        self.run(options, handlers, self.subscriber())
    }

    /// Reaches Kafka in this way, not by the plain door.
    pub fn start_by(&self, kafka: KafkaConfig) -> Running {
        let handlers = Handlers::default().on::<Ping, _>(Effect);
        self.run(self.options(), handlers, KafkaSubscriber::new(kafka))
    }

    fn run(
        &self,
        options: ConsumerOptions,
        handlers: Handlers<B>,
        subscriber: KafkaSubscriber,
    ) -> Running {
        let consumer = Consumer::new(self.db.clone(), handlers, subscriber, options);
        let handle = consumer.handle();
        let stop = CancellationToken::new();
        let task = tokio::spawn(consumer.run(stop.clone()));
        Running { handle, stop, task }
    }

    /// Publishes pings `numbers` with keys `k0` … `k9`, in one Kafka transaction.
    pub fn publish(&self, numbers: std::ops::Range<i64>) {
        self.publish_raw(records(numbers));
    }

    /// Publishes pings in a Kafka transaction that is aborted.
    pub fn publish_aborted(&self, numbers: std::ops::Range<i64>) {
        let producer = self.in_transaction(records(numbers));
        producer.flush(WAIT).unwrap();
        producer.abort_transaction(WAIT).unwrap();
    }

    pub fn publish_raw(&self, records: impl Iterator<Item = RawRecord>) {
        let producer = self.in_transaction(records);
        producer.commit_transaction(WAIT).unwrap();
    }

    /// Sends records in a transaction that is still open.
    fn in_transaction(&self, records: impl Iterator<Item = RawRecord>) -> BaseProducer {
        let producer: BaseProducer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("transactional.id", format!("test-{}", number()))
            .set("message.max.bytes", "20000000")
            .create()
            .unwrap();
        producer.init_transactions(WAIT).unwrap();
        producer.begin_transaction().unwrap();
        for (key, payload, headers) in records {
            let record = BaseRecord::to(&self.topic).key(&key).payload(&payload);
            producer
                .send(record.headers(headers))
                .map_err(|(e, _)| e)
                .unwrap();
        }
        producer
    }

    /// How often each number took effect.
    pub async fn effects(&self) -> BTreeMap<i64, usize> {
        let numbers: Vec<i64> = sqlx::query_scalar("select n from effect")
            .fetch_all(self.db.pool())
            .await
            .unwrap();
        let mut counts = BTreeMap::new();
        for n in numbers {
            *counts.entry(n).or_default() += 1;
        }
        counts
    }

    /// Waits until exactly these numbers took effect, each once.
    pub async fn all_once(&self, numbers: std::ops::Range<i64>) {
        let wanted: BTreeMap<i64, usize> = numbers.map(|n| (n, 1)).collect();
        until("all effects", async || {
            let found = self.effects().await;
            let doubled: Vec<_> = found.iter().filter(|(_, count)| **count > 1).collect();
            assert!(doubled.is_empty(), "doubled: {doubled:?}");
            found == wanted
        })
        .await;
    }

    /// Accepts whatever partition 0 has lost.
    pub async fn accept_loss(&self) -> Result<AcceptedLoss, LossRefused> {
        let mut ids = self.broker().topic_ids(vec![self.topic.clone()]).await;
        let client: BaseConsumer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .create()
            .unwrap();
        let (start, end) = client.fetch_watermarks(&self.topic, 0, WAIT).unwrap();
        let log = LogNow {
            topic_id: ids.as_mut().unwrap().remove(&self.topic).unwrap(),
            start,
            end,
        };
        let at = TopicPartition {
            topic: self.topic.as_str().into(),
            partition: 0,
        };
        let mut tx = self.db.pool().begin().await.unwrap();
        let accepted = accept_loss(&mut tx, &self.group, &at, &log, 0).await?;
        tx.commit().await.unwrap();
        Ok(accepted)
    }

    /// The sum of the stored next offsets.
    pub async fn next_offsets(&self) -> i64 {
        sqlx::query_scalar(
            "select cast(coalesce(sum(next_offset), 0) as bigint) from consumer_offset",
        )
        .fetch_one(self.db.pool())
        .await
        .unwrap()
    }
}

/// Key, payload and headers.
type RawRecord = (String, Vec<u8>, OwnedHeaders);

fn records(numbers: std::ops::Range<i64>) -> impl Iterator<Item = RawRecord> {
    numbers.map(|n| {
        let (key, payload) = ping(n);
        let headers = header(OwnedHeaders::new(), "ce_id", &format!("id-{n}"));
        let headers = header(headers, "ce_source", "test");
        (key, payload, header(headers, "ce_type", "ping.v1"))
    })
}

pub fn header(headers: OwnedHeaders, key: &str, value: &str) -> OwnedHeaders {
    let value = Some(value);
    headers.insert(Header { key, value })
}

pub fn ping(n: i64) -> (String, Vec<u8>) {
    let key = format!("k{}", n % 10);
    let payload = serde_json::json!({"n": n, "key": key}).to_string();
    (key, payload.into_bytes())
}

pub struct Running {
    pub handle: Handle,
    stop: CancellationToken,
    task: JoinHandle<Result<(), onceward::consumer::ConsumerError>>,
}

impl Running {
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Dies in the middle of whatever it does. Its Kafka client still leaves the group.
    pub async fn kill(self) {
        self.task.abort();
        let _aborted = self.task.await;
    }

    pub async fn until(&self, what: &str, state: impl Fn(&ConsumerStatus) -> bool) {
        until(what, async || state(&self.handle.status())).await;
    }
}

pub const WAIT: Duration = Duration::from_secs(40);

/// Waits for a state.
#[track_caller]
pub fn until(what: &str, state: impl AsyncFn() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let begun = Instant::now();
        while !state().await {
            assert!(
                begun.elapsed() < WAIT,
                "{caller}: no {what} within {WAIT:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A consumer of its own database that reaches Kafka in this way.
async fn consumer(
    kafka: KafkaConfig,
    group: &str,
    topics: &[&str],
) -> (Running, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("consumer.db");
    std::fs::File::create(&file).unwrap();
    let url = format!("sqlite://{}", file.display());
    let db = Db::<Sqlite>::open(&url, Default::default()).await.unwrap();
    let name = SourceName::new("consumer-test").unwrap();
    onceward::schema::migrate(db.pool(), &name).await.unwrap();
    let options = ConsumerOptions::new(ConsumerName::new(group).unwrap(), topics.iter().copied());
    let handlers = Handlers::default().on::<Ping, _>(Effect);
    let consumer = Consumer::new(db, handlers, KafkaSubscriber::new(kafka), options);
    let stop = CancellationToken::new();
    let running = Running {
        handle: consumer.handle(),
        task: tokio::spawn(consumer.run(stop.clone())),
        stop,
    };
    (running, folder)
}

/// What a consumer that reaches Kafka in this way says of its trouble.
pub async fn trouble_of(kafka: KafkaConfig) -> String {
    let (running, _folder) = consumer(kafka, "trouble", &["trouble.topic"]).await;
    let generic = "brokers are down";
    let is_told = |s: &ConsumerStatus| s.trouble.as_ref().is_some_and(|t| !t.contains(generic));
    running.until("trouble", is_told).await;
    let handle = running.handle.clone();
    running.stop().await;
    handle.status().trouble.unwrap_or_default()
}

/// Waits until a consumer has partitions of all these topics, or is refused.
pub async fn joins(
    kafka: KafkaConfig,
    group: &str,
    topics: &std::collections::BTreeSet<&str>,
) -> Result<(), String> {
    let names: Vec<&str> = topics.iter().copied().collect();
    let (running, _folder) = consumer(kafka, group, &names).await;
    let handle = running.handle.clone();
    running
        .until("partitions or a refusal", |status| {
            let held = status.partitions.iter().map(|found| &*found.at.topic);
            let held: std::collections::BTreeSet<&str> = held.collect();
            held == *topics || handle.refusal().is_some()
        })
        .await;
    let refusal = handle.refusal();
    running.stop().await;
    refusal.map_or(Ok(()), Err)
}
