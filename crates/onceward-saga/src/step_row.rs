//! The row of one step at the one who carries it out: reservation record and tombstone in one.

use onceward::consumer::HandlerError;
use onceward::{Backend, Event, MessageContext, Micros, Outbox, QueryResult, RawMessage, Tx};
use sqlx::Row;

use crate::{SagaMessage, StepRef};

/// Who makes the row.
#[derive(Clone, Copy)]
pub(crate) enum Claim {
    Command,
    Cancel,
}

/// The step's row as it was found, locked.
pub(crate) struct FoundStep {
    pub(crate) state: String,
    pub(crate) attempt: i32,
    command: Option<String>,
    reply_type: Option<String>,
    reply: Option<String>,
}

/// Inserts the step's row, or locks the one that is there. The insert comes first and waits for a
/// concurrent one of the same step: looking first, both would find nothing.
pub(crate) async fn claim<B: Backend>(
    tx: &mut Tx<'static, B>,
    at: &StepRef,
    subject: &str,
    who: Claim,
    now: Micros,
) -> Result<Option<FoundStep>, HandlerError> {
    let state = match who {
        Claim::Command => "claimed",
        Claim::Cancel => "cancelled",
    };
    let inserted = sqlx::query(
        "insert into saga_step (saga_id, step, branch, state, attempt, subject, created_at, \
         updated_at) values ($1, $2, $3, $4, $5, $6, $7, $7) \
         on conflict (saga_id, step, branch) do nothing",
    )
    .bind(at.saga_id.0)
    .bind(at.step.clone())
    .bind(at.branch)
    .bind(state)
    .bind(at.attempt)
    .bind(subject.to_owned())
    .bind(now)
    .execute(&mut **tx)
    .await?
    .rows_affected();
    if inserted == 1 {
        return Ok(None);
    }
    let row = sqlx::query(
        "update saga_step set attempt = attempt where saga_id = $1 and step = $2 and branch = $3 \
         returning state, attempt, command, reply_type, reply",
    )
    .bind(at.saga_id.0)
    .bind(at.step.clone())
    .bind(at.branch)
    .fetch_one(&mut **tx)
    .await?;
    Ok(Some(FoundStep {
        state: row.try_get("state")?,
        attempt: row.try_get("attempt")?,
        command: row.try_get("command")?,
        reply_type: row.try_get("reply_type")?,
        reply: row.try_get("reply")?,
    }))
}

impl FoundStep {
    fn command<C: Event>(&self) -> Result<C, HandlerError> {
        let stored = self.command.as_deref().unwrap_or("null");
        serde_json::from_str(stored).map_err(|e| HandlerError::Reject(Box::new(e)))
    }

    /// What the first command was answered with, under a new message id.
    pub(crate) fn repeated_reply<C: SagaMessage>(
        &self,
        command: &C,
    ) -> Result<RawMessage, HandlerError> {
        let (Some(message_type), Some(reply)) = (&self.reply_type, &self.reply) else {
            let at = command.step_ref();
            let what = format!("step {} of saga {} has no reply", at.step, at.saga_id);
            return Err(HandlerError::Reject(what.into()));
        };
        Ok(RawMessage {
            message_type: message_type.clone(),
            kind: onceward::MessageKind::Reply,
            aggregate_type: C::AGGREGATE_TYPE.to_owned(),
            aggregate_id: command.aggregate_id(),
            message_key: command.message_key(),
            topic: None,
            payload: reply.clone().into_bytes(),
            headers: std::collections::BTreeMap::new(),
        })
    }
}

/// What a step came to.
pub(crate) struct Answered {
    pub(crate) state: &'static str,
    pub(crate) reply: RawMessage,
}

/// Stores what was asked and what it came to in the claimed row, and says it.
///
/// CRASH: died before the consumer's commit = no row, nothing done, no reply, and what was asked
/// comes again. After it = all three, and what is asked again finds the row.
pub(crate) async fn answer<B: Backend>(
    tx: &mut Tx<'static, B>,
    (outbox, context): (&Outbox, &MessageContext),
    at: &StepRef,
    asked: &impl Event,
    Answered { state, reply }: Answered,
    now: Micros,
) -> Result<(), HandlerError> {
    sqlx::query(
        "update saga_step set state = $4, attempt = $5, command = $6, reply_type = $7, reply = $8, \
         updated_at = $9 where saga_id = $1 and step = $2 and branch = $3",
    )
    .bind(at.saga_id.0)
    .bind(at.step.clone())
    .bind(at.branch)
    .bind(state)
    .bind(at.attempt)
    .bind(serde_json::to_string(asked).map_err(unwritable)?)
    .bind(reply.message_type.clone())
    .bind(String::from_utf8_lossy(&reply.payload).into_owned())
    .bind(now)
    .execute(&mut **tx)
    .await?;
    outbox.append_raw(tx, context, reply).await?;
    Ok(())
}

/// What a cancel finds.
pub(crate) enum Cancel<C> {
    /// It was cancelled before.
    Again,
    /// Nothing was done, nor will it be.
    Nothing,
    /// This was done, and has to be undone in this transaction.
    Undo(C),
}

/// Marks the step as cancelled, whether or not it has begun.
pub(crate) async fn cancel_step<B: Backend, C: Event>(
    tx: &mut Tx<'static, B>,
    at: &StepRef,
    subject: &str,
    now: Micros,
) -> Result<Cancel<C>, HandlerError> {
    let Some(found) = claim(tx, at, subject, Claim::Cancel, now).await? else {
        return Ok(Cancel::Nothing);
    };
    let what = match found.state.as_str() {
        "cancelled" => return Ok(Cancel::Again),
        "done" => Cancel::Undo(found.command()?),
        _ => Cancel::Nothing,
    };
    sqlx::query(
        "update saga_step set state = 'cancelled', updated_at = $4 \
         where saga_id = $1 and step = $2 and branch = $3",
    )
    .bind(at.saga_id.0)
    .bind(at.step.clone())
    .bind(at.branch)
    .bind(now)
    .execute(&mut **tx)
    .await?;
    Ok(what)
}

/// A message that can't be written as JSON will never be.
pub(crate) fn unwritable(source: serde_json::Error) -> HandlerError {
    HandlerError::Reject(Box::new(source))
}
