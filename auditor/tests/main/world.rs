//! One source with one consumer in one database, and a plain transactional producer that can tell
//! lies: nothing of ours writes here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use auditor::{Audit, Report, Source};
use onceward_testkit::{kafka, postgres};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnectOptions;
use uuid::Uuid;

const TIME: Duration = Duration::from_secs(60);
const SQLITE: [&str; 2] = [
    include_str!("../../../migrations/outbox/sqlite/0001_outbox.sql"),
    include_str!("../../../migrations/outbox/sqlite/0002_inbox.sql"),
];
const POSTGRES: [&str; 2] = [
    include_str!("../../../migrations/outbox/postgres/0001_outbox.sql"),
    include_str!("../../../migrations/outbox/postgres/0002_inbox.sql"),
];

/// A record to publish. Everything but the number may be a lie.
#[derive(Debug, Clone)]
pub struct Told {
    pub number: u32,
    pub key: String,
    pub position: i64,
    pub previous: i64,
    pub payload: String,
}

/// The truth about row `number` as the `position`th record of a single partition.
pub fn told(number: u32, key: &str, position: i64) -> Told {
    Told {
        number,
        key: key.to_owned(),
        position,
        previous: position - 1,
        payload: format!("payload {number}"),
    }
}

pub struct World {
    pub name: String,
    pub topic: String,
    pub url: String,
    sqlite: bool,
    producer: BaseProducer,
    _folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

pub fn uuid(number: u32) -> Uuid {
    Uuid::from_u128(0x0194_227a_0000_7000_8000_0000_0000_0000 + u128::from(number))
}

fn client() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", kafka::shared().unwrap().bootstrap());
    config
}

impl World {
    /// One world on each database.
    pub fn both(test: &str) -> [Self; 2] {
        [Self::new(test, true), Self::new(test, false)]
    }

