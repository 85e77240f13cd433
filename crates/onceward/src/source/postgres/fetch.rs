//! Reads a batch, or a page of one, and checks in the same snapshot that it may be read.
//!
//! What is new is asked for by a prepared statement, which costs least where there are few rows. If it
//! finds more than [`FIRST_ROWS`], the rest is a backlog, and comes page by page as binary COPY.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::str::FromStr;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::super::mirror::corrupt;
use super::super::row::{BatchEnd, RawRow, RowCollector};
use super::super::snapshot::Snapshot;
use super::super::takeover::same_row;
use super::super::{Batch, FetchLimits, Loss, OutboxRow, SourceError};
use super::copy::{CopiedRow, copy};
use super::{Parsed, xids};
use crate::{Cursor, LastRow, MessageId, PgPage, breach};

const FETCH_NEW: &str = include_str!("../sql/postgres/fetch_new.sql");
const COPY_PAGE: &str = include_str!("../sql/postgres/copy_page.sql");
const PAGE_LOW: &str = include_str!("../sql/postgres/page_low.sql");

/// Rows of a prepared fetch at most.
const FIRST_ROWS: u32 = 2_000;
/// From what age on a running transaction is cut out of the ranges that a fetch walks.
const LONG_RUNNING: Duration = Duration::from_millis(100);
/// Foreign ids are looked for at most this often, and for at most a fiftieth of the time: beside a
/// large open transaction the look is slow, and a foreign row is no less foreign a moment later.
const FOREIGN_EVERY: Duration = Duration::from_secs(1);
/// No id is at or above.
const NO_XID: u64 = u64::MAX;

/// What a store remembers on one connection.
#[derive(Debug, Default)]
pub struct PostgresLocal {
    low: Option<PageLow>,
    /// Running transactions, and since when they are known to run.
    running: Vec<(u64, Instant)>,
    /// When to look for foreign ids again.
    foreign_due: Option<Instant>,
    /// A copy is under way, or was given up half-way: the connection still holds its rest.
    copying: bool,
}

impl PostgresLocal {
    /// Ids at or above `xmax` that have been running for long, ascending.
    fn long_running(&self, xmax: u64) -> Vec<u64> {
        let long = |since: &Instant| since.elapsed() > LONG_RUNNING;
        self.running
            .iter()
            .filter(|(xid, since)| *xid >= xmax && long(since))
            .map(|(xid, _)| *xid)
            .collect()
    }

    /// Refuses a connection on which a copy was given up half-way.
    fn check_whole(&self) -> Result<(), SourceError> {
        if self.copying {
            let reason = sqlx::Error::Protocol("a fetch was given up half-way".into());
            return Err(SourceError::database("outbox fetch")(reason));
        }
        Ok(())
    }

    fn note_running(&mut self, current: &Snapshot) {
        let now = Instant::now();
        let before = std::mem::take(&mut self.running);
        self.running = current
            .xip
            .iter()
            .map(|xid| {
                let known = before.binary_search_by_key(xid, |(known, _)| *known).ok();
                let since = known
                    .and_then(|at| before.get(at))
                    .map_or(now, |(_, since)| *since);
                (*xid, since)
            })
            .collect();
    }
}

/// Lowest `seq` of a batch's main range.
#[derive(Debug)]
struct PageLow {
    done: String,
    current: String,
    seq: i64,
}

/// What a fetch learned besides the rows.
struct Header {
    current: Snapshot,
    highest: Option<u64>,
    last_id: Option<MessageId>,
    foreign: bool,
    standby: bool,
}

impl Header {
    fn read(row: &PgRow) -> Result<Self, SourceError> {
        let columns = || {
            Ok((
                row.try_get::<Option<Uuid>, _>(1)?,
                row.try_get::<String, _>(11)?,
                row.try_get::<Option<String>, _>(12)?,
                row.try_get::<bool, _>(13)?,
                row.try_get::<bool, _>(14)?,
            ))
        };
        let (last_id, current, highest, foreign, standby) =
            columns().map_err(SourceError::database("outbox fetch"))?;
        let highest = highest
            .map(|text| text.parse().map_err(|e| corrupt("tx_id", &e)))
            .transpose()?;
        Ok(Self {
            current: Snapshot::from_str(&current).map_err(|e| corrupt("snapshot", &e))?,
            highest,
            last_id: last_id.map(MessageId),
            foreign,
            standby,
        })
    }

    /// As `copy_page.sql` puts it into the columns of a row.
    fn of_copy(row: &CopiedRow<'_>) -> Result<Self, SourceError> {
        let current = std::str::from_utf8(row.text(2)).map_err(|e| corrupt("snapshot", &e))?;
        Ok(Self {
            current: Snapshot::from_str(current).map_err(|e| corrupt("snapshot", &e))?,
            highest: None,
            last_id: row.message_id()?,
            foreign: false,
            standby: row.text(3) != b"false",
        })
    }

