//! `onceward source check`: does each source agree with itself, with Kafka, and is it safely set?
//! (`outbox-relay check` looks at topics and rights.)

use anyhow::Result;
use auditor::{Connection, ProgressView};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::cursor::{self, Mirror};
use crate::database::{self, Reading, on};
use crate::kafka;
use crate::locate::Place;
use crate::outcome::{Exit, Outcome};
use crate::render::table;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Error,
}

#[derive(Debug, Serialize)]
struct Finding {
    source: String,
    level: Level,
    what: String,
}

/// What was found about one source.
struct Findings {
    source: String,
    all: Vec<Finding>,
}

impl Findings {
    fn of(source: &str) -> Self {
        Self {
            source: source.to_owned(),
            all: vec![],
        }
    }

    fn add(&mut self, level: Level, what: impl Into<String>) {
        self.all.push(Finding {
            source: self.source.clone(),
            level,
            what: what.into(),
        });
    }
}

/// `source check`.
pub(crate) async fn check(place: &Place, only: Option<&str>) -> Result<Outcome> {
    let (mut open, failed) = database::open_all(place, only).await?;
    let names = open.iter().map(|r| r.source.name.clone()).collect();
    let look = kafka::look(place, names, vec![]).await;
    let mut notes = vec![];
    if let Err(why) = &look {
        notes.push(format!(
            "note: Kafka is not reachable ({why}); the databases alone are checked"
        ));
    }
    let mut all = vec![];
    for reading in &mut open {
        let name = reading.source.name.as_str();
        let progress = look.as_ref().ok().map(|l| l.progress.get(name));
        let mut found = Findings::of(name);
        one(reading, progress, &mut found).await?;
        if found.all.is_empty() {
            found.add(Level::Ok, "consistent");
        }
        all.extend(found.all);
    }
    for unreadable in &failed {
        let mut found = Findings::of(&unreadable.source);
        found.add(Level::Error, unreadable.why.clone());
        all.extend(found.all);
    }
    let lines = all.iter().map(|f| {
        let level = match f.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "ERROR",
        };
        vec![f.source.clone(), level.to_owned(), f.what.clone()]
    });
    let text = table(&["SOURCE", "", "FINDING"], lines.collect());
    let broken = all.iter().any(|f| f.level == Level::Error);
    let exit = match (broken, look.is_ok()) {
        (true, _) => Exit::Broken,
        (false, false) => Exit::Unreachable,
        (false, true) => Exit::Done,
    };
    Ok(Outcome::new(text, &all)?.with_notes(notes).ending(exit))
}

/// `progress`: outer `None` = Kafka was not asked, inner = Kafka has none.
async fn one(
    reading: &mut Reading<'_>,
    progress: Option<Option<&ProgressView>>,
    out: &mut Findings,
) -> Result<()> {
    const SOURCE: &str = "select name, source_id, epoch, owner from outbox_source where id = 1";
    let connection = &mut reading.connection;
    let row: Option<(String, Uuid, i64, Option<String>)> =
        on!(connection, c => sqlx::query_as(SOURCE).fetch_optional(&mut *c).await)?;
    let Some((name, source_id, epoch, owner)) = row else {
        out.add(
            Level::Error,
            "no source is registered; run `onceward schema migrate` again",
        );
        return Ok(());
    };
    if name != reading.source.name {
        out.add(Level::Error, format!("this database is source {name}"));
    }
    moved(connection, out).await?;
    let mirror = cursor::mirror(connection).await?;
    if let Some(mirror) = mirror.as_ref().filter(|m| m.epoch != epoch) {
        out.add(
            Level::Error,
            format!(
                "epoch {epoch}, but its mirror has {}: an unfinished reset; run it again",
                mirror.epoch
            ),
        );
    }
    match (progress, &mirror) {
        (None, _) | (Some(None), None) => {}
        (Some(None), Some(_)) => out.add(
            Level::Error,
            format!(
                "Kafka has no progress of it, but it was published before: the topic \
                 outbox.progress.{name} is gone or this is another cluster (`source reset`)"
            ),
        ),
        (Some(Some(progress)), _) => {
            against_kafka(source_id, epoch, progress, mirror.as_ref(), out);
            same_rows(connection, progress, mirror.as_ref(), out).await?;
        }
    }
    let cursor = match (progress.flatten(), &mirror) {
        (Some(progress), _) => progress.cursor.clone(),
        (None, Some(mirror)) => mirror.cursor.clone(),
        (None, None) => Value::Null,
    };
    behind(connection, &cursor, out).await?;
    let (unpublished, _) = cursor::unpublished(connection, &cursor).await?;
    if owner.is_none() && unpublished > 0 {
        out.add(
            Level::Warning,
            format!("{unpublished} rows are unpublished and no relay owns it"),
        );
    }
    work_for_people(connection, out).await?;
    settings(connection, out).await
}

