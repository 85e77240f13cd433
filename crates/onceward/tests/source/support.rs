//! A database per test, and a follower that does with it what a relay does, without Kafka.

use std::future::Future;
use std::str::FromStr;
use std::time::Duration;

use onceward::source::{
    Batch, Claim, Dialect, FetchLimits, OutboxRow, ProgressPlace, RelayEpoch, SourceError,
    SourceStore,
};
use onceward::{
    Backend, Cursor, MessageContext, MessageId, MessageKind, Outbox, ProgressRecord, RawMessage,
    SourceName, Tx, schema,
};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Pool, Postgres, Sqlite};
use tempfile::TempDir;

pub const PLACE: ProgressPlace<'static> = ProgressPlace {
    offset: 1,
    topic_id: "topic",
    cluster_id: "cluster",
};

pub fn place(offset: i64) -> ProgressPlace<'static> {
    ProgressPlace { offset, ..PLACE }
}

pub fn name() -> SourceName {
    SourceName::new("order").unwrap()
}

pub fn limits(max_rows: u32) -> FetchLimits {
    FetchLimits {
        max_rows,
        ..FetchLimits::default()
    }
}

/// A database of a test's own.
pub struct TestDb<B: Backend> {
    pub url: String,
    pub pool: Pool<B>,
    pub folder: Option<TempDir>,
}

pub trait Fixture: Dialect {
    fn empty() -> impl Future<Output = TestDb<Self>> + Send;
    /// A database with the library's tables, being the source `order`.
    fn database() -> impl Future<Output = TestDb<Self>> + Send {
        async {
            let db = Self::empty().await;
            schema::migrate(&db.pool, &name()).await.unwrap();
            db
        }
    }
}

pub async fn sqlite_pool(url: &str) -> Pool<Sqlite> {
    let options = SqliteConnectOptions::from_str(url)
        .unwrap()
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(30));
    SqlitePoolOptions::new()
        .max_connections(12)
        .connect_with(options)
        .await
        .unwrap()
}

impl Fixture for Sqlite {
    async fn empty() -> TestDb<Self> {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("order.db").display());
        TestDb {
            pool: sqlite_pool(&url).await,
            url,
            folder: Some(folder),
        }
    }
}

impl Fixture for Postgres {
    async fn empty() -> TestDb<Self> {
        let url = onceward_testkit::postgres::shared()
            .unwrap()
            .create_database()
            .unwrap();
        TestDb {
            pool: Pool::connect(&url).await.unwrap(),
            url,
            folder: None,
        }
    }
}

/// Runs each function once on SQLite and once on Postgres.
macro_rules! conformance {
    ($($name:ident),* $(,)?) => {
        mod on_sqlite { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<sqlx::Sqlite>().await }
        )* }
        mod on_postgres { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name::<sqlx::Postgres>().await }
        )* }
    };
}

pub fn message(key: Option<&str>, payload: impl Into<Vec<u8>>) -> RawMessage {
    RawMessage {
        message_type: "order.created.v1".into(),
        kind: MessageKind::Event,
        aggregate_type: "order".into(),
        aggregate_id: key.unwrap_or("none").into(),
        message_key: key.map(str::to_owned),
        topic: None,
        payload: payload.into(),
        headers: std::collections::BTreeMap::new(),
    }
}

impl<B: Fixture> TestDb<B> {
    pub async fn store(&self) -> SourceStore<B> {
        SourceStore::open(&self.url, &name()).await.unwrap()
    }
    pub async fn begin(&self) -> Tx<'static, B> {
        self.pool.begin_with(B::BEGIN).await.unwrap()
    }
    /// One committed row.
    pub async fn append(&self, key: &str, payload: &str) -> MessageId {
        let mut tx = self.begin().await;
        let id = append(&mut tx, key, payload).await;
        tx.commit().await.unwrap();
        id
    }
    pub async fn append_many(&self, key: &str, count: usize) {
        let mut tx = self.begin().await;
        for at in 0..count {
            append(&mut tx, key, &at.to_string()).await;
        }
        tx.commit().await.unwrap();
    }
    pub async fn execute(&self, sql: &'static str) -> u64 {
        use onceward::QueryResult;
        sqlx::query(sql)
            .execute(&self.pool)
            .await
            .unwrap()
            .rows_affected()
    }
    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }
}

