//! A database with an outbox, written to by a plain application.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};

use onceward::schema::{SchemaBackend, migrate, run_line};
use onceward::{
    IdGen, MAX_KEY_BYTES, MessageContext, MessageKind, Outbox, RawMessage, SourceName, Tx, UuidV7,
};
use onceward_testkit::postgres;
use sqlx::migrate::Migrator;
use sqlx::{Pool, Postgres, Sqlite};
use tokio::runtime::Runtime;

/// A database the tests run on.
pub trait Database: SchemaBackend {
    const LABEL: &str;
    fn make(name: &str) -> (String, Option<tempfile::TempDir>);
    fn connect(url: &str) -> impl Future<Output = Pool<Self>>;
    /// Whether nobody holds the whole database's write lock.
    fn is_writable(pool: &Pool<Self>) -> impl Future<Output = bool>;
}

impl Database for Sqlite {
    const LABEL: &str = "SQLite";
    fn make(name: &str) -> (String, Option<tempfile::TempDir>) {
        let folder = tempfile::tempdir().unwrap();
        let file: PathBuf = folder.path().join(format!("{name}.db"));
        (format!("sqlite://{}", file.display()), Some(folder))
    }
    async fn connect(url: &str) -> Pool<Self> {
        use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
        let options: SqliteConnectOptions = url.parse().unwrap();
        let options = options
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(std::time::Duration::from_secs(20));
        Pool::connect_with(options).await.unwrap()
    }
    async fn is_writable(pool: &Pool<Self>) -> bool {
        let mut conn = pool.acquire().await.unwrap().detach();
        let sql = "pragma busy_timeout = 500; begin immediate; rollback";
        sqlx::raw_sql(sql).execute(&mut conn).await.is_ok()
    }
}

impl Database for Postgres {
    const LABEL: &str = "Postgres";
    fn make(_name: &str) -> (String, Option<tempfile::TempDir>) {
        let server = postgres::shared().unwrap();
        (server.create_database().unwrap(), None)
    }
    async fn connect(url: &str) -> Pool<Self> {
        Pool::connect(url).await.unwrap()
    }
    async fn is_writable(_pool: &Pool<Self>) -> bool {
        true
    }
}

/// One source.
pub struct Source<B: Database> {
    pub name: SourceName,
    pub url: String,
    pub pool: Pool<B>,
    outbox: Outbox,
    runtime: Runtime,
    _folder: Option<tempfile::TempDir>,
}

/// What a row is made of; the payload tells rows apart.
pub struct Row<'a> {
    pub topic: &'a str,
    pub key: Option<&'a str>,
    pub payload: String,
}

impl<B: Database> Source<B> {
    /// A migrated, empty source with a name of its own.
    pub fn new(test: &str) -> Self {
        Self::with_name(&format!("{test}-{:08x}", rand_u32()))
    }

    /// A migrated, empty source with this name.
    pub fn with_name(name: &str) -> Self {
        let (url, folder) = B::make(name);
        Self::build(&url, name, folder)
    }

    /// A source in this empty database.
    pub fn at(url: &str, test: &str) -> Self {
        Self::build(url, &format!("{test}-{:08x}", rand_u32()), None)
    }

    fn build(url: &str, name: &str, folder: Option<tempfile::TempDir>) -> Self {
        let name = SourceName::new(name).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let pool = runtime.block_on(async {
            let pool = B::connect(url).await;
            migrate(&pool, &name).await.unwrap();
            pool
        });
        Self {
            outbox: Outbox::new(name.clone()).with_max_payload_bytes(16 << 20),
            name,
            url: url.to_owned(),
            pool,
            runtime,
            _folder: folder,
        }
    }

    /// What a service of this version does at its start.
    pub fn migrate(&self) {
        self.runtime
            .block_on(migrate(&self.pool, &self.name))
            .unwrap();
    }

    /// What a service of a version that is not written yet does at its start, up to this migration.
    pub fn migrate_to(&self, version: i64) {
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/version-after-next");
        self.runtime.block_on(async {
            let mut ahead = Migrator::new(folder).await.unwrap();
            let migrations = ahead.migrations.to_mut();
            migrations.retain(|migration| migration.version <= version);
            run_line(&self.pool, &ahead, "_onceward_migrations")
                .await
                .unwrap();
        });
    }

    /// `NAME=URL`.
    pub fn option(&self) -> String {
        format!("{}={}", self.name, self.url)
    }

