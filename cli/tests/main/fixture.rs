//! Databases with a small, fixed story, the same on SQLite and Postgres.

use std::ffi::OsString;
use std::path::PathBuf;

use onceward::{Clock, Micros, SourceName};
use onceward_cli::{Exit, World, run_with};
use onceward_testkit::postgres;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

/// 2026-01-02T03:04:05Z
pub const T0: Micros = 1_767_323_045_000_000;

#[derive(Debug)]
pub struct FixedClock;
impl Clock for FixedClock {
    fn now(&self) -> Micros {
        T0 + 10_000_000
    }
}

/// What a command said.
pub struct Said {
    pub exit: Exit,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Everything in one text for a golden file.
    pub fn all(&self) -> String {
        let mut text = format!("exit {}\n{}", self.exit.code(), self.out);
        if !self.err.is_empty() {
            text.push_str("--- stderr\n");
            text.push_str(&self.err);
        }
        text
    }
}

/// Runs the command in a folder.
pub fn onceward_in(folder: PathBuf, arguments: &[&str]) -> Said {
    let world = World {
        clock: &FixedClock,
        folder,
        terminal: false,
    };
    let (mut out, mut err) = (vec![], vec![]);
    let arguments = std::iter::once("onceward").chain(arguments.iter().copied());
    let exit = run_with(arguments.map(OsString::from), &world, &mut out, &mut err);
    Said {
        exit,
        out: String::from_utf8(out).unwrap(),
        err: String::from_utf8(err).unwrap(),
    }
}

/// An id that is the same in every run.
pub fn id(number: u32) -> String {
    format!("0194227a-0000-7000-8000-{number:012x}")
}

pub struct Shop {
    pub urls: Vec<(&'static str, String)>,
    /// Keeps the files.
    _folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

pub const SOURCES: [&str; 3] = ["order", "inventory", "saga-orchestrator"];

impl Shop {
    pub fn on_sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let urls = SOURCES.map(|s| (s, format!("sqlite://{}", folder.path().join(s).display())));
        Self::with(
            folder,
            urls.map(|(s, url)| (s, format!("{url}.db"))).to_vec(),
        )
    }

    /// One source alone, on SQLite.
    pub fn of(source: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/{source}.db", folder.path().display());
        Self::with(folder, vec![(source, url)])
    }

    pub fn on_postgres() -> Self {
        let server = postgres::shared().unwrap();
        let urls = SOURCES.map(|s| (s, server.create_database().unwrap()));
        Self::with(tempfile::tempdir().unwrap(), urls.to_vec())
    }

    fn with(folder: tempfile::TempDir, urls: Vec<(&'static str, String)>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let shop = Self {
            urls,
            _folder: folder,
            runtime,
        };
        for (name, url) in &shop.urls {
            shop.runtime.block_on(migrate(name, url));
        }
        shop
    }

    pub fn folder(&self) -> PathBuf {
        self._folder.path().to_owned()
    }

    /// The same shop with its story.
    #[must_use]
    pub fn with_story(self) -> Self {
        for (name, statements) in [
            ("order", order_story()),
            ("inventory", inventory_story()),
            ("saga-orchestrator", saga_story()),
        ] {
            for statement in statements {
                self.execute(name, statement);
            }
        }
        self
    }

    pub fn url(&self, source: &str) -> &str {
        &self.urls.iter().find(|(s, _)| *s == source).unwrap().1
    }

    /// Runs one statement. `id:NUMBER` and `bytes:TEXT:` become literals of the database.
    pub fn execute(&self, source: &str, statement: &str) {
        let url = self.url(source);
        let sql = literals(statement, url.starts_with("sqlite"));
        self.runtime.block_on(async {
            let done = if url.starts_with("sqlite") {
                let pool = sqlx::SqlitePool::connect(url).await.unwrap();
                let done = sqlx::raw_sql(AssertSqlSafe(sql.clone()))
                    .execute(&pool)
                    .await
                    .map(drop);
                pool.close().await;
                done
            } else {
                let pool = sqlx::PgPool::connect(url).await.unwrap();
                let done = sqlx::raw_sql(AssertSqlSafe(sql.clone()))
                    .execute(&pool)
                    .await
                    .map(drop);
                pool.close().await;
                done
            };
            done.unwrap_or_else(|e| panic!("{e}: {sql}"));
        });
    }

    /// Runs the command on these databases.
    pub fn onceward(&self, arguments: &[&str]) -> Said {
        self.onceward_with(arguments, &[])
    }

    pub fn onceward_with(&self, arguments: &[&str], more: &[&str]) -> Said {
        let named: Vec<String> = self
            .urls
            .iter()
            .map(|(s, url)| format!("{s}={url}"))
            .collect();
        let mut all: Vec<&str> = arguments.to_vec();
        for one in &named {
            all.extend(["--database", one]);
        }
        all.extend(more);
        onceward_in(self.folder(), &all)
    }
}

async fn migrate(name: &str, url: &str) {
    let source = SourceName::new(name).unwrap();
    let fixed = format!("update outbox_source set source_id = id:900 where name = '{name}'");
    let fixed = literals(&fixed, url.starts_with("sqlite"));
    if url.starts_with("sqlite") {
        let options: SqliteConnectOptions = url.parse().unwrap();
        let options = options
            .create_if_missing(true)
            .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal);
        let pool = SqlitePoolOptions::new()
            .connect_with(options)
            .await
            .unwrap();
        onceward::schema::migrate(&pool, &source).await.unwrap();
        onceward_saga::schema::migrate(&pool).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(fixed))
            .execute(&pool)
            .await
            .unwrap();
        pool.close().await;
    } else {
        let pool = PgPoolOptions::new().connect(url).await.unwrap();
        onceward::schema::migrate(&pool, &source).await.unwrap();
        onceward_saga::schema::migrate(&pool).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(fixed))
            .execute(&pool)
            .await
            .unwrap();
        pool.close().await;
    }
}

