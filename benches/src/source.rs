//! A database with an outbox, and those who write into it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result};
use onceward::schema::{SchemaBackend, migrate};
use onceward::{
    Db, Event, MessageContext, MessageKind, OpenOptions, Outbox, RawMessage, SourceName, Tx,
    UuidV7, sqlite_options,
};
use onceward_testkit::postgres::create_database;
use serde::{Deserialize, Serialize};
use sqlx::{ConnectOptions, Connection, Executor, Postgres, Sqlite};

use crate::relay::Whose;
use crate::stage::{PARTITIONS, Stage};

/// Length of a payload where it isn't what varies. It is a JSON object: [`HEAD`], the row's number in
/// eight digits, [`MIDDLE`], `x`s, [`TAIL`].
pub(crate) const PAYLOAD_BYTES: usize = 300;
const HEAD: &str = r#"{"n":""#;
const MIDDLE: &str = r#"","filler":""#;
const TAIL: &str = r#""}"#;
const DIGITS: usize = 8;
/// How many keys there are.
const KEYS: u32 = 1_000;
/// Rows that a SQLite database is filled with in one transaction: its log grows to their size.
const SQLITE_CHUNK: u32 = 200_000;

/// How many `x`s a payload of this length holds.
fn filler(payload_bytes: usize) -> usize {
    payload_bytes.saturating_sub(HEAD.len() + DIGITS + MIDDLE.len() + TAIL.len())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    Sqlite,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Postgres, Self::Sqlite];
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Postgres => "Postgres",
            Self::Sqlite => "SQLite",
        }
    }
}

/// A new and empty database.
pub(crate) async fn database(stage: &Stage, kind: Kind, name: &str) -> Result<String> {
    match kind {
        Kind::Postgres => {
            create_database(&stage.postgres.url("postgres"), name)?;
            Ok(stage.postgres.url(name))
        }
        Kind::Sqlite => {
            let file = stage.folder.path().join(name).with_extension("db");
            let url = format!("sqlite://{}", file.display());
            let made = sqlite_options(&url)?.create_if_missing(true);
            made.connect().await?.close().await?;
            Ok(url)
        }
    }
}

/// What every payload says.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(type = "bench.happened.v1", id = n)]
pub(crate) struct Happened {
    n: String,
    filler: String,
}

impl Happened {
    pub(crate) fn number(&self) -> i64 {
        self.n.parse().unwrap_or(-1)
    }
    /// A short text to store.
    pub(crate) fn note(&self) -> &str {
        self.filler.get(..40).unwrap_or(&self.filler)
    }
}

/// The row's number out of a payload.
pub(crate) fn number_of(payload: &[u8]) -> Option<usize> {
    let digits = payload.get(HEAD.len()..HEAD.len() + DIGITS)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// What the rows of a source are like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) payload_bytes: usize,
    /// Of the topic.
    pub(crate) partitions: i32,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            payload_bytes: PAYLOAD_BYTES,
            partitions: PARTITIONS,
        }
    }
}

/// A migrated source with a topic of its own.
pub(crate) struct Source {
    pub(crate) kind: Kind,
    pub(crate) whose: Whose,
    pub(crate) shape: Shape,
    pub(crate) name: String,
    pub(crate) topic: String,
    pub(crate) url: String,
    /// How many of its rows were published before those in the topic.
    pub(crate) before: u64,
}

impl Source {
    /// The same, to be published by this relay.
    pub(crate) fn by(self, whose: Whose) -> Self {
        Self { whose, ..self }
    }

    pub(crate) async fn make(stage: &mut Stage, kind: Kind) -> Result<Self> {
        Self::shaped(stage, kind, Shape::default()).await
    }

    pub(crate) async fn shaped(stage: &mut Stage, kind: Kind, shape: Shape) -> Result<Self> {
        let name = stage.name("bench");
        let (topic, source) = (format!("{name}.happened"), SourceName::new(&name)?);
        stage.make_topic(&topic, shape.partitions).await?;
        let url = database(stage, kind, &name).await?;
        match kind {
            Kind::Postgres => {
                let db = Db::<Postgres>::open(&url, OpenOptions::default()).await?;
                migrate(db.pool(), &source).await?;
                db.close().await;
            }
            Kind::Sqlite => {
                let db = Db::<Sqlite>::open(&url, OpenOptions::default()).await?;
                migrate(db.pool(), &source).await?;
                db.close().await;
            }
        }
        Ok(Self {
            kind,
            whose: Whose::Ours,
            shape,
            name,
            topic,
            url,
            before: 0,
        })
    }

