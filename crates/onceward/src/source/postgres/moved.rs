//! Rows that came from another server carry its transaction ids. Here they say nothing: ids that
//! this server gives out from now on may lie below a cursor that was made there.
//!
//! So the rows get new ids, below any that a server gives to a user's transaction, and the cursor
//! becomes one that has passed those of the rows that it should:
//!
//! ```text
//! cursor  rows passed  others   which rows are passed
//! 4:4:    3            4        those the mirror has passed
//! 5:5:    3            5        those up to the last row
//! 1:1:    -            4        none (ids that this server may have given out are kept)
//! ```
//! The cursor is chosen before the rows are renumbered and says how, because it is written to Kafka
//! first: a run that died in between is finished by the next one.

use sqlx::Postgres;
use sqlx::postgres::PgConnection;

use super::{Parsed, differs};
use crate::source::dialect::PassedRows;
use crate::source::{Dialect, Identity, Mirror, SourceError};
use crate::{Cursor, LastRow, PgCursor, Tx};

const GENESIS: &str = "1:1:";
const MIRRORED: &str = "4:4:";
const ALL: &str = "5:5:";

/// Another server is known by its identifier. Where that is withheld, its ids may tell.
pub(super) async fn rows_are_foreign(
    conn: &mut PgConnection,
    identity: &Identity,
    cursor: &Cursor,
) -> Result<bool, SourceError> {
    let (system, _) = Postgres::server_identity(conn).await?;
    if differs(&identity.system_identifier, &system) {
        return Ok(true);
    }
    let cursor = Parsed::of(cursor)?;
    sqlx::query_scalar(
        "select $1::text::xid8 > n.xmax or exists (select from outbox where tx_id >= n.xmax) \
         from (select pg_snapshot_xmax(pg_current_snapshot()) as xmax) n",
    )
    .bind(cursor.xmax().to_string())
    .fetch_one(conn)
    .await
    .map_err(SourceError::database("transaction id lookup"))
}

pub(super) fn renumbered(passed: PassedRows) -> Cursor {
    let done = match passed {
        PassedRows::None => GENESIS,
        PassedRows::Mirrored => MIRRORED,
        PassedRows::All => ALL,
    };
    Cursor::Postgres(PgCursor {
        done: done.to_owned(),
        page: None,
    })
}

pub(super) async fn renumber(
    tx: &mut Tx<'_, Postgres>,
    cursor: &Cursor,
    mirror: Option<&Mirror>,
    last: Option<LastRow>,
) -> Result<(), SourceError> {
    // A row behind the mirror's last one was written here, whatever its id looks like. (Or it was
    // passed before a lower number that came late: then it comes twice, which is the lesser evil.)
    const AS_MIRRORED: &str = "update outbox set tx_id = case when seq <= $1 and \
         (pg_visible_in_snapshot(tx_id, $2::text::pg_snapshot) \
          or coalesce(pg_visible_in_snapshot(tx_id, $3::text::pg_snapshot) and seq <= $4, false)) \
         then '3'::xid8 else '4'::xid8 end";
    const UP_TO: &str =
        "update outbox set tx_id = case when seq <= $1 then '3'::xid8 else '5'::xid8 end";
    const FROM_THE_START: &str = "update outbox set tx_id = '4'::xid8 \
         where tx_id >= pg_snapshot_xmax(pg_current_snapshot())";
    let Cursor::Postgres(cursor) = cursor else {
        return Ok(());
    };
    let last_seq = last.map_or(0, |row| row.seq);
    let update = match (cursor.done.as_str(), mirror) {
        (MIRRORED, Some(mirror)) => {
            let passed = Parsed::of(&mirror.cursor)?;
            sqlx::query(AS_MIRRORED)
                .bind(mirror.last.map_or(0, |row| row.seq))
                .bind(passed.cursor.done.clone())
                .bind(passed.page_text())
                .bind(passed.page_seq())
        }
        (ALL, _) => sqlx::query(UP_TO).bind(last_seq),
        (GENESIS, _) => sqlx::query(FROM_THE_START),
        _ => return Ok(()),
    };
    update
        .execute(&mut **tx)
        .await
        .map_err(SourceError::database("renumbering of the rows"))?;
    Ok(())
}

pub(super) async fn hidden_rows(
    conn: &mut PgConnection,
    cursor: &Cursor,
    last: Option<LastRow>,
) -> Result<i64, SourceError> {
    let cursor = Parsed::of(cursor)?;
    sqlx::query_scalar(
        "select count(*) from outbox where seq > $1 and \
         (pg_visible_in_snapshot(tx_id, $2::text::pg_snapshot) \
          or coalesce(pg_visible_in_snapshot(tx_id, $3::text::pg_snapshot) and seq <= $4, false))",
    )
    .bind(last.map_or(0, |row| row.seq))
    .bind(cursor.cursor.done.as_str())
    .bind(cursor.page_text())
    .bind(cursor.page_seq())
    .fetch_one(conn)
    .await
    .map_err(SourceError::database("row lookup"))
}