    /// Commits these rows in one transaction.
    pub fn write(&self, rows: &[Row<'_>]) {
        self.try_write(rows).unwrap();
    }

    fn try_write(&self, rows: &[Row<'_>]) -> onceward_testkit::Result<()> {
        self.runtime.block_on(async {
            let mut tx = self.pool.begin_with(B::BEGIN).await?;
            for row in rows {
                let message = RawMessage {
                    message_type: "test.happened.v1".into(),
                    kind: MessageKind::Event,
                    aggregate_type: "test".into(),
                    aggregate_id: row.key.unwrap_or("none").into(),
                    message_key: row.key.map(str::to_owned),
                    topic: Some(row.topic.into()),
                    payload: row.payload.clone().into_bytes(),
                    headers: BTreeMap::new(),
                };
                // `append` refuses these; who writes rows by hand can do it.
                let named = onceward::is_topic_name(row.topic);
                if !named || row.key.is_some_and(|key| key.len() > MAX_KEY_BYTES) {
                    self.insert_by_hand(&mut tx, message).await?;
                    continue;
                }
                let context = MessageContext::start(&UuidV7);
                self.outbox
                    .append_raw::<B>(&mut tx, &context, message)
                    .await?;
            }
            Ok(tx.commit().await?)
        })
    }

    async fn insert_by_hand(
        &self,
        tx: &mut Tx<'static, B>,
        message: RawMessage,
    ) -> onceward_testkit::Result<()> {
        sqlx::query(
            "insert into outbox (message_id, aggregate_type, aggregate_id, message_type, topic, \
             message_key, payload, headers, occurred_at) values ($1, $2, $3, $4, $5, $6, $7, '{}', 0)",
        )
        .bind(UuidV7.next())
        .bind(message.aggregate_type)
        .bind(message.aggregate_id)
        .bind(message.message_type)
        .bind(message.topic)
        .bind(message.message_key)
        .bind(message.payload)
        .execute(&mut **tx)
        .await?;
        Ok(())
    }

    /// Commits rows of one key in one transaction, or says why not.
    pub fn try_write_key(
        &self,
        topic: &str,
        key: &str,
        numbers: std::ops::Range<u32>,
    ) -> onceward_testkit::Result<()> {
        let rows: Vec<Row<'_>> = numbers
            .map(|number| Row {
                topic,
                key: Some(key),
                payload: format!("{key}:{number}"),
            })
            .collect();
        self.try_write(&rows)
    }

    /// Commits `count` rows `key:from` … of one key, a few a transaction.
    pub fn write_key(&self, topic: &str, key: &str, numbers: std::ops::Range<u32>) {
        let numbers: Vec<u32> = numbers.collect();
        for chunk in numbers.chunks(3) {
            let rows: Vec<Row<'_>> = chunk
                .iter()
                .map(|number| Row {
                    topic,
                    key: Some(key),
                    payload: format!("{key}:{number}"),
                })
                .collect();
            self.write(&rows);
        }
    }

    /// One number out of the database.
    pub fn number(&self, sql: &'static str) -> i64 {
        self.runtime
            .block_on(sqlx::query_scalar::<_, i64>(sql).fetch_one(&self.pool))
            .unwrap()
    }

    /// One text out of the database.
    pub fn text(&self, sql: &'static str) -> Option<String> {
        self.runtime
            .block_on(sqlx::query_scalar::<_, Option<String>>(sql).fetch_one(&self.pool))
            .unwrap()
    }

    /// Whether nobody holds the whole database's write lock.
    pub fn is_writable(&self) -> bool {
        self.runtime.block_on(B::is_writable(&self.pool))
    }

    /// Closes the application's connections.
    pub fn close(&self) {
        self.runtime.block_on(self.pool.close());
    }

    /// Runs a statement.
    pub fn execute(&self, sql: &str) {
        self.runtime
            .block_on(sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).execute(&self.pool))
            .unwrap();
    }

    /// Asks for the replay of a key.
    pub fn ask(&self, kind: &str, topic: &str, key: &str) {
        self.execute(&format!(
            "insert into outbox_dead_letter_request (kind, topic, message_key, requested_by, \
             requested_at) values ('{kind}', '{topic}', '{key}', 'a test', 0)"
        ));
    }

    /// Requests that are not ended.
    pub fn open_requests(&self) -> i64 {
        self.number(
            "select cast(count(*) as bigint) from outbox_dead_letter_request \
             where state in ('requested', 'running')",
        )
    }

    /// Copies that wait behind parked keys.
    pub fn parked_rows(&self) -> i64 {
        self.number(
            "select cast(count(*) as bigint) from outbox_dead_letter where state = 'parked'",
        )
    }
}

pub fn rand_u32() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    let hash = std::hash::RandomState::new().build_hasher().finish();
    u32::try_from(hash & 0xffff_ffff).unwrap()
}
