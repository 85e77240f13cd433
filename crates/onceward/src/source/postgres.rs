//! Postgres: sequence order is not commit order, so the cursor is a snapshot.
//!
//! A batch is what the snapshot taken now sees and the stored one does not, ordered by `seq`.
//! Nothing is skipped however late it commits, nothing waits for a long transaction. See
//! [`super::snapshot`] for why a snapshot is lowered before it is stored.

mod copy;
mod fetch;
mod moved;
mod wake;

use std::str::FromStr;

use futures::TryStreamExt;
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Executor, Postgres};
use uuid::Uuid;

use super::dialect::{Dialect, OwnerSign, Passed, PassedRows};
use super::mirror::corrupt;
use super::snapshot::Snapshot;
use super::{
    Backlog, Batch, DatabaseKind, FetchLimits, Finding, Identity, JanitorChunk, Loss, Mirror,
    RelayEpoch, SourceError,
};
use crate::db::{connect_trouble, parse_postgres};
use crate::{Cursor, LastRow, MessageId, Micros, PgCursor, Tx};

pub use fetch::PostgresLocal;
pub use wake::PostgresWake;

const BETWEEN: &str = include_str!("sql/postgres/between.sql");
const BETWEEN_PAGE: &str = include_str!("sql/postgres/between_page.sql");
const BACKLOG: &str = include_str!("sql/postgres/backlog.sql");

/// Session settings. The time-outs: a frozen relay can't hold its successor up. The planner's:
/// the hot statements are written for one plan each, and must not lose it to young statistics.
const SESSION: &str = "set idle_in_transaction_session_timeout = '10s'; \
     set lock_timeout = '5s'; set jit = off; set plan_cache_mode = force_generic_plan; \
     set max_parallel_workers_per_gather = 0; set enable_seqscan = off; \
     set enable_bitmapscan = off; set enable_hashjoin = off; set enable_mergejoin = off; \
     set work_mem = '16MB'; set synchronous_commit = on";

/// Around a statement that may take long and must not.
const BOUND: &str = "set statement_timeout = '1s'";
/// As the role or the database has it.
const UNBOUND: &str = "reset statement_timeout";

/// As parameters: Postgres has no unsigned number.
fn xids(xids: &[u64]) -> Vec<String> {
    xids.iter().map(u64::to_string).collect()
}

/// What is not known on either side can't be compared.
fn differs(stored: &Option<String>, found: &Option<String>) -> bool {
    matches!((stored, found), (Some(stored), Some(found)) if stored != found)
}

/// A stored cursor, parsed.
struct Parsed<'a> {
    cursor: &'a PgCursor,
    done: Snapshot,
    page: Option<(Snapshot, i64)>,
}

impl<'a> Parsed<'a> {
    fn of(cursor: &'a Cursor) -> Result<Self, SourceError> {
        let Cursor::Postgres(cursor) = cursor else {
            return Err(corrupt("cursor", &"a SQLite cursor on Postgres"));
        };
        let parse = |text: &str| Snapshot::from_str(text).map_err(|e| corrupt("cursor", &e));
        let page = match &cursor.page {
            Some(page) => Some((parse(&page.current)?, page.last_seq)),
            None => None,
        };
        Ok(Self {
            cursor,
            done: parse(&cursor.done)?,
            page,
        })
    }
    fn page_text(&self) -> Option<String> {
        self.cursor.page.as_ref().map(|p| p.current.clone())
    }
    fn page_seq(&self) -> Option<i64> {
        self.cursor.page.as_ref().map(|p| p.last_seq)
    }
    /// The highest id that this cursor may have passed, plus one.
    fn xmax(&self) -> u64 {
        let page = self.page.as_ref().map_or(0, |(current, _)| current.xmax);
        self.done.xmax.max(page)
    }
}

impl Dialect for Postgres {
    type Local = PostgresLocal;
    type Wake = PostgresWake;
    const CLOCK: &'static str = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";
    const BEGIN_SNAPSHOT: &'static str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    const KIND: DatabaseKind = DatabaseKind::Postgres;