/// The outbox stays on the server and in the database where its relay found it.
async fn moved(connection: &mut Connection, out: &mut Findings) -> Result<()> {
    const STORED: &str = "select coalesce(system_identifier, ''), \
         coalesce(database_name, current_database()), current_database()::text \
         from outbox_source where id = 1";
    const MAY_ASK: &str =
        "select has_function_privilege('pg_catalog.pg_control_system()', 'execute')";
    const SYSTEM: &str = "select system_identifier::text from pg_control_system()";
    let Connection::Postgres(c) = connection else {
        return Ok(());
    };
    let (stored, database, here): (String, String, String) =
        sqlx::query_as(STORED).fetch_one(&mut *c).await?;
    let system = match sqlx::query_scalar(MAY_ASK).fetch_one(&mut *c).await? {
        true => sqlx::query_scalar(SYSTEM).fetch_one(&mut *c).await?,
        false => stored.clone(),
    };
    let other_server = !stored.is_empty() && stored != system;
    if other_server || database != here {
        let on = if other_server {
            "another server"
        } else {
            "this server"
        };
        out.add(
            Level::Error,
            format!(
                "it was database {database} on {on}, this is {here}: moved with all its rows? \
                 `source adopt`; restored? `source reset`"
            ),
        );
    }
    Ok(())
}

fn against_kafka(
    source_id: Uuid,
    epoch: i64,
    progress: &ProgressView,
    mirror: Option<&Mirror>,
    out: &mut Findings,
) {
    if progress.source_id != source_id {
        out.add(
            Level::Error,
            format!(
                "Kafka's progress belongs to outbox {}, this is {source_id}: a swapped \
                 database, or the name is used twice",
                progress.source_id
            ),
        );
        return;
    }
    if progress.epoch != epoch {
        out.add(
            Level::Error,
            format!(
                "epoch {epoch}, Kafka's progress has {}: an unfinished reset or adoption (run it \
                 again), a restored database, or one whose copy was adopted",
                progress.epoch
            ),
        );
    }
    if let Some(mirror) = mirror.filter(|m| m.epoch == progress.epoch)
        && (progress.position < mirror.position || progress.passed < mirror.passed)
    {
        out.add(
            Level::Error,
            format!(
                "Kafka's progress stands at position {}, behind the database's mirror at {}: \
                 the topic lost records, or this is another cluster",
                progress.position, mirror.position
            ),
        );
    }
}

/// The rows passed are those that were passed: their last one is there, and between mirror and
/// Kafka lie as many rows, with the same ids, as both have counted.
async fn same_rows(
    connection: &mut Connection,
    progress: &ProgressView,
    mirror: Option<&Mirror>,
    out: &mut Findings,
) -> Result<()> {
    const LAST: &str = "select message_id from outbox where seq = $1";
    let floor = mirror.map_or(0, |m| m.floor_seq);
    if let Some(last) = progress.last.filter(|l| l.seq > floor) {
        let found: Option<Uuid> = on!(&mut *connection, c => {
            sqlx::query_scalar(LAST).bind(last.seq).fetch_optional(&mut *c).await
        })?;
        if found != Some(last.message_id) {
            out.add(
                Level::Error,
                format!(
                    "row {} was published as {}, but here it is {}: the database was restored \
                     or replaced (`source reset`)",
                    last.seq,
                    last.message_id,
                    found.map_or_else(|| "missing".to_owned(), |id| id.to_string())
                ),
            );
        }
    }
    let Some(mirror) = mirror.filter(|m| m.epoch == progress.epoch) else {
        return Ok(());
    };
    let between = rows_between(connection, &mirror.cursor, &progress.cursor).await?;
    let sum = between
        .iter()
        .fold(0u128, |sum, id| sum.wrapping_add(id.as_u128()));
    let count = i64::try_from(between.len()).unwrap_or(i64::MAX);
    if count != progress.passed - mirror.passed
        || sum != progress.id_sum.wrapping_sub(mirror.id_sum)
    {
        out.add(
            Level::Error,
            format!(
                "{count} rows lie between mirror and Kafka's progress, which counted {}, or \
                 their ids differ: rows were lost, replaced, or ids used again (`source reset`)",
                progress.passed - mirror.passed
            ),
        );
    }
    Ok(())
}

