//! The unit of work: `db.write(async |tx| …)`.

use sqlx::Pool;

use crate::{Backend, Error, Tx};

/// A database with an outbox, as a service holds it. Cheap to clone.
#[derive(Debug)]
pub struct Db<B: Backend> {
    pool: Pool<B>,
}

impl<B: Backend> Clone for Db<B> {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
        }
    }
}

/// Why a unit of work did not commit.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError<E> {
    /// The closure said no; its transaction was rolled back.
    #[error("the unit of work was refused")]
    Refused(E),
    /// The database failed before anything was committed; trying again is safe.
    #[error("the unit of work was not committed")]
    NotCommitted(#[source] Error),
    /// COMMIT was sent and no answer came: the work may or may not be durable. Ask again with the
    /// same `Idempotency-Key`.
    #[error("the commit's outcome is unknown")]
    CommitUnknown(#[source] Error),
}

impl<B: Backend> Db<B> {
    /// Wraps a pool.
    pub fn new(pool: Pool<B>) -> Self {
        Self { pool }
    }

    /// The pool, for reads. Writes go through [`Self::write`].
    pub fn pool(&self) -> &Pool<B> {
        &self.pool
    }

    /// Runs `work` in one transaction and answers after COMMIT.
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, WriteError<E>>
    where
        F: for<'t> AsyncFn(&'t mut Tx<'static, B>) -> Result<T, E> + Send + Sync + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        let begin = Error::database("begin");
        let mut tx = self
            .pool
            .begin_with(B::BEGIN)
            .await
            .map_err(|e| WriteError::NotCommitted(begin(e)))?;
        match work(&mut tx).await {
            Ok(value) => {
                let unknown = Error::database("commit");
                tx.commit()
                    .await
                    .map_err(|e| WriteError::CommitUnknown(unknown(e)))?;
                Ok(value)
            }
            Err(refusal) => {
                let rollback = Error::database("rollback");
                tx.rollback()
                    .await
                    .map_err(|e| WriteError::NotCommitted(rollback(e)))?;
                Err(WriteError::Refused(refusal))
            }
        }
    }
}
