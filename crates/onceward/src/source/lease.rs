//! Who works on a source.
//!
//! ```text
//!            claim: free, expired, or retake           renew each second
//!  standby ───────────────────────────────────► owner ───────────┐
//!     ▲  ▲                                        │  ▲───────────┘
//!     │  └──────────── release (stop) ────────────┤
//!     └── Fenced (somebody claimed: epoch moved) ─┘
//! ```
//!
//! The lease is for liveness: it keeps two relays from fencing each other in turn. Safety is the
//! **relay epoch**, which each claim raises: every write of a relay first takes the row lock of
//! `outbox_source` under its own epoch, so a relay that was replaced writes nothing, however late
//! it wakes. A plain read of the epoch would let it through: it would still see the old value while
//! its successor's claim is on its way.
//!
//! On SQLite a lock file beside the database shortens the wait: if it is free although the owner
//! of the current epoch had locked it, that owner's process is dead. If it is held, the owner may
//! be frozen, and the lease decides.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection};

use super::dialect::OwnerSign;
use super::mirror::read_identity;
use super::{Dialect, SourceError, SourceStore};
use crate::{Micros, QueryResult, Tx};

/// How long a lease lasts unless renewed.
pub const LEASE_TTL: Duration = Duration::from_secs(3);
/// How often the owner renews it.
pub const LEASE_RENEW: Duration = Duration::from_secs(1);

/// Number of a claim. Every write of a relay carries the one of its claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RelayEpoch(pub i64);

/// What came of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// This relay owns the source; every older epoch is refused from now on.
    Owned(RelayEpoch),
    /// Somebody else does.
    Held {
        /// Its instance id.
        owner: String,
        /// Time left by the database's clock; try again then.
        expires_in: Duration,
    },
}

fn micros(duration: Duration) -> Micros {
    Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX)
}

impl<B: Dialect> SourceStore<B> {
    /// Claims the source for `instance`. `first` is true only for the first claim of a process:
    /// then a lease still held under the same instance id is a dead predecessor's and is taken at
    /// once. Later it would be a twin's, and the two would take it from each other for ever.
    pub async fn claim(&mut self, instance: &str, first: bool) -> Result<Claim, SourceError> {
        // A look without a lock first: a standby asks often, and must not disturb the writers.
        let seen = self.identity().await?;
        let now = self.clock().await?;
        let sign = B::owner_sign(&mut self.local, RelayEpoch(seen.relay_epoch));
        let retake = |owner: &str| (first && owner == instance) || sign == OwnerSign::Dead;
        if let Some(held) = held(seen.owner.as_deref(), seen.lease_until, now, &retake) {
            B::unmark_owner(&mut self.local);
            return Ok(held);
        }
        let (system, database) = B::server_identity(&mut self.conn).await?;
        let mut tx = self.begin("claim").await?;
        // The row lock: from here on nobody else claims, and no zombie writes.
        sqlx::query("update outbox_source set relay_epoch = relay_epoch where id = 1")
            .execute(&mut *tx)
            .await
            .map_err(SourceError::database("claim"))?;
        let current = read_identity::<B>(&mut tx).await?;
        let now = clock::<B>(&mut tx).await?;
        if current.relay_epoch != seen.relay_epoch
            && let Some(held) = held(current.owner.as_deref(), current.lease_until, now, &|_| {
                false
            })
        {
            rollback(tx).await?;
            B::unmark_owner(&mut self.local);
            return Ok(held);
        }
        let epoch = RelayEpoch(current.relay_epoch.saturating_add(1));
        sqlx::query(
            "update outbox_source set relay_epoch = $1, owner = $2, lease_until = $3, \
             system_identifier = coalesce(system_identifier, $4), \
             database_name = coalesce(database_name, $5) where id = 1",
        )
        .bind(epoch.0)
        .bind(instance)
        .bind(now.saturating_add(micros(LEASE_TTL)))
        .bind(system)
        .bind(database)
        .execute(&mut *tx)
        .await
        .map_err(SourceError::database("claim"))?;
        // CRASH: died before this commit = the old owner stays; after it = an owner that does
        // nothing, replaced when its lease ends.
        commit(tx, "claim").await?;
        B::mark_owner(&mut self.local, epoch);
        Ok(Claim::Owned(epoch))
    }

