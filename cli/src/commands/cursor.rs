//! What a cursor means, read from its JSON: which rows are passed, and how to print it.

use anyhow::Result;
use auditor::Connection;
use serde_json::Value;

/// The mirror row, as far as commands need it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Mirror {
    pub cursor: Value,
    pub epoch: i64,
    pub position: i64,
    pub passed: i64,
    pub id_sum: u128,
    pub floor_seq: i64,
}

type MirrorRow = (String, i64, i64, i64, Vec<u8>, i64);

/// Reads the mirror; `None` before the relay's first start.
pub(crate) async fn mirror(connection: &mut Connection) -> Result<Option<Mirror>> {
    const SQL: &str = "select cursor, epoch, position, passed, id_sum, floor_seq \
         from outbox_progress where id = 1";
    let row: Option<MirrorRow> = crate::database::on!(connection, c => {
        sqlx::query_as(SQL).fetch_optional(&mut *c).await
    })?;
    let Some((cursor, epoch, position, passed, sum, floor_seq)) = row else {
        return Ok(None);
    };
    Ok(Some(Mirror {
        cursor: serde_json::from_str(&cursor)?,
        epoch,
        position,
        passed,
        id_sum: sum.try_into().map_or(0, u128::from_be_bytes),
        floor_seq,
    }))
}

/// Rows the cursor has not passed: how many, and the oldest one's time.
pub(crate) async fn unpublished(
    connection: &mut Connection,
    cursor: &Value,
) -> Result<(i64, Option<i64>)> {
    // The two arms use the index on (tx_id, seq): the outbox keeps a day of published rows.
    const POSTGRES: &str = "with beyond as ( \
           select tx_id, seq, occurred_at from outbox \
            where tx_id >= pg_snapshot_xmax($1::text::pg_snapshot) \
           union all \
           select tx_id, seq, occurred_at from outbox \
            where tx_id = any(array(select pg_snapshot_xip($1::text::pg_snapshot))) \
              and tx_id < pg_snapshot_xmax($1::text::pg_snapshot)) \
         select count(*), min(occurred_at) from beyond \
          where not (seq <= $3 and pg_visible_in_snapshot(tx_id, $2::text::pg_snapshot))";
    let found = match connection {
        Connection::Sqlite(c) => {
            sqlx::query_as("select count(*), min(occurred_at) from outbox where seq > $1")
                .bind(cursor["seq"].as_i64().unwrap_or(0))
                .fetch_one(c)
                .await?
        }
        Connection::Postgres(c) => {
            let (done, current, last_seq) = snapshots(cursor);
            sqlx::query_as(POSTGRES)
                .bind(done)
                .bind(current)
                .bind(last_seq)
                .fetch_one(c)
                .await?
        }
    };
    Ok(found)
}

/// `done`, `page.current`, `page.last_seq`, with what genesis means for those that are missing.
pub(crate) fn snapshots(cursor: &Value) -> (String, String, i64) {
    let text = |value: &Value| value.as_str().unwrap_or("1:1:").to_owned();
    let page = &cursor["page"];
    (
        text(&cursor["done"]),
        text(&page["current"]),
        page["last_seq"].as_i64().unwrap_or(0),
    )
}

/// For people: `seq 12`, or the snapshot.
pub(crate) fn said(cursor: &Value) -> String {
    if let Some(seq) = cursor["seq"].as_i64() {
        return format!("seq {seq}");
    }
    match cursor["done"].as_str() {
        Some(done) => {
            let page = &cursor["page"];
            match page["last_seq"].as_i64() {
                Some(seq) => format!("{done} paging at seq {seq}"),
                None => done.to_owned(),
            }
        }
        None => "-".to_owned(),
    }
}
