//! Reads one database's outbox and inbox in one snapshot, without creating or locking anything.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::TryStreamExt as _;
use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection, SqliteConnection};
use uuid::Uuid;

use crate::check::InboxState;
use crate::record::{Identity, hash_bytes};
use crate::{Interner, ProgressView, Symbol};

/// One row of `outbox`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its number.
    pub seq: i64,
    /// Its message id.
    pub uuid: Uuid,
    /// Its topic.
    pub topic: Symbol,
    /// Hash of its key.
    pub key: u64,
    /// Whether it has a key.
    pub keyed: bool,
    /// Hash of its payload.
    pub payload: u64,
    /// Whether the progress record has passed it.
    pub passed: bool,
}

/// One row of `consumer_offset`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetRow {
    /// Consumer name.
    pub consumer: String,
    /// Topic.
    pub topic: Symbol,
    /// Partition.
    pub partition: i32,
    /// Everything below is handled, waiting or dead.
    pub next_offset: i64,
    /// Inbox rows below were purged.
    pub floor_offset: i64,
}

/// What one database says.
#[derive(Debug, Clone, Default)]
pub struct DatabaseEvidence {
    /// `outbox_source.source_id`.
    pub source_id: Option<Uuid>,
    /// `outbox_source.name`.
    pub source_name: String,
    /// `outbox_source.epoch`.
    pub epoch: i64,
    /// Rows up to here were purged.
    pub floor_seq: i64,
    /// The mirror of the progress: cursor and position, at most a second old.
    pub mirror: Option<(Value, i64)>,
    /// The outbox.
    pub rows: Vec<OutboxRow>,
    /// Message ids of parked rows, and whether each was discarded.
    pub parked: HashMap<Uuid, bool>,
    /// Where its consumers stand.
    pub offsets: Vec<OffsetRow>,
    /// Inbox rows by consumer and identity.
    pub inbox: HashMap<String, HashMap<Identity, InboxState>>,
    /// Inbox rows of records without an id, by consumer and coordinates.
    pub inbox_by_place: HashMap<String, HashMap<(Symbol, i32, i64), InboxState>>,
    /// Waiting or dead inbox rows whose message is not kept: (consumer, state, id, coordinates).
    pub copies_missing: Vec<(String, String, String, String)>,
}

/// An open connection of either database.
#[derive(Debug)]
pub enum Connection {
    /// SQLite.
    Sqlite(SqliteConnection),
    /// Postgres.
    Postgres(PgConnection),
}

/// Runs the same sqlx code for both databases.
macro_rules! on {
    ($connection:expr, $c:ident => $body:expr) => {
        match $connection {
            Connection::Sqlite($c) => $body,
            Connection::Postgres($c) => $body,
        }
    };
}

/// Opens a database for reading: `sqlite:…` or `postgres:…`. Creates no file.
pub async fn open_read_only(url: &str) -> Result<Connection> {
    if url.starts_with("sqlite:") {
        let options: SqliteConnectOptions = url.parse()?;
        let file = options.get_filename().to_owned();
        let mut wal = file.clone().into_os_string();
        wal.push("-wal");
        // A WAL database that nobody has open has no side files, and reading would make them;
        // with nobody writing it may be read as it lies.
        let at_rest = file.exists() && !Path::new(&wal).exists();
        let options = options
            .create_if_missing(false)
            .read_only(true)
            .immutable(at_rest)
            .busy_timeout(Duration::from_secs(5));
        let connection = options
            .connect()
            .await
            .with_context(|| format!("can't open {}", file.display()))?;
        Ok(Connection::Sqlite(connection))
    } else if url.starts_with("postgres:") || url.starts_with("postgresql:") {
        let options: sqlx::postgres::PgConnectOptions = url.parse()?;
        let options = options.application_name("onceward-auditor").options([
            ("default_transaction_read_only", "on"),
            ("lock_timeout", "5s"),
        ]);
        let connect = tokio::time::timeout(Duration::from_secs(5), options.connect());
        let at = format!("Postgres at {}:{}", options.get_host(), options.get_port());
        let late = || format!("{at} gives no answer in 5 s: is the address right?");
        let connected = connect.await.with_context(late)?;
        let connection = connected.context(at)?;
        Ok(Connection::Postgres(connection))
    } else {
        bail!("a database URL starts with sqlite: or postgres:")
    }
}

