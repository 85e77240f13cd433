//! The ways out after a loss or a move: start a new epoch.
//!
//! Both span Kafka and the database, in this order, each step safe to repeat:
//! 1. [`SourceStore::open_moved`], [`SourceStore::claim`] and fence the old producers;
//! 2. [`SourceStore::plan_reset`] or [`SourceStore::plan_adoption`] makes the progress record of the
//!    new epoch (the same one again if Kafka already holds it), and it is written to the progress
//!    topic;
//! 3. [`SourceStore::finish_epoch`] raises the database's epoch, replaces the mirror, notes the
//!    server that the database is on, and renumbers rows that came from another one.
//!
//! A reset takes the database as it is, and says where to go on. An adoption changes nothing but the
//! place: it demands that every row published is there, so nothing comes twice and nothing is missed.
//! The new epoch shuts the old place out: a relay that is started there stops.
//!
//! CRASH: between 2 and 3 = Kafka is one epoch ahead; relays refuse to start and name the command,
//! which, run again, skips step 2.

use super::dialect::PassedRows;
use super::lease::{clock, commit};
use super::mirror::{read_mirror, write_mirror};
use super::{Dialect, Identity, Loss, Mirror, ProgressPlace, RelayEpoch, SourceError, SourceStore};
use crate::{IdSum, ProgressRecord, SourceName, schema};

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
pub enum EpochPlan {
    /// Write this record to the progress topic, then finish.
    Write(ProgressRecord),
    /// An earlier run wrote it: only finish.
    Written(ProgressRecord),
}

impl<B: Dialect> SourceStore<B> {
    /// [`Self::open`] of a database that may have come to another server or under another name:
    /// for a reset or an adoption, not for publishing. Still refuses a standby, another source, and
    /// a schema that is not this version's.
    pub async fn open_moved(url: &str, name: &SourceName) -> Result<Self, SourceError> {
        let mut store = Self::connect(url, name).await?;
        schema::check_connection::<B>(&mut store.conn, &store.name).await?;
        B::check_primary(&mut store.conn, &store.local).await?;
        Ok(store)
    }

    /// Topics of the rows that are in the outbox, published or not. Reads all of it.
    pub async fn topics(&mut self) -> Result<Vec<String>, SourceError> {
        sqlx::query_scalar("select distinct topic from outbox order by topic")
            .fetch_all(&mut self.conn)
            .await
            .map_err(SourceError::database("topics"))
    }

    /// Makes the progress of the new epoch from what Kafka holds (`kafka`, if anything). Without it nobody
    /// knows the last position in each partition but the records themselves ([`Self::topics`]).
    pub async fn plan_reset(
        &mut self,
        to: ResetTo,
        kafka: Option<&ProgressRecord>,
    ) -> Result<EpochPlan, SourceError> {
        let identity = self.identity().await?;
        let mirror = self.mirror().await?;
        // Only what nothing was published after: else that epoch was finished and lived on, and this
        // database is older.
        let unfinished = |k: &&ProgressRecord| {
            let reset = k.passed == 0 && k.id_sum == IdSum::default();
            is_next(&identity, k) && (reset || adopts(mirror.as_ref(), k))
        };
        if let Some(ahead) = kafka.filter(unfinished) {
            return Ok(EpochPlan::Written(ahead.clone()));
        }
        let (mut cursor, last, passed) = match (to, &mirror) {
            (ResetTo::End, _) => {
                let (cursor, last) = B::end(&mut self.conn).await?;
                (cursor, last, PassedRows::All)
            }
            (ResetTo::Mirror, Some(mirror)) => {
                (mirror.cursor.clone(), mirror.last, PassedRows::Mirrored)
            }
            (ResetTo::Start, _) | (ResetTo::Mirror, None) => (B::genesis(), None, PassedRows::None),
        };
        if B::rows_are_foreign(&mut self.conn, &identity, &cursor).await? {
            cursor = B::renumbered(passed);
        }
        let last_epoch = kafka.map_or(0, |k| k.epoch).max(identity.epoch);
        let position = kafka
            .map_or(0, |k| k.position)
            .max(mirror.map_or(0, |m| m.position));
        let next_epoch = last_epoch.saturating_add(1);
        Ok(EpochPlan::Write(ProgressRecord {
            // Positions go on, so that an auditor of the topics sees no gap.
            position,
            last,
            partitions: kafka.map(|k| k.partitions.clone()).unwrap_or_default(),
            partition_counts: kafka
                .map(|k| k.partition_counts.clone())
                .unwrap_or_default(),
            // Counts begin at 0: they are only ever compared within an epoch.
            ..ProgressRecord::genesis(identity.source_id, next_epoch, cursor)
        }))
    }