    fn new(test: &str, sqlite: bool) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        #[expect(
            clippy::disallowed_methods,
            reason = "a name nobody has used on this broker"
        )]
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_nanos();
        let name = format!("{test}-{}-{now}", if sqlite { "s" } else { "p" });
        let folder = tempfile::tempdir().unwrap();
        let url = if sqlite {
            format!("sqlite://{}", folder.path().join("a.db").display())
        } else {
            postgres::shared().unwrap().create_database().unwrap()
        };
        let producer: BaseProducer = client()
            .set("transactional.id", &name)
            .set("linger.ms", "0")
            .create()
            .unwrap();
        producer.init_transactions(TIME).unwrap();
        let topic = format!("{name}.created");
        let world = Self {
            name,
            topic,
            url,
            sqlite,
            producer,
            _folder: folder,
            runtime,
        };
        world.create_topics();
        world.create_tables();
        world
    }

    fn create_topics(&self) {
        let admin: AdminClient<DefaultClientContext> = client().create().unwrap();
        let names = [self.topic.clone(), format!("outbox.progress.{}", self.name)];
        let topics: Vec<NewTopic<'_>> = names
            .iter()
            .map(|n| NewTopic::new(n, 1, TopicReplication::Fixed(1)))
            .collect();
        let made = self
            .runtime
            .block_on(admin.create_topics(&topics, &AdminOptions::new()));
        assert!(made.unwrap().iter().all(Result::is_ok));
    }

    fn create_tables(&self) {
        for sql in if self.sqlite { SQLITE } else { POSTGRES } {
            self.execute(sql);
        }
        let (name, id) = (&self.name, self.uuid_literal(999));
        self.execute(&format!(
            "insert into outbox_source (name, source_id, created_at) values ('{name}', {id}, 0)"
        ));
    }

    fn uuid_literal(&self, number: u32) -> String {
        if self.sqlite {
            format!("x'{}'", uuid(number).simple())
        } else {
            format!("'{}'", uuid(number))
        }
    }

    fn bytes_literal(&self, text: &str) -> String {
        let hex: String = text.bytes().map(|b| format!("{b:02x}")).collect();
        if self.sqlite {
            format!("x'{hex}'")
        } else {
            format!("'\\x{hex}'::bytea")
        }
    }

    pub fn execute(&self, sql: &str) {
        let sql = AssertSqlSafe(sql.to_owned());
        self.runtime.block_on(async {
            if self.sqlite {
                let options: SqliteConnectOptions = self.url.parse().unwrap();
                let options = options.create_if_missing(true);
                let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
                sqlx::raw_sql(sql).execute(&pool).await.unwrap();
                pool.close().await;
            } else {
                let pool = sqlx::PgPool::connect(&self.url).await.unwrap();
                sqlx::raw_sql(sql).execute(&pool).await.unwrap();
                pool.close().await;
            }
        });
    }

    /// Commits row `number`.
    pub fn row(&self, number: u32, key: &str) {
        let payload = self.bytes_literal(&format!("payload {number}"));
        let (id, topic) = (self.uuid_literal(number), &self.topic);
        self.execute(&format!(
            "insert into outbox (message_id, aggregate_type, aggregate_id, message_type, topic, \
             message_key, payload, headers, occurred_at) values ({id}, 'a', '{key}', 't.v1', \
             '{topic}', '{key}', {payload}, '{{}}', 0)"
        ));
    }

    /// Stores row `number` as parked.
    pub fn park(&self, number: u32, key: &str) {
        let (id, topic) = (self.uuid_literal(number), &self.topic);
        let payload = self.bytes_literal("");
        self.execute(&format!(
            "insert into outbox_dead_letter values ({id}, {number}, 'a', '{key}', 't.v1', '{topic}', \
             '{key}', {payload}, '{{}}', 0, 'too large', 'parked', 0)"
        ));
    }

    /// Publishes these records in one transaction, with progress that has passed `last_seq` rows
    /// and says that `position` were published.
    pub fn publish(&self, records: &[Told], position: i64, last_seq: i64) {
        self.producer.begin_transaction().unwrap();
        self.send(records);
        let progress = self.progress(position, last_seq);
        let topic = format!("outbox.progress.{}", self.name);
        let record = BaseRecord::<str, str>::to(&topic)
            .key(&self.name)
            .payload(&progress);
        self.producer.send(record).unwrap();
        self.producer.commit_transaction(TIME).unwrap();
    }

    /// The database's mirror says that `position` were published, of rows up to that `seq`.
    pub fn mirror(&self, position: i64) {
        let cursor = format!("{{\"seq\":{position}}}");
        let sum = self.bytes_literal("0123456789abcdef");
        self.execute(&format!(
            "delete from outbox_progress; insert into outbox_progress (epoch, cursor, position, \
             passed, id_sum, progress_offset, topic_id, cluster_id, updated_at) \
             values (1, '{cursor}', {position}, {position}, {sum}, 0, 't', 'c', 0)"
        ));
    }

    /// Publishes records that no progress knows of.
    pub fn smuggle(&self, records: &[Told]) {
        self.producer.begin_transaction().unwrap();
        self.send(records);
        self.producer.commit_transaction(TIME).unwrap();
    }

    /// Sends records and aborts.
    pub fn abort(&self, records: &[Told]) {
        self.producer.begin_transaction().unwrap();
        self.send(records);
        self.producer.flush(TIME).unwrap();
        self.producer.abort_transaction(TIME).unwrap();
    }

    fn send(&self, records: &[Told]) {
        for record in records {
            let id = uuid(record.number).to_string();
            let (position, previous) = (record.position.to_string(), record.previous.to_string());
            let header = |headers: OwnedHeaders, key, value: &str| {
                headers.insert(Header {
                    key,
                    value: Some(value),
                })
            };
            let headers = header(OwnedHeaders::new(), "ce_id", &id);
            let headers = header(headers, "ce_source", &self.name);
            let headers = header(headers, "onceward-position", &position);
            let headers = header(headers, "onceward-previous-position", &previous);
            let record = BaseRecord::to(&self.topic)
                .key(&record.key)
                .payload(&record.payload)
                .partition(0)
                .headers(headers);
            self.producer.send::<String, String>(record).unwrap();
        }
    }

    fn progress(&self, position: i64, last_seq: i64) -> String {
        let cursor = if self.sqlite {
            format!("{{\"seq\":{last_seq}}}")
        } else {
            let done: String = self.runtime.block_on(async {
                let pool = sqlx::PgPool::connect(&self.url).await.unwrap();
                // As the relay does: no further than the rows read.
                let sql = "select '1:' || (coalesce(max(tx_id)::text::bigint, 0) + 1) || ':' \
                     from outbox where seq <= $1";
                let text = sqlx::query_scalar(sql)
                    .bind(last_seq)
                    .fetch_one(&pool)
                    .await
                    .unwrap();
                pool.close().await;
                text
            });
            // xmin = xmax: all below is visible.
            let xmax = done.trim_start_matches("1:").trim_end_matches(':');
            format!("{{\"done\":\"{xmax}:{xmax}:\"}}")
        };
        format!(
            "{{\"format\":1,\"source_id\":\"{}\",\"epoch\":1,\"cursor\":{cursor},\
             \"position\":{position},\"passed\":{last_seq},\"id_sum\":\"00\",\"last\":null,\
             \"partitions\":{{\"{}\":{{\"0\":{position}}}}}}}",
            uuid(999),
            self.topic
        )
    }

    /// The consumer stands at `next_offset`.
    pub fn consumer_at(&self, next_offset: i64) {
        let topic = &self.topic;
        self.execute(&format!(
            "insert into consumer_offset (consumer, topic, topic_id, partition, next_offset, \
             updated_at) values ('group', '{topic}', 't', 0, {next_offset}, 0)"
        ));
    }

    /// The consumer has handled record `offset` with the id of row `number`.
    pub fn handled(&self, number: u32, offset: i64) {
        let (name, topic, id) = (&self.name, &self.topic, uuid(number));
        self.execute(&format!(
            "insert into inbox (consumer, ce_source, ce_id, topic, partition, record_offset, state, \
             received_at) values ('group', '{name}', '{id}', '{topic}', 0, {offset}, 'handled', 0)"
        ));
    }

    /// Audits.
    pub fn audit(&self) -> Report {
        self.audit_at(&kafka::shared().unwrap().bootstrap())
    }

    pub fn audit_at(&self, bootstrap: &str) -> Report {
        let audit = self.what_to_audit(bootstrap);
        self.runtime.block_on(auditor::audit(&audit)).unwrap()
    }

    fn what_to_audit(&self, bootstrap: &str) -> Audit {
        let source = Source {
            name: self.name.clone(),
            url: self.url.clone(),
        };
        Audit::new(bootstrap, [source])
    }

    /// Audits while `goes_on` is called again and again. Another source's database is asked first, which
    /// takes half a second to break off.
    pub fn audit_meanwhile(&self, mut goes_on: impl FnMut()) -> Report {
        let slow = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = slow.local_addr().unwrap();
        std::thread::spawn(move || {
            let _asked = slow.accept();
            std::thread::sleep(Duration::from_millis(500));
        });
        let mut audit = self.what_to_audit(&kafka::shared().unwrap().bootstrap());
        let other = Source {
            name: "slow".to_owned(),
            url: format!("postgres://nobody@{address}/none"),
        };
        audit.sources.insert(0, other);
        let auditing = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(auditor::audit(&audit)).unwrap()
        });
        while !auditing.is_finished() {
            goes_on();
        }
        auditing.join().unwrap()
    }
}
