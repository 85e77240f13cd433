//! The database's half of taking over: does what is there fit what was published?

use sqlx::Connection;

use super::lease::{clock, commit, rollback};
use super::mirror::{read_identity, read_mirror, write_mirror};
use super::parking::{clean_up_replay, load_parked};
use super::{
    Dialect, Identity, Loss, Mirror, ParkedKeys, ProgressPlace, RelayEpoch, SourceError,
    SourceStore,
};
use crate::{LastRow, MessageId, ProgressRecord, Tx, breach};

impl<B: Dialect> SourceStore<B> {
    /// The one database transaction of a take-over, after the progress was read back from Kafka:
    /// checks that `epoch` is still the last claim, that the rows between the mirror and
    /// `progress` are exactly those that were published, finishes a replay's clean-up, writes the
    /// mirror, and loads what is parked.
    ///
    /// At the first start call it with the genesis record just committed: it writes the first
    /// mirror row.
    pub async fn take_over(
        &mut self,
        epoch: RelayEpoch,
        progress: &ProgressRecord,
        place: ProgressPlace<'_>,
    ) -> Result<ParkedKeys, SourceError> {
        // Before the guard and not under it: with a large backlog it may take seconds, and the guard's row lock
        // holds up the renewal of the lease. It compares rows and mirror of one snapshot, and nobody but `epoch` writes
        // either of them after that: the claim has waited for what older owners wrote.
        self.verify_between(progress, place).await?;
        let mut tx = self.begin_guarded(epoch, "take-over").await?;
        if let Some(replay) = &progress.replay {
            clean_up_replay(&mut tx, replay).await?;
        }
        let parked = load_parked::<B>(&mut tx).await?;
        let now = clock::<B>(&mut tx).await?;
        write_mirror::<B>(&mut tx, progress, place, now, false).await?;
        // CRASH: before this commit = the take-over is done again; after it = the mirror is newer.
        commit(tx, "take-over").await?;
        Ok(parked)
    }

    /// The check of [`Self::take_over`] alone, in one snapshot: for each new connection, and for
    /// a look without owning the source.
    pub async fn verify_between(
        &mut self,
        progress: &ProgressRecord,
        place: ProgressPlace<'_>,
    ) -> Result<(), SourceError> {
        let mut tx = self.begin_snapshot().await?;
        verify(&mut tx, progress, place).await?;
        rollback(tx).await
    }

    /// What to say when the progress topic is empty: fine at a first start, else a loss.
    pub async fn progress_may_be_missing(&mut self) -> Result<(), SourceError> {
        match self.mirror().await? {
            None => Ok(()),
            Some(_) if breach::is_broken(breach::PROGRESS_IS_THERE) => Ok(()),
            Some(mirror) => Err(Loss::ProgressMissing {
                passed: mirror.passed,
            }
            .into()),
        }
    }

    /// Writes the mirror after a known commit, where it grows. Whether it did. At most once a
    /// second, on stop, and before the janitor.
    pub async fn write_mirror(
        &mut self,
        epoch: RelayEpoch,
        progress: &ProgressRecord,
        place: ProgressPlace<'_>,
    ) -> Result<bool, SourceError> {
        let mut tx = self.begin_guarded(epoch, "mirror write").await?;
        let now = clock::<B>(&mut tx).await?;
        let grew = write_mirror::<B>(&mut tx, progress, place, now, false).await?;
        // CRASH: before this commit = an older mirror, from which the take-over counts further.
        commit(tx, "mirror write").await?;
        Ok(grew)
    }

    /// A transaction that sees one state throughout.
    async fn begin_snapshot(&mut self) -> Result<Tx<'_, B>, SourceError> {
        self.conn
            .begin_with(B::BEGIN_SNAPSHOT)
            .await
            .map_err(SourceError::database("verification"))
    }
}

/// Whether the rows in this database are those that `progress`, at `place` in Kafka, has passed.
async fn verify<B: Dialect>(
    tx: &mut Tx<'_, B>,
    progress: &ProgressRecord,
    place: ProgressPlace<'_>,
) -> Result<(), SourceError> {
    let identity = read_identity::<B>(tx).await?;
    same_epoch(&identity, progress)?;
    if breach::is_broken(breach::ROWS_ARE_COMPARED) || breach::is_broken(breach::PROGRESS_IS_THERE)
    {
        return Ok(());
    }
    if let Some(mirror) = read_mirror::<B>(tx).await? {
        same_kafka(&mirror, place)?;
        compare(tx, &mirror, progress, place).await?;
    }
    match progress.last {
        Some(last) => last_row_is_there(tx, last).await,
        None => Ok(()),
    }
}

/// Whether this progress belongs to this database's outbox and epoch.
fn same_epoch(identity: &Identity, progress: &ProgressRecord) -> Result<(), Loss> {
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

fn same_kafka(mirror: &Mirror, place: ProgressPlace<'_>) -> Result<(), Loss> {
    if (mirror.cluster_id.as_str(), mirror.topic_id.as_str()) == (place.cluster_id, place.topic_id)
    {
        return Ok(());
    }
    Err(Loss::OtherKafka {
        expected: format!("{} (progress topic {})", mirror.cluster_id, mirror.topic_id),
        found: format!("{} (progress topic {})", place.cluster_id, place.topic_id),
    })
}

/// Under equal epochs, count and sum of the rows between the two cursors must be the differences.
async fn compare<B: Dialect>(
    tx: &mut Tx<'_, B>,
    mirror: &Mirror,
    progress: &ProgressRecord,
    place: ProgressPlace<'_>,
) -> Result<(), SourceError> {
    if mirror.epoch != progress.epoch {
        return Err(Loss::EpochMismatch {
            database: mirror.epoch,
            kafka: progress.epoch,
        }
        .into());
    }
    if progress.passed < mirror.passed || place.offset < mirror.progress_offset {
        return Err(Loss::KafkaBehindMirror {
            mirror: mirror.passed,
            kafka: progress.passed,
        }
        .into());
    }
    if let Some(last) = mirror.last {
        last_row_is_there(tx, last).await?;
    }
    let found = B::between(tx, &mirror.cursor, &progress.cursor).await?;
    let expected = progress.passed.saturating_sub(mirror.passed);
    if found.count != expected {
        return Err(Loss::RowCount {
            expected,
            found: found.count,
        }
        .into());
    }
    if found.id_sum != progress.id_sum.since(mirror.id_sum) {
        return Err(Loss::RowIds.into());
    }
    Ok(())
}

async fn last_row_is_there<B: Dialect>(
    tx: &mut Tx<'_, B>,
    last: LastRow,
) -> Result<(), SourceError> {
    let found: Option<uuid::Uuid> =
        sqlx::query_scalar("select message_id from outbox where seq = $1")
            .bind(last.seq)
            .fetch_optional(&mut **tx)
            .await
            .map_err(SourceError::database("last row lookup"))?;
    same_row(last, found.map(MessageId))
}

/// The last row passed must still be there, with its message id.
pub(super) fn same_row(last: LastRow, found: Option<MessageId>) -> Result<(), SourceError> {
    match found {
        Some(found) if found == last.message_id => Ok(()),
        _ if breach::is_broken(breach::ROWS_ARE_COMPARED) => Ok(()),
        Some(found) => Err(Loss::LastRowReplaced {
            seq: last.seq,
            expected: last.message_id,
            found,
        }
        .into()),
        None => Err(Loss::LastRowGone {
            seq: last.seq,
            message_id: last.message_id,
        }
        .into()),
    }
}