    /// Makes the progress of the new epoch of a database that was moved with all its rows, from what
    /// Kafka holds (`kafka`, at `place`). Refuses as a take-over does, and finishes what a take-over
    /// would: a replay's clean-up. Afterwards the mirror stands where Kafka stands.
    ///
    /// # Errors
    /// [`SourceError::Lost`] if rows are missing, replaced, or can't be told apart: then only a reset
    /// helps. [`SourceError::Fenced`] if `epoch` is not the last claim.
    pub async fn plan_adoption(
        &mut self,
        epoch: RelayEpoch,
        kafka: &ProgressRecord,
        place: ProgressPlace<'_>,
    ) -> Result<EpochPlan, SourceError> {
        let identity = self.identity().await?;
        let mirror = self.mirror().await?;
        if is_next(&identity, kafka) {
            if adopts(mirror.as_ref(), kafka) {
                return Ok(EpochPlan::Written(kafka.clone()));
            }
            return Err(Loss::EpochMismatch {
                database: identity.epoch,
                kafka: kafka.epoch,
            }
            .into());
        }
        if mirror.is_none() && kafka.passed > 0 {
            return Err(Loss::MirrorMissing {
                passed: kafka.passed,
            }
            .into());
        }
        // CRASH: after this = the mirror stands where Kafka stands, as after any take-over.
        self.take_over(epoch, kafka, place).await?;
        let mut record = ProgressRecord {
            epoch: identity.epoch.saturating_add(1),
            replay: None,
            ..kafka.clone()
        };
        if B::rows_are_foreign(&mut self.conn, &identity, &kafka.cursor).await? {
            let hidden = B::hidden_rows(&mut self.conn, &kafka.cursor, kafka.last).await?;
            if hidden > 0 {
                return Err(Loss::HiddenRows { rows: hidden }.into());
            }
            record.cursor = B::renumbered(PassedRows::Mirrored);
        }
        Ok(EpochPlan::Write(record))
    }

    /// Step 3: the database enters the epoch of `progress`, which Kafka holds at `place`.
    pub async fn finish_epoch(
        &mut self,
        epoch: RelayEpoch,
        progress: &ProgressRecord,
        place: ProgressPlace<'_>,
    ) -> Result<(), SourceError> {
        let (system, database) = B::server_identity(&mut self.conn).await?;
        let mut tx = self.begin_guarded(epoch, "new epoch").await?;
        let now = clock::<B>(&mut tx).await?;
        let mirror = read_mirror::<B>(&mut tx).await?;
        B::renumber(&mut tx, &progress.cursor, mirror.as_ref(), progress.last).await?;
        sqlx::query(
            "update outbox_source set epoch = $1, system_identifier = $2, database_name = $3 \
             where id = 1",
        )
        .bind(progress.epoch)
        .bind(system)
        .bind(database)
        .execute(&mut *tx)
        .await
        .map_err(SourceError::database("new epoch"))?;
        write_mirror::<B>(&mut tx, progress, place, now, true).await?;
        // CRASH: before this commit = Kafka is one epoch ahead, the command run again finishes it.
        commit(tx, "new epoch").await
    }
}

/// Whether this progress is of the epoch after the database's.
fn is_next(identity: &Identity, kafka: &ProgressRecord) -> bool {
    kafka.source_id == identity.source_id && kafka.epoch == identity.epoch.saturating_add(1)
}

/// Whether an adoption wrote this progress: it passes on what it found in the mirror.
fn adopts(mirror: Option<&Mirror>, kafka: &ProgressRecord) -> bool {
    mirror.is_some_and(|m| (m.passed, m.id_sum, m.last) == (kafka.passed, kafka.id_sum, kafka.last))
}