pub async fn append<B: Backend>(tx: &mut Tx<'_, B>, key: &str, payload: &str) -> MessageId {
    append_message(tx, message(Some(key), payload)).await
}

pub async fn append_message<B: Backend>(tx: &mut Tx<'_, B>, message: RawMessage) -> MessageId {
    Outbox::new(name())
        .append_raw(tx, &MessageContext::start(&onceward::UuidV7), message)
        .await
        .unwrap()
}

/// A relay without Kafka: what it fetched counts as published.
pub struct Follower<B: Dialect> {
    pub store: SourceStore<B>,
    pub epoch: RelayEpoch,
    pub progress: ProgressRecord,
    pub seen: Vec<OutboxRow>,
    pub offset: i64,
}

impl<B: Fixture> Follower<B> {
    pub async fn start(db: &TestDb<B>) -> Self {
        let mut store = db.store().await;
        let epoch = owned(store.claim("a", true).await.unwrap());
        let identity = store.identity().await.unwrap();
        let progress = ProgressRecord::genesis(identity.source_id, identity.epoch, store.genesis());
        store.take_over(epoch, &progress, place(0)).await.unwrap();
        Self {
            store,
            epoch,
            progress,
            seen: Vec::new(),
            offset: 0,
        }
    }

    pub async fn fetch(&mut self, max_rows: u32) -> Result<Batch, SourceError> {
        self.store
            .fetch(&self.progress.cursor, self.progress.last, limits(max_rows))
            .await
    }

    /// Publishes one batch; how many rows it had.
    pub async fn step(&mut self, max_rows: u32) -> Result<usize, SourceError> {
        let batch = self.fetch(max_rows).await?;
        let count = batch.rows.len();
        self.pass(&batch, count);
        Ok(count)
    }

    /// Passes the first rows of a batch.
    pub fn pass(&mut self, batch: &Batch, count: usize) {
        if count == 0 {
            return;
        }
        for row in &batch.rows[..count] {
            self.progress.id_sum.add(row.message_id);
            self.progress.last = Some(onceward::LastRow {
                seq: row.seq,
                message_id: row.message_id,
            });
            self.progress.passed += 1;
            self.progress.position += 1;
            self.seen.push(row.clone());
        }
        self.offset += 1;
        // The way through Kafka: as JSON and back.
        let text = serde_json::to_string(&batch.cursor_after(count)).unwrap();
        self.progress.cursor = serde_json::from_str::<Cursor>(&text).unwrap();
    }

    /// Publishes until a fetch is empty.
    pub async fn drain(&mut self) -> &[OutboxRow] {
        let from = self.seen.len();
        while self.step(100).await.unwrap() > 0 {}
        &self.seen[from..]
    }

    pub async fn mirror(&mut self) {
        let at = place(self.offset);
        self.store
            .write_mirror(self.epoch, &self.progress, at)
            .await
            .unwrap();
    }

    pub fn payloads(&self) -> Vec<String> {
        self.seen.iter().map(payload).collect()
    }
}

pub fn payload(row: &OutboxRow) -> String {
    String::from_utf8(row.payload().to_vec()).unwrap()
}

pub fn owned(claim: Claim) -> RelayEpoch {
    match claim {
        Claim::Owned(epoch) => epoch,
        held @ Claim::Held { .. } => panic!("expected to own the source, but {held:?}"),
    }
}

/// Lets the lease run out without waiting for it.
pub async fn expire_lease<B: Fixture>(db: &TestDb<B>) {
    db.execute("update outbox_source set lease_until = 1").await;
}

pub fn loss(error: SourceError) -> onceward::source::Loss {
    match error {
        SourceError::Lost(loss) => loss,
        other => panic!("expected a loss, got {other:?}"),
    }
}