    /// What every fetch checks, in the snapshot it reads in: a new connection behind a pooler
    /// would go unnoticed otherwise.
    fn check(&self, from: &Parsed<'_>, last: Option<LastRow>) -> Result<(), SourceError> {
        if self.standby {
            return Err(SourceError::NotPrimary);
        }
        if self.current.xmax < from.xmax() {
            return Err(Loss::Behind {
                cursor: from.xmax().to_string(),
                found: self.current.xmax.to_string(),
            }
            .into());
        }
        if let Some(last) = last {
            same_row(last, self.last_id)?;
        }
        if self.foreign {
            return Err(Loss::ForeignTransactionId {
                xmax: self.current.xmax,
            }
            .into());
        }
        Ok(())
    }
}

/// Sorts the answer of a fetch into its header and the rows that fit, and whether there are more.
fn sort_out(
    found: &[PgRow],
    from: &Parsed<'_>,
    last: Option<LastRow>,
    max_rows: usize,
) -> Result<(Header, Vec<OutboxRow>, bool), SourceError> {
    let failed = || SourceError::database("outbox fetch");
    let mut header = None;
    let mut rows = RowCollector::with_capacity(found.len());
    let mut page_rows = 0;
    for row in found {
        if row
            .try_get::<Option<i64>, _>(0)
            .map_err(failed())?
            .is_none()
        {
            header = Some(Header::read(row)?);
            continue;
        }
        page_rows = row.try_get::<i64, _>(10).map_err(failed())?;
        rows.push(&raw_row(row).map_err(failed())?);
    }
    let header = header.ok_or_else(|| corrupt("fetch", &"no header row"))?;
    header.check(from, last)?;
    let found = rows.len();
    let mut rows = rows.finish().map_err(|e| corrupt("outbox row", &e))?;
    rows.truncate(max_rows);
    let more = i64::try_from(found).unwrap_or(i64::MAX) < page_rows || found > max_rows;
    Ok((header, rows, more))
}

fn raw_row(row: &PgRow) -> Result<RawRow<'_>, sqlx::Error> {
    let text = |column: usize| row.try_get::<&str, _>(column).map(str::as_bytes);
    Ok(RawRow {
        seq: row.try_get(0)?,
        message_id: MessageId(row.try_get::<Uuid, _>(1)?),
        aggregate_type: text(2)?,
        aggregate_id: text(3)?,
        message_type: text(4)?,
        topic: text(5)?,
        message_key: row.try_get::<Option<&str>, _>(6)?.map(str::as_bytes),
        payload: row.try_get(7)?,
        headers: text(8)?,
        occurred_at: row.try_get(9)?,
    })
}

