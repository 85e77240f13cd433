//! A database with an outbox, and those who write into it.

use std::collections::BTreeMap;
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

use crate::stage::Stage;

/// Length of every payload, a JSON object: [`HEAD`], the row's number in eight digits, [`MIDDLE`], `x`s,
/// [`TAIL`].
pub(crate) const PAYLOAD_BYTES: usize = 300;
const HEAD: &str = r#"{"n":""#;
const MIDDLE: &str = r#"","filler":""#;
const TAIL: &str = r#""}"#;
/// How many `x`s: a literal, because SQL texts hold it too.
const FILLER: usize = PAYLOAD_BYTES - HEAD.len() - DIGITS - MIDDLE.len() - TAIL.len();
const DIGITS: usize = 8;
/// How many keys there are.
const KEYS: u32 = 1_000;

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

/// A migrated source with a topic of its own.
pub(crate) struct Source {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) topic: String,
    pub(crate) url: String,
}

impl Source {
    pub(crate) async fn make(stage: &mut Stage, kind: Kind) -> Result<Self> {
        let name = stage.name("bench");
        let (topic, source) = (format!("{name}.happened"), SourceName::new(&name)?);
        stage.make_topic(&topic).await?;
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
            name,
            topic,
            url,
        })
    }

    /// As the relay takes it.
    pub(crate) fn option(&self) -> String {
        format!("{}={}", self.name, self.url)
    }

    /// Fills the outbox: on Postgres one transaction a row (the commits are not durable each, which
    /// the reader of the rows can't tell), on SQLite, where transactions leave no trace in the rows,
    /// all at once.
    pub(crate) async fn fill(&self, rows: u32) -> Result<()> {
        let topic = &self.topic;
        match self.kind {
            Kind::Postgres => {
                let mut conn = sqlx::PgConnection::connect(&self.url).await?;
                let sql = format!(
                    "set synchronous_commit = off;
                     create procedure fill() language plpgsql as $$ begin
                       for n in 1..{rows} loop
                         insert into outbox (message_id, aggregate_type, aggregate_id, message_type,
                           topic, message_key, payload, headers, occurred_at)
                         values (gen_random_uuid(), 'bench', 'key-' || n % {KEYS}, 'bench.happened.v1',
                           '{topic}', 'key-' || n % {KEYS},
                           convert_to('{HEAD}' || lpad((n - 1)::text, {DIGITS}, '0') || '{MIDDLE}' ||
                             repeat('x', {FILLER}) || '{TAIL}', 'UTF8'),
                           '{{\"content-type\":\"application/json\",\"correlation-id\":\"' ||
                             gen_random_uuid()::text || '\",\"onceward-kind\":\"event\"}}',
                           (extract(epoch from clock_timestamp()) * 1000000)::bigint);
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
                    "with recursive n(n) as (select 1 union all select n + 1 from n where n < {rows})
                     insert into outbox (message_id, aggregate_type, aggregate_id, message_type, topic,
                       message_key, payload, headers, occurred_at)
                     select randomblob(16), 'bench', 'key-' || (n % {KEYS}), 'bench.happened.v1',
                       '{topic}', 'key-' || (n % {KEYS}),
                       cast('{HEAD}' || printf('%0{DIGITS}d', n - 1) || '{MIDDLE}' ||
                         substr(replace(hex(zeroblob({FILLER})), '0', 'x'), 1, {FILLER}) || '{TAIL}'
                         as blob),
                       '{{\"content-type\":\"application/json\",\"correlation-id\":\"' ||
                         lower(hex(randomblob(4))) || '-0000-4000-8000-' ||
                         lower(hex(randomblob(6))) || '\",\"onceward-kind\":\"event\"}}',
                       unixepoch() * 1000000 + n
                     from n"
                );
                sqlx::query(sqlx::AssertSqlSafe(sql))
                    .execute(&mut conn)
                    .await?;
                sqlx::query("pragma wal_checkpoint(truncate)")
                    .execute(&mut conn)
                    .await?;
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
        })
    }
}

enum Open {
    Postgres(Db<Postgres>),
    Sqlite(Db<Sqlite>),
}

/// Commits one row a transaction.
pub(crate) struct Writer {
    db: Open,
    outbox: Outbox,
    topic: Arc<str>,
}

impl Writer {
    /// As a service does it: a unit of work, which sends a hint.
    pub(crate) async fn write(&self, number: usize) -> Result<()> {
        match &self.db {
            Open::Postgres(db) => self.unit_of_work(db, number).await,
            Open::Sqlite(db) => self.unit_of_work(db, number).await,
        }
    }

    async fn unit_of_work<B: SchemaBackend>(&self, db: &Db<B>, number: usize) -> Result<()> {
        let (outbox, message) = (self.outbox.clone(), message(number, &self.topic));
        db.write(async move |tx: &mut Tx<'static, B>| {
            let context = MessageContext::start(&UuidV7);
            let written = outbox.append_raw::<B>(tx, &context, message.clone()).await;
            written.map(drop)
        })
        .await
        .context("unit of work")
    }

    /// A transaction of the service's own, without a hint.
    pub(crate) async fn write_plainly(&self, number: usize) -> Result<()> {
        let (context, message) = (MessageContext::start(&UuidV7), message(number, &self.topic));
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

    pub(crate) async fn close(&self) {
        match &self.db {
            Open::Postgres(db) => db.close().await,
            Open::Sqlite(db) => db.close().await,
        }
    }
}

/// What is written about the row of this number.
pub(crate) fn message(number: usize, topic: &str) -> RawMessage {
    let key = format!("key-{}", number % usize::try_from(KEYS).unwrap_or(1));
    let payload = format!(
        "{HEAD}{number:0DIGITS$}{MIDDLE}{}{TAIL}",
        "x".repeat(FILLER)
    );
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
