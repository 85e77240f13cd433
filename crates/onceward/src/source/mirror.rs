//! Who the database is, and the mirror of the progress that Kafka holds.

use sqlx::Row;
use uuid::Uuid;

use super::{Dialect, SourceError};
use crate::{Cursor, Error, IdSum, LastRow, MessageId, Micros, ProgressRecord, SourceId};

/// The row of `outbox_source`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the source.
    pub name: String,
    /// Identity of this outbox.
    pub source_id: SourceId,
    /// Raised by reset and adopt.
    pub epoch: i64,
    /// Epoch of the last claim.
    pub relay_epoch: i64,
    /// Instance that holds the lease.
    pub owner: Option<String>,
    /// Until when, by the database's clock.
    pub lease_until: Micros,
    /// Postgres' `system_identifier`, once a relay has claimed the source.
    pub system_identifier: Option<String>,
    /// Name of the Postgres database.
    pub database_name: Option<String>,
}

/// The row of `outbox_progress`: what Kafka is known to hold, at most some seconds old.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    /// Epoch of the source.
    pub epoch: i64,
    /// Where the source stood.
    pub cursor: Cursor,
    /// Rows published.
    pub position: i64,
    /// Rows passed.
    pub passed: i64,
    /// Sum of their ids.
    pub id_sum: IdSum,
    /// Last row passed.
    pub last: Option<LastRow>,
    /// Offset of the progress record: reading starts there.
    pub progress_offset: i64,
    /// Kafka's id of the progress topic.
    pub topic_id: String,
    /// Kafka's cluster id.
    pub cluster_id: String,
    /// Rows up to here may have been purged.
    pub floor_seq: i64,
    /// When it was written, microseconds.
    pub updated_at: Micros,
}

/// Where a progress record stands in Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProgressPlace<'a> {
    /// Its offset.
    pub offset: i64,
    /// The topic's id.
    pub topic_id: &'a str,
    /// The cluster's id.
    pub cluster_id: &'a str,
}

pub(super) async fn read_identity<B: Dialect>(
    conn: &mut B::Connection,
) -> Result<Identity, SourceError> {
    let row = sqlx::query(
        "select name, source_id, epoch, relay_epoch, owner, lease_until, system_identifier, \
         database_name from outbox_source where id = 1",
    )
    .fetch_one(conn)
    .await
    .map_err(SourceError::database("source lookup"))?;
    let read = || {
        Ok(Identity {
            name: row.try_get(0)?,
            source_id: SourceId(row.try_get::<Uuid, _>(1)?),
            epoch: row.try_get(2)?,
            relay_epoch: row.try_get(3)?,
            owner: row.try_get(4)?,
            lease_until: row.try_get(5)?,
            system_identifier: row.try_get(6)?,
            database_name: row.try_get(7)?,
        })
    };
    read().map_err(SourceError::database("source lookup"))
}

pub(super) async fn read_mirror<B: Dialect>(
    conn: &mut B::Connection,
) -> Result<Option<Mirror>, SourceError> {
    let Some(row) = sqlx::query(
        "select epoch, cursor, position, passed, id_sum, last_seq, last_message_id, \
         progress_offset, topic_id, cluster_id, floor_seq, updated_at \
         from outbox_progress where id = 1",
    )
    .fetch_optional(conn)
    .await
    .map_err(SourceError::database("mirror read"))?
    else {
        return Ok(None);
    };
    let columns = || {
        let last_seq: Option<i64> = row.try_get(5)?;
        let last_id: Option<Uuid> = row.try_get(6)?;
        Ok((
            row.try_get::<String, _>(1)?,
            row.try_get::<Vec<u8>, _>(4)?,
            Mirror {
                epoch: row.try_get(0)?,
                cursor: B::genesis(),
                position: row.try_get(2)?,
                passed: row.try_get(3)?,
                id_sum: IdSum::default(),
                last: last_seq.zip(last_id).map(|(seq, id)| LastRow {
                    seq,
                    message_id: MessageId(id),
                }),
                progress_offset: row.try_get(7)?,
                topic_id: row.try_get(8)?,
                cluster_id: row.try_get(9)?,
                floor_seq: row.try_get(10)?,
                updated_at: row.try_get(11)?,
            },
        ))
    };
    let (cursor, id_sum, mut mirror) = columns().map_err(SourceError::database("mirror read"))?;
    mirror.cursor = serde_json::from_str(&cursor).map_err(|e| corrupt("cursor", &e))?;
    mirror.id_sum = IdSum::from_bytes(&id_sum).ok_or_else(|| corrupt("id_sum", &"not 16 bytes"))?;
    Ok(Some(mirror))
}

pub(super) fn corrupt(what: &'static str, reason: &dyn std::fmt::Display) -> SourceError {
    SourceError::Setup(Error::Corrupt {
        what,
        reason: reason.to_string(),
    })
}

/// Writes the mirror where it grows; whether it did.
pub(super) async fn write_mirror<B: Dialect>(
    conn: &mut B::Connection,
    progress: &ProgressRecord,
    place: ProgressPlace<'_>,
    now: Micros,
    replace: bool,
) -> Result<bool, SourceError> {
    let cursor =
        serde_json::to_string(&progress.cursor).map_err(|e| corrupt("progress cursor", &e))?;
    let written = sqlx::query(
        "insert into outbox_progress (id, epoch, cursor, position, passed, id_sum, last_seq, \
         last_message_id, progress_offset, topic_id, cluster_id, updated_at) \
         values (1, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
         on conflict (id) do update set epoch = excluded.epoch, cursor = excluded.cursor, \
         position = excluded.position, passed = excluded.passed, id_sum = excluded.id_sum, \
         last_seq = excluded.last_seq, last_message_id = excluded.last_message_id, \
         progress_offset = excluded.progress_offset, topic_id = excluded.topic_id, \
         cluster_id = excluded.cluster_id, updated_at = excluded.updated_at \
         where $12 or (outbox_progress.epoch = excluded.epoch \
           and outbox_progress.passed <= excluded.passed \
           and outbox_progress.progress_offset <= excluded.progress_offset)",
    )
    .bind(progress.epoch)
    .bind(cursor)
    .bind(progress.position)
    .bind(progress.passed)
    .bind(progress.id_sum.to_bytes().to_vec())
    .bind(progress.last.map(|l| l.seq))
    .bind(progress.last.map(|l| l.message_id.0))
    .bind(place.offset)
    .bind(place.topic_id)
    .bind(place.cluster_id)
    .bind(now)
    .bind(replace)
    .execute(conn)
    .await
    .map_err(SourceError::database("mirror write"))?;
    Ok(crate::QueryResult::rows_affected(&written) > 0)
}
