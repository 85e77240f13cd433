//! The sagas' rows: instance, events, and the one function that writes decisions.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use onceward::bulk::{Bulk, pieces};
use onceward::{Backend, CorrelationId, MessageContext, Micros, Outbox, QueryResult, Tx};
use sqlx::Row;
use uuid::Uuid;

use crate::decide::{Decision, TimerChange};
use crate::schema::SagaBackend;
use crate::timer::TimerName;
use crate::timer::rows::{self, Named};
use crate::{SagaError, SagaEvent, SagaId, SagaState, SagaStatus};

/// `owner_kind` of a saga's timers.
pub(crate) const OWNER_KIND: &str = "saga";

/// A saga whose row this transaction has locked.
pub(crate) struct Locked {
    pub(crate) state: SagaState,
    /// The story it was started in, for what no message causes.
    pub(crate) story: MessageContext,
}

/// Ids.
static LOCK: Bulk = Bulk::custom(|rows, parameters| {
    // An update that changes nothing locks on both databases; `for update` does not exist on one.
    format!(
        "update saga_instance set version = version where saga_id in {} \
         returning saga_id, correlation_id, traceparent, tracestate",
        parameters.rows(1, rows)
    )
});

/// Ids.
static EVENTS: Bulk = Bulk::custom(|rows, parameters| {
    format!(
        "select saga_id, seq, body from saga_event where saga_id in {} order by saga_id, seq",
        parameters.rows(1, rows)
    )
});

/// Locks the rows of these sagas, then reads their logs; those that do not exist are left out. **First**,
/// always, by replies and timers alike: what one of them commits is seen by the other, and the first commit
/// wins.
pub(crate) async fn lock<B: Backend>(
    tx: &mut Tx<'static, B>,
    sagas: &[SagaId],
) -> Result<HashMap<SagaId, Locked>, SagaError> {
    let mut stories = Vec::with_capacity(sagas.len());
    for piece in pieces(sagas) {
        let mut update = sqlx::query::<B>(LOCK.text::<B>(piece.len()));
        for saga_id in piece {
            update = update.bind(saga_id.0);
        }
        let rows = update.fetch_all(&mut **tx).await;
        for row in rows.map_err(SagaError::database("saga lock"))? {
            stories.push(story::<B>(&row).map_err(SagaError::database("saga row"))?);
        }
    }
    let mut logs: HashMap<SagaId, Vec<SagaEvent>> = HashMap::with_capacity(sagas.len());
    for piece in pieces(sagas) {
        let mut select = sqlx::query::<B>(EVENTS.text::<B>(piece.len()));
        for saga_id in piece {
            select = select.bind(saga_id.0);
        }
        let rows = select.fetch_all(&mut **tx).await;
        for row in rows.map_err(SagaError::database("saga log"))? {
            let read = || Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
            let (saga_id, seq, body): (Uuid, i64, String) =
                read().map_err(SagaError::database("saga log"))?;
            let saga_id = SagaId(saga_id);
            let event = serde_json::from_str(&body);
            let event = event.map_err(|source| SagaError::CorruptLog {
                saga_id,
                seq,
                source,
            })?;
            logs.entry(saga_id).or_default().push(event);
        }
    }
    let locked = stories.into_iter().map(|(saga_id, story)| {
        let events = logs.remove(&saga_id).unwrap_or_default();
        match SagaState::fold(saga_id, &events) {
            Some(state) => Ok((saga_id, Locked { state, story })),
            None => Err(SagaError::Storage(onceward::Error::Corrupt {
                what: "saga log",
                reason: format!("the log of saga {saga_id} does not begin with its start"),
            })),
        }
    });
    locked.collect()
}

fn story<B: Backend>(row: &B::Row) -> Result<(SagaId, MessageContext), sqlx::Error> {
    let saga_id: Uuid = row.try_get("saga_id")?;
    let correlation: Uuid = row.try_get("correlation_id")?;
    let mut story = MessageContext::correlated(CorrelationId(correlation));
    story.traceparent = row.try_get("traceparent")?;
    story.tracestate = row.try_get("tracestate")?;
    Ok((SagaId(saga_id), story))
}

static INSERT_INSTANCES: Bulk = Bulk::insert(
    "insert into saga_instance (saga_id, definition, definition_version, subject, status, version, \
     correlation_id, traceparent, tracestate, started_at, updated_at) values",
    11,
    "on conflict (saga_id) do nothing returning saga_id",
);

/// Inserts the rows of new sagas. Left out of the answer are those that were there already (or were by the
/// time a concurrent start committed).
pub(crate) async fn insert_instances<B: Backend>(
    tx: &mut Tx<'static, B>,
    sagas: &[(&MessageContext, &SagaState)],
    now: Micros,
) -> Result<HashSet<SagaId>, SagaError> {
    let mut inserted = HashSet::with_capacity(sagas.len());
    for piece in pieces(sagas) {
        let mut insert = sqlx::query_scalar::<B, Uuid>(INSERT_INSTANCES.text::<B>(piece.len()));
        for (context, state) in piece {
            insert = insert
                .bind(state.saga_id.0)
                .bind(&*state.definition)
                .bind(state.definition_version)
                .bind(&*state.subject)
                .bind(SagaStatus::Running.as_str())
                .bind(0_i64)
                .bind(context.correlation_id.0)
                .bind(context.traceparent.as_deref())
                .bind(context.tracestate.as_deref())
                .bind(now)
                .bind(now);
        }
        let rows = insert.fetch_all(&mut **tx).await;
        let rows = rows.map_err(SagaError::database("saga insert"))?;
        inserted.extend(rows.into_iter().map(SagaId));
    }
    Ok(inserted)
}

