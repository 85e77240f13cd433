//! The way out after a loss: start a new epoch.
//!
//! A reset spans Kafka and the database, in this order, each step safe to repeat:
//! 1. [`SourceStore::claim`] and fence the old producers;
//! 2. [`SourceStore::plan_reset`] makes the progress record of the new epoch (the same one again
//!    if Kafka already holds it), and it is written to the progress topic;
//! 3. [`SourceStore::finish_reset`] raises the database's epoch and replaces the mirror.
//!
//! CRASH: between 2 and 3 = Kafka is one epoch ahead; relays refuse to start and name the reset,
//! which, run again, skips step 2.

use super::lease::{clock, commit};
use super::mirror::write_mirror;
use super::{Dialect, Loss, ProgressPlace, RelayEpoch, SourceError, SourceStore};
use crate::{IdSum, PROGRESS_FORMAT, ProgressRecord};

/// Where a source goes on after a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetTo {
    /// Publish every row that is in the outbox now: rows published before come twice.
    Start,
    /// Publish what the database's own mirror has not passed: rows published between the backup
    /// and the loss come twice, none is missed. The default after a restore.
    Mirror,
    /// Publish only rows written from now on: rows written and not published are missed.
    End,
}

/// What step 2 has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum ResetPlan {
    /// Write this record to the progress topic, then finish.
    Write(ProgressRecord),
    /// An earlier run wrote it: only finish.
    Written(ProgressRecord),
}

impl<B: Dialect> SourceStore<B> {
    /// Makes the progress of the new epoch from what Kafka holds (`kafka`, if anything).
    pub async fn plan_reset(
        &mut self,
        to: ResetTo,
        kafka: Option<&ProgressRecord>,
    ) -> Result<ResetPlan, SourceError> {
        let identity = self.identity().await?;
        let mirror = self.mirror().await?;
        if let Some(ahead) = kafka
            && ahead.source_id == identity.source_id
            && ahead.epoch == identity.epoch.saturating_add(1)
        {
            return Ok(ResetPlan::Written(ahead.clone()));
        }
        let (cursor, last) = match (to, &mirror) {
            (ResetTo::End, _) => B::end(&mut self.conn).await?,
            (ResetTo::Mirror, Some(mirror)) => (mirror.cursor.clone(), mirror.last),
            (ResetTo::Start, _) | (ResetTo::Mirror, None) => (B::genesis(), None),
        };
        let last_epoch = kafka.map_or(0, |k| k.epoch).max(identity.epoch);
        let position = kafka
            .map_or(0, |k| k.position)
            .max(mirror.map_or(0, |m| m.position));
        Ok(ResetPlan::Write(ProgressRecord {
            format: PROGRESS_FORMAT,
            source_id: identity.source_id,
            epoch: last_epoch.saturating_add(1),
            cursor,
            // Positions go on, so that an auditor of the topics sees no gap.
            position,
            // Counts are only ever compared within an epoch.
            passed: 0,
            id_sum: IdSum::default(),
            last,
            partitions: kafka.map(|k| k.partitions.clone()).unwrap_or_default(),
            partition_counts: kafka
                .map(|k| k.partition_counts.clone())
                .unwrap_or_default(),
            replay: None,
        }))
    }

    /// Step 3: the database enters the epoch of `progress`, which Kafka holds at `place`.
    pub async fn finish_reset(
        &mut self,
        epoch: RelayEpoch,
        progress: &ProgressRecord,
        place: ProgressPlace<'_>,
    ) -> Result<(), SourceError> {
        let (system, database) = B::server_identity(&mut self.conn).await?;
        let mut tx = self.begin_guarded(epoch, "reset").await?;
        let now = clock::<B>(&mut tx).await?;
        sqlx::query(
            "update outbox_source set epoch = $1, system_identifier = $2, database_name = $3 \
             where id = 1",
        )
        .bind(progress.epoch)
        .bind(system)
        .bind(database)
        .execute(&mut *tx)
        .await
        .map_err(SourceError::database("reset"))?;
        write_mirror::<B>(&mut tx, progress, place, now, true).await?;
        // CRASH: before this commit = Kafka is one epoch ahead, the reset run again finishes it.
        commit(tx, "reset").await
    }
}

/// Whether this progress belongs to this database's outbox and epoch.
pub(super) fn same_epoch(
    identity: &super::Identity,
    progress: &ProgressRecord,
) -> Result<(), Loss> {
    if progress.source_id != identity.source_id {
        return Err(Loss::OtherSourceId {
            expected: identity.source_id,
            found: progress.source_id,
        });
    }
    if progress.epoch != identity.epoch {
        return Err(Loss::EpochMismatch {
            database: identity.epoch,
            kafka: progress.epoch,
        });
    }
    Ok(())
}
