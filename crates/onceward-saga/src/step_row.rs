//! The row of one step at the one who carries it out: reservation record and tombstone in one.

use std::collections::HashSet;

use onceward::bulk::{Bulk, pieces};
use onceward::consumer::HandlerError;
use onceward::{Backend, Event, MessageContext, Micros, Outbox, RawMessage, Tx};
use sqlx::Row;
use uuid::Uuid;

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

/// Inserts the step's row, or locks the one that is there ([`found`]). The insert comes first and waits for
/// a concurrent one of the same step: looking first, both would find nothing.
pub(crate) async fn claim<B: Backend>(
    tx: &mut Tx<'static, B>,
    at: &StepRef,
    subject: String,
    who: Claim,
    now: Micros,
) -> Result<Option<FoundStep>, HandlerError> {
    let claimed = claim_all(tx, &[(at, subject)], who, now).await?;
    match claimed.is_empty() {
        false => Ok(None),
        true => Ok(Some(found(tx, at).await?)),
    }
}

/// Locks a step's row that is there.
pub(crate) async fn found<B: Backend>(
    tx: &mut Tx<'static, B>,
    at: &StepRef,
) -> Result<FoundStep, HandlerError> {
    let row = sqlx::query(
        "update saga_step set attempt = attempt where saga_id = $1 and step = $2 and branch = $3 \
         returning state, attempt, command, reply_type, reply",
    )
    .bind(at.saga_id.0)
    .bind(at.step.clone())
    .bind(at.branch)
    .fetch_one(&mut **tx)
    .await?;
    Ok(FoundStep {
        state: row.try_get("state")?,
        attempt: row.try_get("attempt")?,
        command: row.try_get("command")?,
        reply_type: row.try_get("reply_type")?,
        reply: row.try_get("reply")?,
    })
}

static CLAIM: Bulk = Bulk::insert(
    "insert into saga_step (saga_id, step, branch, state, attempt, subject, created_at, updated_at) values",
    8,
    "on conflict (saga_id, step, branch) do nothing returning saga_id, step, branch",
);

/// Inserts the rows of these steps, each with its subject: those that are new; the others are there already.
pub(crate) async fn claim_all<B: Backend>(
    tx: &mut Tx<'static, B>,
    steps: &[(&StepRef, String)],
    who: Claim,
    now: Micros,
) -> Result<HashSet<StepKey>, HandlerError> {
    let state = match who {
        Claim::Command => "claimed",
        Claim::Cancel => "cancelled",
    };
    let mut claimed = HashSet::with_capacity(steps.len());
    for piece in pieces(steps) {
        let mut insert = sqlx::query::<B>(CLAIM.text::<B>(piece.len()));
        for (at, subject) in piece {
            insert = insert
                .bind(at.saga_id.0)
                .bind(&*at.step)
                .bind(at.branch)
                .bind(state)
                .bind(at.attempt)
                .bind(&**subject)
                .bind(now)
                .bind(now);
        }
        for row in insert.fetch_all(&mut **tx).await? {
            claimed.insert((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        }
    }
    Ok(claimed)
}

/// Saga, step, branch.
pub(crate) type StepKey = (Uuid, String, i32);

/// The key of a step's row.
pub(crate) fn key(at: &StepRef) -> StepKey {
    (at.saga_id.0, at.step.clone(), at.branch)
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
pub(crate) struct Answered<'a> {
    /// What led to it.
    pub(crate) context: &'a MessageContext,
    pub(crate) at: StepRef,
    /// What was asked, as JSON.
    pub(crate) asked: String,
    pub(crate) state: &'static str,
    pub(crate) reply: RawMessage,
}

/// Types of the columns that [`ANSWER`] takes of each step.
const ANSWERED: [&str; 9] = [
    "uuid", "text", "integer", "text", "integer", "text", "text", "text", "bigint",
];

static ANSWER: Bulk = Bulk::custom(|rows, parameters| {
    let answers = parameters.typed_rows(rows, &ANSWERED);
    format!(
        "with answer (saga_id, step, branch, state, attempt, command, reply_type, reply, updated_at) \
         as (values {answers}) update saga_step set state = answer.state, attempt = answer.attempt, \
         command = answer.command, reply_type = answer.reply_type, reply = answer.reply, \
         updated_at = answer.updated_at from answer where saga_step.saga_id = answer.saga_id \
         and saga_step.step = answer.step and saga_step.branch = answer.branch"
    )
});

/// Stores what was asked and what it came to in the claimed rows, and says it.
///
/// CRASH: died before the consumer's commit = no row, nothing done, no reply, and what was asked
/// comes again. After it = all three, and what is asked again finds the row.
pub(crate) async fn answer<B: Backend>(
    tx: &mut Tx<'static, B>,
    outbox: &Outbox,
    answers: Vec<Answered<'_>>,
    now: Micros,
) -> Result<(), HandlerError> {
    for piece in pieces(&answers) {
        let mut update = sqlx::query::<B>(ANSWER.text::<B>(piece.len()));
        for answer in piece {
            update = update
                .bind(answer.at.saga_id.0)
                .bind(&*answer.at.step)
                .bind(answer.at.branch)
                .bind(answer.state)
                .bind(answer.at.attempt)
                .bind(&*answer.asked)
                .bind(&*answer.reply.message_type)
                .bind(String::from_utf8_lossy(&answer.reply.payload).into_owned())
                .bind(now);
        }
        update.execute(&mut **tx).await?;
    }
    let replies = answers.into_iter();
    let replies: Vec<_> = replies
        .map(|answer| (answer.context, answer.reply))
        .collect();
    outbox.append_all(tx, replies).await?;
    Ok(())
}

/// A message as it is stored.
pub(crate) fn stored(asked: &impl Event) -> Result<String, HandlerError> {
    serde_json::to_string(asked).map_err(unwritable)
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
    subject: String,
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