    /// Prolongs the lease. [`SourceError::Fenced`] if another relay claimed meanwhile.
    pub async fn renew(&mut self, epoch: RelayEpoch) -> Result<(), SourceError> {
        // One statement: an idle relay does little else.
        let renew = format!(
            "update outbox_source set lease_until = ({}) + $2 where id = 1 and relay_epoch = $1",
            B::CLOCK
        );
        let renewed = sqlx::query(AssertSqlSafe(renew))
            .bind(epoch.0)
            .bind(micros(LEASE_TTL))
            .execute(&mut self.conn)
            .await
            .map_err(SourceError::database("lease renewal"))?
            .rows_affected();
        if renewed != 1 {
            return Err(SourceError::Fenced);
        }
        B::mark_owner(&mut self.local, epoch);
        Ok(())
    }

    /// Gives the lease back, so that a standby takes over at once. Does nothing if another relay
    /// has claimed meanwhile.
    pub async fn release(&mut self, epoch: RelayEpoch) -> Result<(), SourceError> {
        B::unmark_owner(&mut self.local);
        sqlx::query(
            "update outbox_source set lease_until = 0, owner = null \
             where id = 1 and relay_epoch = $1",
        )
        .bind(epoch.0)
        .execute(&mut self.conn)
        .await
        .map_err(SourceError::database("lease release"))?;
        Ok(())
    }

    /// The database's clock, microseconds since the Unix epoch.
    pub async fn clock(&mut self) -> Result<Micros, SourceError> {
        clock::<B>(&mut self.conn).await
    }

    /// Opens a transaction that may write.
    pub(super) async fn begin(&mut self, doing: &'static str) -> Result<Tx<'_, B>, SourceError> {
        self.conn
            .begin_with(B::BEGIN)
            .await
            .map_err(SourceError::database(doing))
    }

    /// Opens a transaction that writes only while `epoch` is the last claim: it holds the row
    /// lock, so no successor can claim until it ends.
    pub(super) async fn begin_guarded(
        &mut self,
        epoch: RelayEpoch,
        doing: &'static str,
    ) -> Result<Tx<'_, B>, SourceError> {
        let mut tx = self.begin(doing).await?;
        let held = sqlx::query(
            "update outbox_source set relay_epoch = relay_epoch where relay_epoch = $1",
        )
        .bind(epoch.0)
        .execute(&mut *tx)
        .await
        .map_err(SourceError::database(doing))?
        .rows_affected();
        if held == 1 {
            return Ok(tx);
        }
        rollback(tx).await?;
        Err(SourceError::Fenced)
    }
}

fn held(
    owner: Option<&str>,
    lease_until: Micros,
    now: Micros,
    retake: &dyn Fn(&str) -> bool,
) -> Option<Claim> {
    let owner = owner.filter(|owner| lease_until > now && !retake(owner))?;
    Some(Claim::Held {
        owner: owner.to_owned(),
        expires_in: Duration::from_micros(lease_until.saturating_sub(now).unsigned_abs()),
    })
}

pub(super) async fn clock<B: Dialect>(conn: &mut B::Connection) -> Result<Micros, SourceError> {
    sqlx::query_scalar(B::CLOCK)
        .fetch_one(conn)
        .await
        .map_err(SourceError::database("clock"))
}

pub(super) async fn commit<B: Dialect>(
    tx: Tx<'_, B>,
    doing: &'static str,
) -> Result<(), SourceError> {
    tx.commit().await.map_err(SourceError::database(doing))
}

/// Explicitly: a dropped transaction only queues its rollback.
pub(super) async fn rollback<B: Dialect>(tx: Tx<'_, B>) -> Result<(), SourceError> {
    tx.rollback()
        .await
        .map_err(SourceError::database("rollback"))
}