/// Reads everything in one snapshot. `progress` decides which rows are passed; without it the
/// database's own mirror does.
pub async fn read_database(
    url: &str,
    progress: Option<&ProgressView>,
    names: &mut Interner,
) -> Result<DatabaseEvidence> {
    let mut connection = open_read_only(url).await?;
    match &mut connection {
        Connection::Sqlite(c) => sqlx::query("begin").execute(c).await.map(drop)?,
        Connection::Postgres(c) => {
            sqlx::query("begin isolation level repeatable read read only")
                .execute(c)
                .await
                .map(drop)?;
        }
    }
    let mut found = DatabaseEvidence::default();
    read_source(&mut connection, &mut found).await?;
    read_outbox(&mut connection, progress, names, &mut found).await?;
    read_offsets(&mut connection, names, &mut found).await?;
    read_inbox(&mut connection, names, &mut found).await?;
    read_missing_copies(&mut connection, &mut found).await?;
    on!(&mut connection, c => sqlx::query("rollback").execute(c).await.map(drop))?;
    on!(connection, c => sqlx::Connection::close(c).await)?;
    Ok(found)
}

type SourceRow = (Uuid, String, i64, i64, Option<String>, Option<i64>);

async fn read_source(connection: &mut Connection, found: &mut DatabaseEvidence) -> Result<()> {
    const SOURCE: &str = "select s.source_id, s.name, s.epoch, coalesce(p.floor_seq, 0), \
         p.cursor, p.position \
         from outbox_source s left join outbox_progress p on p.id = 1 where s.id = 1";
    let row: Option<SourceRow> =
        on!(connection, c => sqlx::query_as(SOURCE).fetch_optional(&mut *c).await)
            .context("no Onceward tables")?;
    if let Some((id, name, epoch, floor, cursor, position)) = row {
        found.source_id = Some(id);
        found.source_name = name;
        found.epoch = epoch;
        found.floor_seq = floor;
        let cursor = cursor.as_deref().map(serde_json::from_str).transpose()?;
        found.mirror = cursor.zip(position);
    }
    const PARKED: &str = "select message_id, state from outbox_dead_letter";
    let parked: Vec<(Uuid, String)> =
        on!(connection, c => sqlx::query_as(PARKED).fetch_all(&mut *c).await)?;
    found.parked = parked
        .into_iter()
        .map(|(id, state)| (id, state == "discarded"))
        .collect();
    Ok(())
}

type Row = (i64, Uuid, String, Option<String>, Vec<u8>, bool);

