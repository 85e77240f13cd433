//! Deletes published rows after their retention, in small chunks.

use super::lease::{commit, rollback};
use super::mirror::read_mirror;
use super::{Dialect, RelayEpoch, SourceError, SourceStore};
use crate::Micros;

/// What one call of the janitor deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JanitorChunk {
    /// Rows deleted; below `max_rows` when nothing is left to do for now.
    pub deleted: u64,
    /// Highest `seq` deleted; 0 if none was.
    pub highest_seq: i64,
}

impl JanitorChunk {
    pub(super) fn of(deleted: &[i64]) -> Self {
        Self {
            deleted: u64::try_from(deleted.len()).unwrap_or(u64::MAX),
            highest_seq: deleted.iter().copied().max().unwrap_or(0),
        }
    }
}

impl<B: Dialect> SourceStore<B> {
    /// Deletes at most `max_rows` of the oldest rows whose `occurred_at` lies before `older_than`
    /// and which the *mirror* has passed; never the last row passed, because every fetch checks
    /// that it is still there. Write the mirror first.
    pub async fn purge(
        &mut self,
        epoch: RelayEpoch,
        older_than: Micros,
        max_rows: u32,
    ) -> Result<JanitorChunk, SourceError> {
        let mut tx = self.begin_guarded(epoch, "purge").await?;
        let Some(mirror) = read_mirror::<B>(&mut tx).await? else {
            rollback(tx).await?;
            return Ok(JanitorChunk::default());
        };
        let chunk = B::purge(&mut tx, &mirror, older_than, max_rows).await?;
        if chunk.deleted == 0 {
            rollback(tx).await?;
            return Ok(chunk);
        }
        sqlx::query("update outbox_progress set floor_seq = $1 where floor_seq < $1")
            .bind(chunk.highest_seq)
            .execute(&mut *tx)
            .await
            .map_err(SourceError::database("purge"))?;
        // CRASH: before this commit = nothing deleted; after it = rows and floor agree.
        commit(tx, "purge").await?;
        Ok(chunk)
    }
}