    /// Lets rows go to a new topic from now on, and deletes the one before and its `published` records:
    /// their rows stay in the outbox.
    pub(crate) async fn move_on(&mut self, stage: &mut Stage, published: u64) -> Result<()> {
        let topic = format!("{}.happened", stage.name("bench"));
        stage.make_topic(&topic, self.shape.partitions).await?;
        stage.delete_topic(&self.topic).await?;
        self.topic = topic;
        self.before += published;
        Ok(())
    }

    /// As the relay takes it.
    pub(crate) fn option(&self) -> String {
        format!("{}={}", self.name, self.url)
    }

    /// Fills the outbox with rows of the numbers 0 to `rows` - 1, one transaction a row.
    pub(crate) async fn fill(&self, rows: u32) -> Result<()> {
        self.fill_with(rows, 1).await
    }

    /// Fills the outbox with rows of the numbers 0 to `rows` - 1: on Postgres `rows_a_commit` in one
    /// transaction (the commits are not durable each, which the reader of the rows can't tell), on
    /// SQLite, where transactions leave no trace in the rows, [`SQLITE_CHUNK`].
    pub(crate) async fn fill_with(&self, rows: u32, rows_a_commit: u32) -> Result<()> {
        let (topic, filler) = (&self.topic, filler(self.shape.payload_bytes));
        match self.kind {
            Kind::Postgres => {
                let mut conn = sqlx::PgConnection::connect(&self.url).await?;
                let sql = format!(
                    "set synchronous_commit = off;
                     create procedure fill() language plpgsql as $$ begin
                       for begun in 0..{rows} - 1 by {rows_a_commit} loop
                         insert into outbox (message_id, aggregate_type, aggregate_id, message_type,
                           topic, message_key, payload, headers, occurred_at)
                         select gen_random_uuid(), 'bench', 'key-' || n % {KEYS}, 'bench.happened.v1',
                           '{topic}', 'key-' || n % {KEYS},
                           convert_to('{HEAD}' || lpad(n::text, {DIGITS}, '0') || '{MIDDLE}' ||
                             repeat('x', {filler}) || '{TAIL}', 'UTF8'),
                           '{{\"content-type\":\"application/json\",\"correlation-id\":\"' ||
                             gen_random_uuid()::text || '\",\"onceward-kind\":\"event\"}}',
                           (extract(epoch from clock_timestamp()) * 1000000)::bigint
                         from generate_series(begun, least(begun + {rows_a_commit}, {rows}) - 1) n;
                         commit;
                       end loop;
                     end $$;"
                );
                conn.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(sql)))
                    .await?;
                conn.execute("call fill()").await?;
                for sql in ["drop procedure fill", "vacuum analyze outbox", "checkpoint"] {
                    conn.execute(sql).await?;
                }
                conn.close().await?;
            }
            Kind::Sqlite => {
                let mut conn = sqlite_options(&self.url)?.connect().await?;
                let sql = format!(
                    "with recursive n(n) as (select $1 union all select n + 1 from n where n + 1 < $2)
                     insert into outbox (message_id, aggregate_type, aggregate_id, message_type, topic,
                       message_key, payload, headers, occurred_at)
                     select randomblob(16), 'bench', 'key-' || (n % {KEYS}), 'bench.happened.v1',
                       '{topic}', 'key-' || (n % {KEYS}),
                       cast('{HEAD}' || printf('%0{DIGITS}d', n) || '{MIDDLE}' ||
                         substr(replace(hex(zeroblob({filler})), '0', 'x'), 1, {filler}) || '{TAIL}'
                         as blob),
                       '{{\"content-type\":\"application/json\",\"correlation-id\":\"' ||
                         lower(hex(randomblob(4))) || '-0000-4000-8000-' ||
                         lower(hex(randomblob(6))) || '\",\"onceward-kind\":\"event\"}}',
                       unixepoch() * 1000000 + n
                     from n"
                );
                for begun in (0..rows).step_by(usize::try_from(SQLITE_CHUNK)?) {
                    sqlx::query(sqlx::AssertSqlSafe(sql.as_str()))
                        .bind(begun)
                        .bind(rows.min(begun + SQLITE_CHUNK))
                        .execute(&mut conn)
                        .await?;
                    sqlx::query("pragma wal_checkpoint(truncate)")
                        .execute(&mut conn)
                        .await?;
                }
                conn.close().await?;
            }
        }
        Ok(())
    }

    pub(crate) async fn writer(&self) -> Result<Writer> {
        let outbox = Outbox::new(SourceName::new(&self.name)?);
        let db = match self.kind {
            Kind::Postgres => {
                Open::Postgres(Db::<Postgres>::open(&self.url, OpenOptions::default()).await?)
            }
            Kind::Sqlite => {
                Open::Sqlite(Db::<Sqlite>::open(&self.url, OpenOptions::default()).await?)
            }
        };
        Ok(Writer {
            db,
            outbox,
            topic: self.topic.as_str().into(),
            payload_bytes: self.shape.payload_bytes,
        })
    }
}