/// What was decided about one saga.
pub(crate) struct Decided<'a> {
    /// What led to it.
    pub(crate) context: Cow<'a, MessageContext>,
    /// The version it was decided at.
    pub(crate) from: i64,
    pub(crate) after: SagaState,
    pub(crate) decision: Decision,
}

static INSERT_EVENTS: Bulk = Bulk::insert(
    "insert into saga_event (saga_id, seq, kind, step, branch, attempt, body, caused_by, occurred_at) values",
    9,
    "",
);

/// Types of the columns that [`UPDATE_INSTANCES`] takes of each saga.
const UPDATED: [&str; 7] = [
    "uuid", "bigint", "text", "text", "bigint", "bigint", "bigint",
];

static UPDATE_INSTANCES: Bulk = Bulk::custom(|rows, parameters| {
    let after = parameters.typed_rows(rows, &UPDATED);
    format!(
        "with decided (saga_id, version, status, reason, updated_at, ended_at, came_from) \
         as (values {after}) update saga_instance set version = decided.version, \
         status = decided.status, reason = decided.reason, updated_at = decided.updated_at, \
         ended_at = decided.ended_at from decided \
         where saga_instance.saga_id = decided.saga_id and saga_instance.version = decided.came_from"
    )
});

/// Writes decisions about as many sagas: events, the sagas' new versions and status, timers, and messages in
/// this order. Timers and messages are taken out of them.
///
/// CRASH: died before the caller's commit = nothing of it happened, and the message or timer that
/// led to it comes again. After the commit = all of it happened, and the inbox (or the timer's
/// state) keeps it from happening twice.
pub(crate) async fn write<B: SagaBackend>(
    tx: &mut Tx<'static, B>,
    outbox: &Outbox,
    decided: &mut [Decided<'_>],
) -> Result<(), SagaError> {
    if decided.is_empty() {
        return Ok(());
    }
    let now = B::timer_now(&mut **tx, outbox.clock().as_ref())
        .await
        .map_err(SagaError::database("saga clock"))?;
    insert_events(tx, decided, now).await?;
    update_instances(tx, decided, now).await?;
    let (mut armed, mut disarmed) = (Vec::new(), Vec::new());
    for one in &mut *decided {
        let named = |name: TimerName| Named {
            owner: one.after.saga_id.0,
            name: name.to_string(),
        };
        for change in one.decision.timers.drain(..) {
            match change {
                TimerChange::Arm(name, delay) => armed.push((named(name), delay)),
                TimerChange::Disarm(name) => disarmed.push(named(name)),
            }
        }
    }
    rows::arm(tx, OWNER_KIND, now, &armed).await?;
    rows::disarm(tx, OWNER_KIND, now, &disarmed).await?;
    let messages = decided.iter_mut().flat_map(|one| {
        let messages = std::mem::take(&mut one.decision.messages);
        let context = &*one.context;
        messages.into_iter().map(move |message| (context, message))
    });
    let messages: Vec<_> = messages.collect();
    outbox.append_all(tx, messages).await?;
    Ok(())
}

async fn insert_events<B: Backend>(
    tx: &mut Tx<'static, B>,
    decided: &[Decided<'_>],
    now: Micros,
) -> Result<(), SagaError> {
    let events = decided.iter().flat_map(|one| {
        let numbered = (one.from + 1..).zip(&one.decision.events);
        numbered.map(move |(seq, event)| (one, seq, event))
    });
    let events: Vec<_> = events.collect();
    for piece in pieces(&events) {
        let mut insert = sqlx::query::<B>(INSERT_EVENTS.text::<B>(piece.len()));
        for (one, seq, event) in piece {
            let body = serde_json::to_string(event).map_err(|source| SagaError::Encode {
                what: "saga event",
                source,
            })?;
            let step = event.step();
            insert = insert
                .bind(one.after.saga_id.0)
                .bind(*seq)
                .bind(event.kind())
                .bind(step.map(|(name, _)| name))
                .bind(step.map_or(0, |(_, branch)| branch))
                .bind(event.attempt())
                .bind(body)
                .bind(one.context.causation_id.map(|id| id.0))
                .bind(now);
        }
        let inserted = insert.execute(&mut **tx).await;
        inserted.map_err(SagaError::database("saga event insert"))?;
    }
    Ok(())
}

async fn update_instances<B: Backend>(
    tx: &mut Tx<'static, B>,
    decided: &[Decided<'_>],
    now: Micros,
) -> Result<(), SagaError> {
    for piece in pieces(decided) {
        let mut update = sqlx::query::<B>(UPDATE_INSTANCES.text::<B>(piece.len()));
        for one in piece {
            let new = i64::try_from(one.decision.events.len()).unwrap_or(i64::MAX);
            update = update
                .bind(one.after.saga_id.0)
                .bind(one.from.saturating_add(new))
                .bind(one.after.status.as_str())
                .bind(one.after.reason.as_deref())
                .bind(now)
                .bind(one.after.status.has_ended().then_some(now))
                .bind(one.from);
        }
        let updated = update.execute(&mut **tx).await;
        let actual = updated
            .map_err(SagaError::database("saga update"))?
            .rows_affected();
        let expected = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        if actual != expected {
            return Err(SagaError::Storage(onceward::Error::RowCount {
                doing: "saga update",
                expected,
                actual,
            }));
        }
    }
    Ok(())
}