/// A statement whose rows come in the order of `seq`, unless a test breaks the rule.
fn by_seq(statement: &'static str) -> Cow<'static, str> {
    if !breach::is_broken(breach::ORDER_BY_SEQ) {
        return statement.into();
    }
    let broken = statement.replace("(order by o.seq", "(order by o.tx_id, o.seq");
    broken
        .replace("(order by u.seq", "(order by u.tx_id, u.seq")
        .into()
}

fn limits_rows(limits: FetchLimits) -> usize {
    usize::try_from(limits.max_rows.max(1)).unwrap_or(usize::MAX)
}

pub(super) async fn fetch_new(
    conn: &mut PgConnection,
    local: &mut PostgresLocal,
    from: &Parsed<'_>,
    last: Option<LastRow>,
    limits: FetchLimits,
) -> Result<Batch, SourceError> {
    local.check_whole()?;
    let most = limits.max_rows.clamp(1, FIRST_ROWS);
    let cut_out = local.long_running(from.done.xmax);
    let mut lows = vec![from.done.xmax];
    lows.extend(cut_out.iter().map(|xid| xid.saturating_add(1)));
    let highs: Vec<u64> = cut_out.iter().copied().chain([NO_XID]).collect();
    // What was cut out must not be missed once it ends: it is looked up with the stored xip.
    let single: Vec<u64> = from.done.xip.iter().chain(&cut_out).copied().collect();
    let started = Instant::now();
    let look_for_foreign = local.foreign_due.is_none_or(|due| due <= started);
    let query = match by_seq(FETCH_NEW) {
        Cow::Borrowed(statement) => sqlx::query(statement),
        Cow::Owned(statement) => sqlx::query(AssertSqlSafe(statement)),
    };
    let found = query
        .bind(xids(&lows))
        .bind(xids(&single))
        .bind(last.map(|row| row.seq))
        .bind(i64::from(most).saturating_add(1))
        .bind(i64::try_from(limits.max_bytes.max(1)).unwrap_or(i64::MAX))
        .bind(xids(&highs))
        .bind(look_for_foreign)
        .fetch_all(conn)
        .await
        .map_err(SourceError::database("outbox fetch"))?;
    if look_for_foreign {
        local.foreign_due = Some(Instant::now() + FOREIGN_EVERY.max(started.elapsed() * 50));
    }
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let (header, rows, more) = sort_out(&found, from, last, most)?;
    local.note_running(&header.current);
    if rows.is_empty() {
        return Ok(Batch::empty(Cursor::Postgres(from.cursor.clone())));
    }
    let current = match breach::is_broken(breach::LOWERED_XMAX) {
        true => header.current,
        false => header.current.lowered(&from.done, header.highest),
    };
    Ok(Batch {
        rows,
        more,
        end: BatchEnd::Postgres {
            done: from.cursor.done.clone(),
            current: current.to_string(),
            from_seq: 0,
        },
    })
}

/// One page; `None` when the batch has no more rows.
pub(super) async fn fetch_page(
    conn: &mut PgConnection,
    local: &mut PostgresLocal,
    from: &Parsed<'_>,
    last: Option<LastRow>,
    limits: FetchLimits,
) -> Result<Option<Batch>, SourceError> {
    let Some(page) = &from.cursor.page else {
        return Ok(None);
    };
    local.check_whole()?;
    let low = page_low(conn, local, from, &page.current).await?;
    let statement = page_statement(from, page, last, limits, low)?;
    let max_rows = limits_rows(limits);
    let (mut header, mut rows) = (None, RowCollector::default());
    let (mut bytes, mut more) = (0_u64, false);
    local.copying = true;
    copy(conn, &statement, |row| {
        if row.is_header() {
            header = Some(Header::of_copy(row)?);
            return Ok(());
        }
        let row = row.raw()?;
        bytes = bytes.saturating_add(u64::try_from(row.payload.len()).unwrap_or(u64::MAX));
        more |= rows.len() >= max_rows || (bytes > limits.max_bytes && rows.len() > 0);
        if !more {
            rows.push(&row);
        }
        Ok(())
    })
    .await?;
    local.copying = false;
    // Behind the row that crossed the limit the statement gives none.
    more |= bytes > limits.max_bytes;
    let header = header.ok_or_else(|| corrupt("fetch", &"no header row"))?;
    header.check(from, last)?;
    let rows = rows.finish().map_err(|e| corrupt("outbox row", &e))?;
    if rows.is_empty() {
        return Ok(None);
    }
    Ok(Some(Batch {
        rows,
        more,
        end: BatchEnd::Postgres {
            done: from.cursor.done.clone(),
            current: page.current.clone(),
            from_seq: page.last_seq,
        },
    }))
}

/// The COPY of a page. It takes no parameters, so they are written into it: numbers and snapshots, both
/// parsed before, nothing else.
fn page_statement(
    from: &Parsed<'_>,
    page: &PgPage,
    last: Option<LastRow>,
    limits: FetchLimits,
    low: i64,
) -> Result<String, SourceError> {
    let (current, _) = from
        .page
        .as_ref()
        .ok_or_else(|| corrupt("cursor", &"no page"))?;
    let values = [
        format!("'{}'", from.done),
        format!("'{{{}}}'", xids(&from.done.xip).join(",")),
        last.map_or_else(|| "null".to_owned(), |row| row.seq.to_string()),
        i64::from(limits.max_rows.max(1))
            .saturating_add(1)
            .to_string(),
        limits
            .max_bytes
            .max(1)
            .min(i64::MAX.unsigned_abs())
            .to_string(),
        format!("'{current}'"),
        page.last_seq.to_string(),
        low.to_string(),
    ];
    let mut statement = String::with_capacity(COPY_PAGE.len() + 200);
    for line in by_seq(COPY_PAGE)
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
    {
        let mut parts = line.split('$');
        statement.push_str(parts.next().unwrap_or_default());
        for part in parts {
            let (number, rest) = part.split_at_checked(1).unwrap_or((part, ""));
            let value = number
                .parse::<usize>()
                .ok()
                .and_then(|n| values.get(n.checked_sub(1)?));
            let value = value.ok_or_else(|| corrupt("copy_page.sql", &number))?;
            let _ = write!(statement, "{value}{rest}");
        }
        statement.push('\n');
    }
    Ok(statement)
}

/// Where the main range begins or goes on, looked up once per batch.
async fn page_low(
    conn: &mut PgConnection,
    local: &mut PostgresLocal,
    from: &Parsed<'_>,
    current: &str,
) -> Result<i64, SourceError> {
    if let Some(known) = &local.low
        && known.done == from.cursor.done
        && known.current == current
    {
        return Ok(known.seq);
    }
    let low: Option<i64> = sqlx::query_scalar(PAGE_LOW)
        .bind(from.done.xmax.to_string())
        .bind(current)
        .bind(from.page_seq())
        .fetch_one(conn)
        .await
        .map_err(SourceError::database("outbox fetch"))?;
    let seq = low.unwrap_or(i64::MAX);
    local.low = Some(PageLow {
        done: from.cursor.done.clone(),
        current: current.to_owned(),
        seq,
    });
    Ok(seq)
}