/// `id:12` → a UUID, `bytes:abc:` → bytes, `T+5` → microseconds after [`T0`] in milliseconds.
fn literals(text: &str, sqlite: bool) -> String {
    let mut out = String::new();
    for word in text.split_inclusive([' ', ',', '(', ')', '\n']) {
        let end = word.trim_end_matches([' ', ',', '(', ')', '\n']);
        let rest = &word[end.len()..];
        if let Some(number) = end.strip_prefix("id:") {
            let uuid = id(number.parse().unwrap());
            if sqlite {
                out.push_str(&format!("x'{}'", uuid.replace('-', "")));
            } else {
                out.push_str(&format!("'{uuid}'::uuid"));
            }
        } else if let Some(bytes) = end.strip_prefix("bytes:") {
            let hex: String = bytes.bytes().map(|b| format!("{b:02x}")).collect();
            if sqlite {
                out.push_str(&format!("x'{hex}'"));
            } else {
                out.push_str(&format!("'\\x{hex}'::bytea"));
            }
        } else if let Some(ms) = end.strip_prefix("T+") {
            out.push_str(&(T0 + ms.parse::<i64>().unwrap() * 1000).to_string());
        } else {
            out.push_str(end);
        }
        out.push_str(rest);
    }
    if !sqlite {
        out = out.replace(
            "'{\"seq\":1}'",
            "'{\"done\":\"' || pg_current_snapshot()::text || '\"}'",
        );
    }
    out
}

const ORDER_1: &str = "order-1";

pub fn outbox(number: u32, kind: &str, key: &str, cause: Option<u32>, ms: i64) -> String {
    let topic = kind.trim_end_matches(".v1");
    let cause = cause.map_or_else(String::new, |c| format!("\"causation-id\":\"{}\",", id(c)));
    format!(
        "insert into outbox (message_id, aggregate_type, aggregate_id, message_type, topic, \
         message_key, payload, headers, occurred_at) values (id:{number}, 'order', '{key}', \
         '{kind}', '{topic}', '{key}', bytes:{{\"order_id\":\"{key}\"}}, \
         '{{{cause}\"content-type\":\"application/json\",\"correlation-id\":\"{}\"}}', T+{ms})",
        id(if key == ORDER_1 { 100 } else { 101 })
    )
}

/// Everything in the outbox up to now is published.
fn mirror(position: i64) -> String {
    format!(
        "insert into outbox_progress (id, epoch, cursor, position, passed, id_sum, progress_offset, \
         topic_id, cluster_id, updated_at) values (1, 1, '{{\"seq\":1}}', {position}, {position}, \
         bytes:0000000000000000, 3, 't', 'c', T+50)"
    )
}