async fn read_outbox(
    connection: &mut Connection,
    progress: Option<&ProgressView>,
    names: &mut Interner,
    found: &mut DatabaseEvidence,
) -> Result<()> {
    const SQLITE: &str = "select seq, message_id, topic, message_key, payload, seq <= $1 \
         from outbox order by seq";
    const POSTGRES: &str = "select seq, message_id, topic, message_key, payload, \
         pg_visible_in_snapshot(tx_id, $1::text::pg_snapshot) \
         or (seq <= $3 and pg_visible_in_snapshot(tx_id, $2::text::pg_snapshot)) \
         from outbox order by seq";
    let mirrored = found
        .mirror
        .as_ref()
        .map_or(Value::Null, |(c, _)| c.clone());
    let cursor = progress.map_or(&mirrored, |p| &p.cursor);
    let rows = &mut found.rows;
    let mut keep = |(seq, uuid, topic, key, payload, passed): Row| {
        rows.push(OutboxRow {
            seq,
            uuid,
            topic: names.intern(&topic),
            keyed: key.is_some(),
            key: hash_bytes(key.as_deref().map(str::as_bytes)),
            payload: hash_bytes(Some(&payload)),
            passed,
        });
    };
    match connection {
        Connection::Sqlite(c) => {
            let seq = cursor["seq"].as_i64().unwrap_or(0);
            let mut stream = sqlx::query_as::<_, Row>(SQLITE).bind(seq).fetch(c);
            while let Some(row) = stream.try_next().await? {
                keep(row);
            }
        }
        Connection::Postgres(c) => {
            let done = cursor["done"].as_str().unwrap_or("1:1:").to_owned();
            let page = &cursor["page"];
            let current = page["current"].as_str().unwrap_or("1:1:").to_owned();
            let last_seq = page["last_seq"].as_i64().unwrap_or(0);
            let mut stream = sqlx::query_as::<_, Row>(POSTGRES)
                .bind(done)
                .bind(current)
                .bind(last_seq)
                .fetch(c);
            while let Some(row) = stream.try_next().await? {
                keep(row);
            }
        }
    }
    Ok(())
}

async fn read_offsets(
    connection: &mut Connection,
    names: &mut Interner,
    found: &mut DatabaseEvidence,
) -> Result<()> {
    const OFFSETS: &str = "select consumer, topic, partition, next_offset, floor_offset \
         from consumer_offset order by consumer, topic, partition";
    let rows: Vec<(String, String, i32, i64, i64)> =
        on!(connection, c => sqlx::query_as(OFFSETS).fetch_all(&mut *c).await)?;
    for (consumer, topic, partition, next_offset, floor_offset) in rows {
        found.offsets.push(OffsetRow {
            consumer,
            topic: names.intern(&topic),
            partition,
            next_offset,
            floor_offset,
        });
    }
    Ok(())
}

type InboxRow = (String, String, String, String, i32, i64, String);

async fn read_inbox(
    connection: &mut Connection,
    names: &mut Interner,
    found: &mut DatabaseEvidence,
) -> Result<()> {
    const INBOX: &str =
        "select consumer, ce_source, ce_id, topic, partition, record_offset, state from inbox";
    on!(connection, c => {
        let mut stream = sqlx::query_as::<_, InboxRow>(INBOX).fetch(c);
        while let Some((consumer, source, id, topic, partition, offset, state)) =
            stream.try_next().await?
        {
            let entry = InboxState {
                topic: names.intern(&topic),
                partition,
                offset,
                state: state.parse()?,
            };
            if source.is_empty() {
                let place = (entry.topic, partition, offset);
                found.inbox_by_place.entry(consumer).or_default().insert(place, entry);
            } else {
                let identity = Identity::new(&source, &id);
                found.inbox.entry(consumer).or_default().insert(identity, entry);
            }
        }
    });
    Ok(())
}

async fn read_missing_copies(
    connection: &mut Connection,
    found: &mut DatabaseEvidence,
) -> Result<()> {
    const MISSING: &str = "select i.consumer, i.state, i.ce_id, \
         i.topic || '/' || i.partition || '@' || i.record_offset from inbox i \
         where (i.state = 'waiting' and not exists (select 1 from inbox_waiting w \
                where w.consumer = i.consumer and w.topic = i.topic \
                  and w.partition = i.partition and w.record_offset = i.record_offset)) \
            or (i.state = 'dead' and not exists (select 1 from inbox_dead_letter d \
                where d.consumer = i.consumer and d.topic = i.topic \
                  and d.partition = i.partition and d.record_offset = i.record_offset)) \
         limit 1000";
    found.copies_missing = on!(connection, c => sqlx::query_as(MISSING).fetch_all(&mut *c).await)?;
    Ok(())
}
