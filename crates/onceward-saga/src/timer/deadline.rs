//! The deadline of a process that is no saga of the engine's.

use std::time::Duration;

use onceward::{Clock, Tx};
use uuid::Uuid;

use crate::timer::rows::{self, Named};
use crate::{SagaBackend, SagaError};

/// The one timer's name.
const NAME: &str = "deadline";

/// Whether a deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// It has just passed: its timer is fired in this transaction, and never again.
    Now,
    /// It was reached in time, has passed before, or is not due yet; nothing was changed.
    No,
}

/// The deadline of a process with rows of your own: armed in the transaction that begins it, disarmed in
/// the one that ends it, and fired by a [`TimerRunner`](crate::TimerRunner) whose
/// [`TimerOwner`](crate::TimerOwner) asks [`Self::passed`]. Lock your own row before each of these calls:
/// then what ends the process and what fires its deadline see each other, and the first commit wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// `owner_kind`: [`TimerOwner::KIND`](crate::TimerOwner::KIND).
    pub kind: &'static str,
    /// Which process.
    pub owner: Uuid,
}

impl Deadline {
    fn named(self) -> Named {
        Named {
            owner: self.owner,
            name: NAME.to_owned(),
        }
    }

    /// Arms it, once for each owner, to pass in `after`.
    ///
    /// # Errors
    /// [`SagaError::Storage`], also if it was armed before.
    pub async fn arm<B: SagaBackend>(
        self,
        tx: &mut Tx<'static, B>,
        clock: &dyn Clock,
        after: Duration,
    ) -> Result<(), SagaError> {
        let now = now(tx, clock).await?;
        rows::arm(tx, self.kind, now, &[(self.named(), after)]).await
    }

    /// Disarms it; one that has passed stays as it is.
    ///
    /// # Errors
    /// [`SagaError::Storage`].
    pub async fn disarm<B: SagaBackend>(
        self,
        tx: &mut Tx<'static, B>,
        clock: &dyn Clock,
    ) -> Result<(), SagaError> {
        let now = now(tx, clock).await?;
        rows::disarm(tx, self.kind, now, &[self.named()]).await
    }

    /// Fires it if it still is armed and its time has come.
    ///
    /// # Errors
    /// [`SagaError::Storage`].
    pub async fn passed<B: SagaBackend>(
        self,
        tx: &mut Tx<'static, B>,
        clock: &dyn Clock,
    ) -> Result<Passed, SagaError> {
        let now = now(tx, clock).await?;
        let fired = rows::mark_fired(tx, self.kind, self.owner, NAME, now).await?;
        Ok(if fired { Passed::Now } else { Passed::No })
    }
}

async fn now<B: SagaBackend>(tx: &mut Tx<'static, B>, clock: &dyn Clock) -> Result<i64, SagaError> {
    B::timer_now(&mut **tx, clock)
        .await
        .map_err(SagaError::database("timer clock"))
}