fn order_story() -> Vec<&'static str> {
    leak([
        outbox(1, "order.created.v1", ORDER_1, None, 0),
        mirror(1),
        outbox(2, "order.created.v1", "order-2", None, 4_000),
        "update outbox_source set owner = 'relay-1', lease_until = T+12000".to_owned(),
        "insert into outbox_parked_key values ('order.created', 'order-3', 'too large', T+3000)"
            .to_owned(),
        "insert into outbox_dead_letter values (id:3, 9, 'order', 'order-3', 'order.created.v1', \
         'order.created', 'order-3', bytes:{}, '{\"a\":\"b\"}', T+2900, 'MessageSizeTooLarge', \
         'parked', T+3000)"
            .to_owned(),
    ])
}

fn saga_story() -> Vec<&'static str> {
    leak([
        outbox(11, "inventory.reserve.v1", ORDER_1, Some(1), 20),
        mirror(1),
        offset("saga-orchestrator-group", "order.created", 0, 2, "null"),
        received("saga-orchestrator-group", "order", 1, ("order.created", 0, 0), "handled", 18),
        "insert into saga_instance values (id:200, 'place-order', 1, 'order-1', 'compensating', \
         'timed out', 1, id:100, null, null, T+20, T+60, null)"
            .to_owned(),
        "insert into saga_event values (id:200, 1, 'started', null, 0, 0, '{}', id:1, T+20)".to_owned(),
        "insert into saga_event values (id:200, 2, 'step_commanded', 'reserve', 0, 1, '{}', null, T+20)"
            .to_owned(),
        "insert into timer values ('saga', id:200, 'deadline/reserve/0/1', 'armed', T+20, T+60020, null)"
            .to_owned(),
    ])
}

fn inventory_story() -> Vec<&'static str> {
    let group = "inventory-service-group";
    leak([
        outbox(21, "inventory.reserved.v1", ORDER_1, Some(11), 41),
        mirror(1),
        offset(group, "inventory.reserve", 1, 9, "null"),
        offset(group, "inventory.release", 0, 4, "'topic id changed'"),
        received(
            group,
            "saga-orchestrator",
            11,
            ("inventory.reserve", 1, 5),
            "handled",
            40,
        ),
        received(
            group,
            "saga-orchestrator",
            12,
            ("inventory.reserve", 1, 6),
            "dead",
            60,
        ),
        received(
            group,
            "saga-orchestrator",
            13,
            ("inventory.reserve", 1, 7),
            "waiting",
            70,
        ),
        format!(
            "insert into inbox_dead_letter values ('{group}', 'inventory.reserve', 1, 6, \
             'saga-orchestrator', '{}', 'inventory.reserve.v1', bytes:order-7, \
             '[[\"ce_type\",\"aW52ZW50b3J5LnJlc2VydmUudjE=\"]]', bytes:{{\"quantity\":-1}}, 5, \
             'payload is not a valid inventory.reserve.v1', 'dead', T+65)",
            id(12)
        ),
        format!(
            "insert into inbox_waiting values ('{group}', 'inventory.reserve', 1, 7, \
             'saga-orchestrator', '{}', 'inventory.reserve.v1', bytes:order-7, '[]', bytes:{{}}, 0, \
             T+70, null, T+70)",
            id(13)
        ),
        "insert into inbox_dead_letter_request (kind, consumer, topic, partition, record_offset, \
         state, requested_by, requested_at, finished_at, note) values ('replay', \
         'inventory-service-group', 'inventory.reserve', 1, 2, 'done', 'ada', T+1, T+2, 'fixed')"
            .to_owned(),
    ])
}

fn offset(group: &str, topic: &str, partition: i32, next: i64, stopped: &str) -> String {
    format!(
        "insert into consumer_offset (consumer, topic, topic_id, partition, next_offset, owner, \
         stopped, updated_at) values ('{group}', '{topic}', 't', {partition}, {next}, 'i-1', \
         {stopped}, T+50)"
    )
}

fn received(
    group: &str,
    source: &str,
    number: u32,
    (topic, partition, offset): (&str, i32, i64),
    state: &str,
    ms: i64,
) -> String {
    let handled = if state == "handled" {
        format!("T+{}", ms + 2)
    } else {
        "null".to_owned()
    };
    let (kind, key) = (
        format!("{topic}.v1"),
        if number < 12 { ORDER_1 } else { "order-7" },
    );
    format!(
        "insert into inbox values ('{group}', '{source}', '{}', '{topic}', {partition}, {offset}, \
         '{kind}', bytes:{key}, '{state}', T+{ms}, {handled})",
        id(number)
    )
}

fn leak<const N: usize>(statements: [String; N]) -> Vec<&'static str> {
    statements.into_iter().map(|s| &*s.leak()).collect()
}