    async fn connect(
        url: &str,
        application: &str,
    ) -> Result<(PgConnection, PostgresLocal), SourceError> {
        let options = parse_postgres(url)?
            .application_name(application)
            .disable_statement_logging();
        let mut conn = options
            .connect()
            .await
            .map_err(|error| crate::Error::Connect(connect_trouble(&options, &error)))?;
        conn.execute(SESSION)
            .await
            .map_err(SourceError::database("connect"))?;
        Ok((conn, PostgresLocal::default()))
    }

    fn check_place(_local: &PostgresLocal) -> Result<(), SourceError> {
        Ok(())
    }

    fn adopt_local(kept: &mut PostgresLocal, fresh: PostgresLocal) {
        *kept = fresh;
    }

    async fn check_primary(
        conn: &mut PgConnection,
        _local: &PostgresLocal,
    ) -> Result<(), SourceError> {
        let standby: bool = sqlx::query_scalar("select pg_is_in_recovery()")
            .fetch_one(&mut *conn)
            .await
            .map_err(SourceError::database("primary check"))?;
        if standby {
            return Err(SourceError::NotPrimary);
        }
        Ok(())
    }

    async fn check_identity(
        conn: &mut PgConnection,
        local: &PostgresLocal,
        identity: &Identity,
    ) -> Result<(), SourceError> {
        Self::check_primary(conn, local).await?;
        let (system, database) = Self::server_identity(conn).await?;
        if differs(&identity.system_identifier, &system)
            || differs(&identity.database_name, &database)
        {
            let name = |system: Option<String>, database: Option<String>| {
                format!(
                    "database {} of cluster {}",
                    database.as_deref().unwrap_or("?"),
                    system.as_deref().unwrap_or("?")
                )
            };
            return Err(Loss::OtherCluster {
                expected: name(
                    identity.system_identifier.clone(),
                    identity.database_name.clone(),
                ),
                found: name(system, database),
            }
            .into());
        }
        Ok(())
    }

    async fn server_identity(
        conn: &mut PgConnection,
    ) -> Result<(Option<String>, Option<String>), SourceError> {
        let failed = || SourceError::database("server identity");
        // A managed server may withhold the function; an error would end an open transaction.
        let allowed: bool = sqlx::query_scalar(
            "select has_function_privilege('pg_catalog.pg_control_system()', 'execute')",
        )
        .fetch_one(&mut *conn)
        .await
        .map_err(failed())?;
        let system: Option<String> = if allowed {
            sqlx::query_scalar("select system_identifier::text from pg_control_system()")
                .fetch_one(&mut *conn)
                .await
                .map_err(failed())?
        } else {
            None
        };
        let database: String = sqlx::query_scalar("select current_database()::text")
            .fetch_one(conn)
            .await
            .map_err(failed())?;
        Ok((system, Some(database)))
    }

    async fn rows_are_foreign(
        conn: &mut PgConnection,
        identity: &Identity,
        cursor: &Cursor,
    ) -> Result<bool, SourceError> {
        moved::rows_are_foreign(conn, identity, cursor).await
    }
    fn renumbered(passed: PassedRows) -> Cursor {
        moved::renumbered(passed)
    }
    async fn renumber(
        tx: &mut Tx<'_, Self>,
        cursor: &Cursor,
        mirror: Option<&Mirror>,
        last: Option<LastRow>,
    ) -> Result<(), SourceError> {
        moved::renumber(tx, cursor, mirror, last).await
    }
    async fn hidden_rows(
        conn: &mut PgConnection,
        cursor: &Cursor,
        last: Option<LastRow>,
    ) -> Result<i64, SourceError> {
        moved::hidden_rows(conn, cursor, last).await
    }

    // Postgres has no lock file: the session's end tells the server at once, and the lease decides.
    fn owner_sign(_local: &mut PostgresLocal, _current: RelayEpoch) -> OwnerSign {
        OwnerSign::Unknown
    }
    fn mark_owner(_local: &mut PostgresLocal, _epoch: RelayEpoch) {}
    fn unmark_owner(_local: &mut PostgresLocal) {}

