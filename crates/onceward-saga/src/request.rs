//! What operators ask for by rows: `onceward saga retry` and its like.
//!
//! ```text
//! requested ──carried out──▶ done
//!     └──makes no sense────▶ refused, with a note that says why
//! ```
//!
//! The tool only writes a wish, because only a process with the definitions can carry it out.

use std::time::Duration;

use onceward::{Db, Micros, Tx, Write, WriteError, error_chain};
use sqlx::Row;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{Operation, SagaBackend, SagaError, SagaId, Sagas};

/// How often it looks for wishes.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Wishes taken in one look.
const BATCH: i64 = 100;

/// Carries out what operators ask for in `saga_request`. Several may run on one database: each wish
/// is taken by one of them.
#[derive(Debug)]
pub struct RequestRunner<B: SagaBackend> {
    db: Db<B>,
    sagas: Sagas,
}

impl<B: SagaBackend> RequestRunner<B> {
    /// A runner for the sagas of one database.
    pub fn new(db: Db<B>, sagas: Sagas) -> Self {
        Self { db, sagas }
    }

    /// Carries wishes out until stopped. An error is logged and the work goes on: a wish is a row.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if let Err(error) = self.carry_out_all().await {
                let error = error_chain(&error);
                tracing::warn!(error, "requests of operators could not be carried out");
            }
            let _stopped = tokio::time::timeout(LOOK_EVERY, stop.cancelled()).await;
        }
    }

    /// Carries out the wishes there are, the oldest 100 of them, in their order; says how many.
    ///
    /// # Errors
    /// When they can't be read or one can't be written; the rest stay.
    pub async fn carry_out_all(&self) -> Result<usize, WriteError<SagaError>> {
        let open: Vec<i64> = sqlx::query_scalar(
            "select id from saga_request where state = 'requested' order by id limit $1",
        )
        .bind(BATCH)
        .fetch_all(self.db.pool())
        .await
        .map_err(SagaError::database("saga request lookup"))
        .map_err(WriteError::Refused)?;
        let count = open.len();
        for id in open {
            self.carry_out(id).await?;
        }
        Ok(count)
    }

    /// CRASH: died before the commit = the wish stands, and nothing of it was done; after it = it is
    /// done or refused, and never taken again.
    fn carry_out(&self, id: i64) -> Write<(), SagaError> {
        let sagas = self.sagas.clone();
        self.db.write_with(onceward::is_victim, async move |tx| {
            let now = B::timer_now(&mut **tx, sagas.outbox().clock().as_ref())
                .await
                .map_err(SagaError::database("saga clock"))?;
            let Some((saga_id, operation)) = take(tx, id, now).await? else {
                return Ok(()); // Another runner was faster.
            };
            match sagas.operate(tx, saga_id, operation).await {
                Ok(_) => Ok(()),
                Err(error @ SagaError::Storage(_)) => Err(error),
                // Nothing was written but that it is refused.
                Err(error) => refuse(tx, id, &error.told()).await,
            }
        })
    }
}

/// Marks a wish as done, which locks it, and reads it. `None` if it is not open any more.
async fn take<B: SagaBackend>(
    tx: &mut Tx<'static, B>,
    id: i64,
    now: Micros,
) -> Result<Option<(SagaId, Operation)>, SagaError> {
    let row = sqlx::query(
        "update saga_request set state = 'done', finished_at = $2 \
         where id = $1 and state = 'requested' \
         returning saga_id, verb, step, requested_by, why",
    )
    .bind(id)
    .bind(now)
    .fetch_optional(&mut **tx)
    .await
    .map_err(SagaError::database("saga request"))?;
    let Some(row) = row else { return Ok(None) };
    let read = || -> Result<_, sqlx::Error> {
        let saga_id: Uuid = row.try_get("saga_id")?;
        let verb: String = row.try_get("verb")?;
        let step: Option<String> = row.try_get("step")?;
        let by: String = row.try_get("requested_by")?;
        Ok((saga_id, verb, step, by, row.try_get("why")?))
    };
    let (saga_id, verb, step, by, why) = read().map_err(SagaError::database("saga request row"))?;
    let verb = verb.parse().map_err(|error: crate::UnknownVerb| {
        SagaError::Storage(onceward::Error::Corrupt {
            what: "saga request",
            reason: error.to_string(),
        })
    })?;
    let operation = Operation {
        verb,
        step,
        by,
        why,
    };
    Ok(Some((SagaId(saga_id), operation)))
}

async fn refuse<B: SagaBackend>(
    tx: &mut Tx<'static, B>,
    id: i64,
    why: &str,
) -> Result<(), SagaError> {
    sqlx::query("update saga_request set state = 'refused', note = $2 where id = $1")
        .bind(id)
        .bind(why.to_owned())
        .execute(&mut **tx)
        .await
        .map_err(SagaError::database("saga request refusal"))?;
    Ok(())
}
