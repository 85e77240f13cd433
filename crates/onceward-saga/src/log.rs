//! The saga's rows: instance, events, and the one function that writes a decision.

use onceward::{Backend, CorrelationId, MessageContext, Micros, Outbox, QueryResult, Tx};
use sqlx::Row;
use uuid::Uuid;

use crate::decide::{Decision, TimerChange};
use crate::schema::SagaBackend;
use crate::timer::rows;
use crate::{SagaError, SagaEvent, SagaId, SagaState};

/// `owner_kind` of a saga's timers.
pub(crate) const OWNER_KIND: &str = "saga";

/// A saga whose row this transaction has locked.
pub(crate) struct Locked {
    pub(crate) state: SagaState,
    /// The story it was started in, for what no message causes.
    pub(crate) story: MessageContext,
}

/// Locks the saga's row, then reads its log. **First**, always, by replies and timers alike: what
/// one of them commits is seen by the other, and the first commit wins.
pub(crate) async fn lock<B: Backend>(
    tx: &mut Tx<'static, B>,
    saga_id: SagaId,
) -> Result<Option<Locked>, SagaError> {
    // An update that changes nothing locks on both databases; `for update` does not exist on one.
    let row = sqlx::query(
        "update saga_instance set version = version where saga_id = $1 \
         returning correlation_id, traceparent, tracestate",
    )
    .bind(saga_id.0)
    .fetch_optional(&mut **tx)
    .await
    .map_err(SagaError::database("saga lock"))?;
    let Some(row) = row else { return Ok(None) };
    let read = || -> Result<MessageContext, sqlx::Error> {
        let correlation: Uuid = row.try_get("correlation_id")?;
        let mut story = MessageContext::correlated(CorrelationId(correlation));
        story.traceparent = row.try_get("traceparent")?;
        story.tracestate = row.try_get("tracestate")?;
        Ok(story)
    };
    let story = read().map_err(SagaError::database("saga row"))?;
    let stored: Vec<(i64, String)> =
        sqlx::query("select seq, body from saga_event where saga_id = $1 order by seq")
            .bind(saga_id.0)
            .fetch_all(&mut **tx)
            .await
            .and_then(|rows| {
                rows.iter()
                    .map(|row| Ok((row.try_get("seq")?, row.try_get("body")?)))
                    .collect()
            })
            .map_err(SagaError::database("saga log"))?;
    let mut events = Vec::with_capacity(stored.len());
    for (seq, body) in stored {
        let event =
            serde_json::from_str::<SagaEvent>(&body).map_err(|source| SagaError::CorruptLog {
                saga_id,
                seq,
                source,
            })?;
        events.push(event);
    }
    match SagaState::fold(saga_id, &events) {
        Some(state) => Ok(Some(Locked { state, story })),
        None => Err(SagaError::Storage(onceward::Error::Corrupt {
            what: "saga log",
            reason: format!("the log of saga {saga_id} does not begin with its start"),
        })),
    }
}

/// Inserts a new saga's row. `false` if it is there already (or was by the time a concurrent start
/// committed).
pub(crate) async fn insert_instance<B: Backend>(
    tx: &mut Tx<'static, B>,
    context: &MessageContext,
    state: &SagaState,
    now: Micros,
) -> Result<bool, SagaError> {
    let done = sqlx::query(
        "insert into saga_instance (saga_id, definition, definition_version, subject, status, \
         version, correlation_id, traceparent, tracestate, started_at, updated_at) \
         values ($1, $2, $3, $4, 'running', 0, $5, $6, $7, $8, $8) \
         on conflict (saga_id) do nothing",
    )
    .bind(state.saga_id.0)
    .bind(state.definition.clone())
    .bind(state.definition_version)
    .bind(state.subject.clone())
    .bind(context.correlation_id.0)
    .bind(context.traceparent.clone())
    .bind(context.tracestate.clone())
    .bind(now)
    .execute(&mut **tx)
    .await
    .map_err(SagaError::database("saga insert"))?;
    Ok(done.rows_affected() == 1)
}

/// Writes a decision: events, the saga's new version and status, timers, messages. `from` is the
/// version it was decided at.
///
/// CRASH: died before the caller's commit = nothing of it happened, and the message or timer that
/// led to it comes again. After the commit = all of it happened, and the inbox (or the timer's
/// state) keeps it from happening twice.
pub(crate) async fn write<B: SagaBackend>(
    tx: &mut Tx<'static, B>,
    context: &MessageContext,
    outbox: &Outbox,
    saga_id: SagaId,
    from: i64,
    after: &SagaState,
    decision: Decision,
) -> Result<(), SagaError> {
    let now = B::timer_now(&mut **tx, outbox.clock().as_ref())
        .await
        .map_err(SagaError::database("saga clock"))?;
    let mut seq = from;
    for event in &decision.events {
        seq += 1;
        insert_event(tx, context, saga_id, seq, event, now).await?;
    }
    let updated = sqlx::query(
        "update saga_instance set version = $2, status = $3, reason = $4, updated_at = $5, \
         ended_at = $6 where saga_id = $1 and version = $7",
    )
    .bind(saga_id.0)
    .bind(seq)
    .bind(after.status.as_str().to_owned())
    .bind(after.reason.clone())
    .bind(now)
    .bind(after.status.has_ended().then_some(now))
    .bind(from)
    .execute(&mut **tx)
    .await
    .map_err(SagaError::database("saga update"))?
    .rows_affected();
    if updated != 1 {
        return Err(SagaError::Storage(onceward::Error::RowCount {
            doing: "saga update",
            expected: 1,
            actual: updated,
        }));
    }
    for change in decision.timers {
        match change {
            TimerChange::Arm(name, delay) => {
                rows::arm(tx, OWNER_KIND, saga_id.0, &name.to_string(), now, delay).await?;
            }
            TimerChange::Disarm(name) => {
                rows::disarm(tx, OWNER_KIND, saga_id.0, &name.to_string(), now).await?;
            }
        }
    }
    for message in decision.messages {
        outbox.append_raw(tx, context, message).await?;
    }
    Ok(())
}

async fn insert_event<B: Backend>(
    tx: &mut Tx<'static, B>,
    context: &MessageContext,
    saga_id: SagaId,
    seq: i64,
    event: &SagaEvent,
    now: Micros,
) -> Result<(), SagaError> {
    let body = serde_json::to_string(event).map_err(|source| SagaError::Encode {
        what: "saga event",
        source,
    })?;
    let step = event.step();
    sqlx::query(
        "insert into saga_event (saga_id, seq, kind, step, branch, attempt, body, caused_by, \
         occurred_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(saga_id.0)
    .bind(seq)
    .bind(event.kind().to_owned())
    .bind(step.map(|(name, _)| name.to_owned()))
    .bind(step.map_or(0, |(_, branch)| branch))
    .bind(event.attempt())
    .bind(body)
    .bind(context.causation_id.map(|id| id.0))
    .bind(now)
    .execute(&mut **tx)
    .await
    .map_err(SagaError::database("saga event insert"))?;
    Ok(())
}