    async fn findings(conn: &mut PgConnection) -> Result<Vec<Finding>, SourceError> {
        let failed = || SourceError::database("settings lookup");
        // reset_val: what a service's session gets; ours is set to on.
        let settings: Vec<(String, String)> = sqlx::query_as(
            "select name, reset_val from pg_settings \
             where name in ('synchronous_commit', 'fsync', 'full_page_writes')",
        )
        .fetch_all(&mut *conn)
        .await
        .map_err(failed())?;
        let mut findings = Vec::new();
        for (name, value) in &settings {
            if value == "off" {
                findings.push(Finding::refusal(
                    format!("{name} is off: a published row can be undone by a crash"),
                    format!("set {name} = on"),
                ));
            }
        }
        let roles: Vec<String> = sqlx::query_scalar(
            "select coalesce(r.rolname, 'every role') || ' (' || c.setting || ')' \
             from pg_db_role_setting s cross join lateral unnest(s.setconfig) c(setting) \
             left join pg_roles r on r.oid = s.setrole \
             where c.setting ilike 'synchronous_commit=off' and s.setdatabase in \
             (0, (select oid from pg_database where datname = current_database()))",
        )
        .fetch_all(conn)
        .await
        .map_err(failed())?;
        for role in roles {
            findings.push(Finding::warning(
                format!("{role}: rows it writes can be published and then undone by a crash"),
                "reset synchronous_commit for every role that writes to the outbox",
            ));
        }
        Ok(findings)
    }

    fn genesis() -> Cursor {
        Cursor::Postgres(PgCursor {
            done: Snapshot::genesis().to_string(),
            page: None,
        })
    }

    async fn end(conn: &mut PgConnection) -> Result<(Cursor, Option<LastRow>), SourceError> {
        let (current, highest, seq, id): (String, Option<String>, Option<i64>, Option<Uuid>) =
            sqlx::query_as(
                "select pg_current_snapshot()::text, \
                 (select h.tx_id::text from outbox h order by h.tx_id desc limit 1), l.seq, l.message_id \
                 from (values (1)) one left join \
                 (select seq, message_id from outbox order by seq desc limit 1) l on true",
            )
            .fetch_one(conn)
            .await
            .map_err(SourceError::database("last row lookup"))?;
        let current = Snapshot::from_str(&current).map_err(|e| corrupt("snapshot", &e))?;
        let highest = highest
            .map(|text| text.parse().map_err(|e| corrupt("tx_id", &e)))
            .transpose()?;
        let done = current.lowered(&Snapshot::genesis(), highest);
        let last = seq.zip(id).map(|(seq, id)| LastRow {
            seq,
            message_id: MessageId(id),
        });
        Ok((
            Cursor::Postgres(PgCursor {
                done: done.to_string(),
                page: None,
            }),
            last,
        ))
    }

    async fn fetch(
        conn: &mut PgConnection,
        local: &mut PostgresLocal,
        from: &Cursor,
        last: Option<LastRow>,
        limits: FetchLimits,
    ) -> Result<Batch, SourceError> {
        let from = Parsed::of(from)?;
        let Some((current, _)) = &from.page else {
            return fetch::fetch_new(conn, local, &from, last, limits).await;
        };
        if let Some(batch) = fetch::fetch_page(conn, local, &from, last, limits).await? {
            return Ok(batch);
        }
        // The batch ended exactly at the last page: its snapshot is done.
        let done = Cursor::Postgres(PgCursor {
            done: current.to_string(),
            page: None,
        });
        fetch::fetch_new(conn, local, &Parsed::of(&done)?, last, limits).await
    }

    async fn between(
        tx: &mut Tx<'_, Self>,
        from: &Cursor,
        to: &Cursor,
    ) -> Result<Passed, SourceError> {
        let (from, to) = (Parsed::of(from)?, Parsed::of(to)?);
        let same_page = from.page.is_some()
            && from.cursor.done == to.cursor.done
            && from.page_text() == to.page_text();
        let query = match same_page {
            true => sqlx::query_scalar::<_, Uuid>(BETWEEN_PAGE)
                .bind(from.cursor.done.as_str())
                .bind(from.page_text())
                .bind(from.page_seq())
                .bind(to.page_seq()),
            false => sqlx::query_scalar::<_, Uuid>(BETWEEN)
                .bind(from.done.xmax.to_string())
                .bind(xids(&from.done.xip))
                .bind(from.cursor.done.as_str())
                .bind(from.page_text())
                .bind(from.page_seq())
                .bind(to.cursor.done.as_str())
                .bind(to.page_text())
                .bind(to.page_seq())
                .bind(from.page.as_ref().map(|(page, _)| xids(&page.xip))),
        };
        let mut ids = query.fetch(&mut **tx);
        let failed = || SourceError::database("verification");
        let mut passed = Passed::default();
        while let Some(id) = ids.try_next().await.map_err(failed())? {
            passed.add(MessageId(id));
        }
        Ok(passed)
    }