async fn rows_between(connection: &mut Connection, from: &Value, to: &Value) -> Result<Vec<Uuid>> {
    const POSTGRES: &str = "select message_id from outbox \
         where (pg_visible_in_snapshot(tx_id, $1::text::pg_snapshot) \
                or (seq <= $3 and pg_visible_in_snapshot(tx_id, $2::text::pg_snapshot))) \
           and not (pg_visible_in_snapshot(tx_id, $4::text::pg_snapshot) \
                or (seq <= $6 and pg_visible_in_snapshot(tx_id, $5::text::pg_snapshot)))";
    let ids = match connection {
        Connection::Sqlite(c) => {
            sqlx::query_scalar("select message_id from outbox where seq > $1 and seq <= $2")
                .bind(from["seq"].as_i64().unwrap_or(0))
                .bind(to["seq"].as_i64().unwrap_or(0))
                .fetch_all(c)
                .await?
        }
        Connection::Postgres(c) => {
            let (done, current, last) = cursor::snapshots(to);
            let (old_done, old_current, old_last) = cursor::snapshots(from);
            sqlx::query_scalar(POSTGRES)
                .bind(done)
                .bind(current)
                .bind(last)
                .bind(old_done)
                .bind(old_current)
                .bind(old_last)
                .fetch_all(c)
                .await?
        }
    };
    Ok(ids)
}

/// A restored database counts again from where it was.
async fn behind(connection: &mut Connection, cursor: &Value, out: &mut Findings) -> Result<()> {
    const SQLITE: &str =
        "select coalesce((select seq from sqlite_sequence where name = 'outbox'), 0)";
    const POSTGRES: &str = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint, \
         pg_snapshot_xmax($1::text::pg_snapshot)::text::bigint";
    let (here, passed): (i64, i64) = match connection {
        Connection::Sqlite(c) => {
            let given = sqlx::query_scalar(SQLITE).fetch_one(c).await?;
            (given, cursor["seq"].as_i64().unwrap_or(0))
        }
        Connection::Postgres(c) => {
            let (done, ..) = cursor::snapshots(cursor);
            sqlx::query_as(POSTGRES).bind(done).fetch_one(c).await?
        }
    };
    if here < passed {
        out.add(
            Level::Error,
            format!(
                "the database stands at {here}, but {passed} was published already: it was \
                 restored from an older state (`source reset`)"
            ),
        );
    }
    Ok(())
}

async fn work_for_people(connection: &mut Connection, out: &mut Findings) -> Result<()> {
    const COUNTS: &str = "select (select count(*) from outbox_parked_key), \
         (select count(*) from inbox_dead_letter where state = 'dead'), \
         (select count(*) from consumer_offset where stopped is not null)";
    let (parked, dead, stopped): (i64, i64, i64) =
        on!(connection, c => sqlx::query_as(COUNTS).fetch_one(&mut *c).await)?;
    if parked > 0 {
        out.add(
            Level::Warning,
            format!("keys parked: {parked} (`dead-letter list`)"),
        );
    }
    if dead > 0 {
        out.add(
            Level::Warning,
            format!("dead letters: {dead} (`dead-letter list`)"),
        );
    }
    if stopped > 0 {
        out.add(
            Level::Warning,
            format!("partitions stopped: {stopped} (`status`)"),
        );
    }
    Ok(())
}

/// Settings under which a published row could be undone by a crash.
async fn settings(connection: &mut Connection, out: &mut Findings) -> Result<()> {
    const POSTGRES: &str = "select name, setting from pg_settings \
         where name in ('fsync', 'full_page_writes', 'synchronous_commit') order by name";
    match connection {
        // How a SQLite writer syncs is a setting of its connection: the services check it.
        Connection::Sqlite(_) => {}
        Connection::Postgres(c) => {
            let rows: Vec<(String, String)> = sqlx::query_as(POSTGRES).fetch_all(&mut *c).await?;
            for (name, setting) in rows.into_iter().filter(|(_, setting)| setting == "off") {
                out.add(
                    Level::Error,
                    format!("{name} is {setting}: a crash can undo what was published"),
                );
            }
            let standby: bool = sqlx::query_scalar("select pg_is_in_recovery()")
                .fetch_one(c)
                .await?;
            if standby {
                out.add(
                    Level::Error,
                    "this is a standby: a relay reads from the primary only",
                );
            }
        }
    }
    Ok(())
}