enum Open {
    Postgres(Db<Postgres>),
    Sqlite(Db<Sqlite>),
}

/// Commits rows, one a transaction if nothing else is said.
pub(crate) struct Writer {
    db: Open,
    outbox: Outbox,
    topic: Arc<str>,
    payload_bytes: usize,
}

impl Writer {
    /// As a service does it: a unit of work, which sends a hint.
    pub(crate) async fn write(&self, number: usize) -> Result<()> {
        self.write_all(number..number + 1).await
    }

    /// Several rows by one unit of work.
    pub(crate) async fn write_all(&self, numbers: Range<usize>) -> Result<()> {
        match &self.db {
            Open::Postgres(db) => self.unit_of_work(db, numbers).await,
            Open::Sqlite(db) => self.unit_of_work(db, numbers).await,
        }
    }

    async fn unit_of_work<B: SchemaBackend>(
        &self,
        db: &Db<B>,
        numbers: Range<usize>,
    ) -> Result<()> {
        let outbox = self.outbox.clone();
        let messages: Vec<RawMessage> = numbers.map(|number| self.message(number)).collect();
        db.write(async move |tx: &mut Tx<'static, B>| {
            for message in &messages {
                let context = MessageContext::start(&UuidV7);
                outbox
                    .append_raw::<B>(tx, &context, message.clone())
                    .await?;
            }
            Ok::<_, onceward::Error>(())
        })
        .await
        .context("unit of work")
    }

    /// A transaction of the service's own, without a hint.
    pub(crate) async fn write_plainly(&self, number: usize) -> Result<()> {
        let (context, message) = (MessageContext::start(&UuidV7), self.message(number));
        match &self.db {
            Open::Postgres(db) => {
                let mut tx = db.pool().begin().await?;
                self.outbox
                    .append_raw::<Postgres>(&mut tx, &context, message)
                    .await?;
                tx.commit().await?;
            }
            Open::Sqlite(db) => {
                let mut tx = db.pool().begin_with("BEGIN IMMEDIATE").await?;
                self.outbox
                    .append_raw::<Sqlite>(&mut tx, &context, message)
                    .await?;
                tx.commit().await?;
            }
        }
        Ok(())
    }

    fn message(&self, number: usize) -> RawMessage {
        message(number, &self.topic, self.payload_bytes)
    }

    pub(crate) async fn close(&self) {
        match &self.db {
            Open::Postgres(db) => db.close().await,
            Open::Sqlite(db) => db.close().await,
        }
    }
}

/// What is written about the row of this number.
pub(crate) fn message(number: usize, topic: &str, payload_bytes: usize) -> RawMessage {
    let key = format!("key-{}", number % usize::try_from(KEYS).unwrap_or(1));
    let filler = "x".repeat(filler(payload_bytes));
    let payload = format!("{HEAD}{number:0DIGITS$}{MIDDLE}{filler}{TAIL}");
    RawMessage {
        message_type: Happened::TYPE.into(),
        kind: MessageKind::Event,
        aggregate_type: "bench".into(),
        aggregate_id: key.clone(),
        message_key: Some(key),
        topic: Some(topic.to_owned()),
        payload: payload.into_bytes(),
        headers: BTreeMap::new(),
    }
}