    async fn backlog(
        conn: &mut PgConnection,
        from: &Cursor,
        cap: u32,
    ) -> Result<Backlog, SourceError> {
        let from = Parsed::of(from)?;
        let newest = from.page.as_ref().map_or(&from.done, |(page, _)| page);
        let failed = || SourceError::database("backlog count");
        // The owner of the lease counts between two renewals.
        conn.execute(BOUND).await.map_err(failed())?;
        let counted = sqlx::query_as(BACKLOG)
            .bind(from.done.xmax.to_string())
            .bind(xids(&from.done.xip))
            .bind(from.page_text())
            .bind(from.page_seq())
            .bind(i64::from(cap))
            .bind(newest.xmax.to_string())
            .bind(xids(&newest.xip))
            .fetch_one(&mut *conn)
            .await;
        conn.execute(UNBOUND).await.map_err(failed())?;
        let (rows, oldest): (i64, Option<i64>) = counted.map_err(failed())?;
        Ok(Backlog::new(rows, oldest, cap))
    }

    async fn copies_passed(
        conn: &mut PgConnection,
        cursor: &Cursor,
        topic: &str,
        message_key: Option<&str>,
        message_id: Option<Uuid>,
    ) -> Result<bool, SourceError> {
        let cursor = Parsed::of(cursor)?;
        // A copy whose outbox row is gone was passed: the janitor deletes no other.
        let ahead: bool = sqlx::query_scalar(
            "select exists (select from outbox_dead_letter d \
             join outbox o on o.seq = d.seq and o.message_id = d.message_id \
             where d.state = 'parked' and d.topic = $1 \
             and ((d.message_key is null and d.message_id = $3) or d.message_key = $2) \
             and not pg_visible_in_snapshot(o.tx_id, $4::text::pg_snapshot) \
             and not coalesce(pg_visible_in_snapshot(o.tx_id, $5::text::pg_snapshot) \
                              and o.seq <= $6, false))",
        )
        .bind(topic)
        .bind(message_key)
        .bind(message_id)
        .bind(cursor.cursor.done.as_str())
        .bind(cursor.page_text())
        .bind(cursor.page_seq())
        .fetch_one(conn)
        .await
        .map_err(SourceError::database("copies lookup"))?;
        Ok(!ahead)
    }

    async fn purge(
        tx: &mut Tx<'_, Self>,
        mirror: &Mirror,
        older_than: Micros,
        max_rows: u32,
    ) -> Result<JanitorChunk, SourceError> {
        let cursor = Parsed::of(&mirror.cursor)?;
        // The window keeps the call cheap when the oldest rows are young or not yet passed.
        let deleted: Vec<i64> = sqlx::query_scalar(
            "delete from outbox where seq in (select w.seq from \
             (select seq, tx_id, occurred_at from outbox order by seq limit $5) w \
             where w.seq <> $2 and w.occurred_at < $3 \
             and pg_visible_in_snapshot(w.tx_id, $1::text::pg_snapshot) \
             order by w.seq limit $4) returning seq",
        )
        .bind(cursor.cursor.done.as_str())
        .bind(mirror.last.map_or(0, |row| row.seq))
        .bind(older_than)
        .bind(i64::from(max_rows))
        .bind(i64::from(max_rows).saturating_mul(2).saturating_add(1))
        .fetch_all(&mut **tx)
        .await
        .map_err(SourceError::database("purge"))?;
        Ok(JanitorChunk::of(&deleted))
    }

    async fn wake(url: &str) -> Result<PostgresWake, SourceError> {
        PostgresWake::listen(url).await
    }
}
