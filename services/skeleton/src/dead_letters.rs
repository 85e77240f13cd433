//! `GET /dead-letters`.

use axum::Json;
use axum::extract::State;
use onceward::Backend;
use onceward::consumer::dead_letter::{self, DeadLetter};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{ApiError, App, Operator, iso_time};

/// Most of them that are shown.
const MOST: i64 = 500;

/// A message that this service could not handle. Later ones of its key, in its topic, wait behind it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetter)]
pub(crate) struct Letter {
    /// Who could not.
    #[schema(example = "payment-service-group")]
    consumer: String,
    /// Where it stands: `topic/partition@offset`, by which `onceward dead-letter` takes it.
    #[schema(example = "payment.process/0@17")]
    place: String,
    /// The message's own id.
    message_id: String,
    /// Its type, if it has one.
    #[schema(required, example = "payment.process.v1")]
    message_type: Option<String>,
    /// Its key, if it is a text.
    #[schema(required)]
    message_key: Option<String>,
    /// Tries made.
    #[schema(minimum = 0, example = 10)]
    attempts: i32,
    /// Why it is dead.
    reason: String,
    /// When it died last.
    #[schema(format = DateTime)]
    died_at: String,
}

/// Messages that wait for a person.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Letters {
    /// The oldest first; without their payloads, which may be somebody's.
    #[schema(max_items = 500)]
    items: Vec<Letter>,
}

impl From<DeadLetter> for Letter {
    fn from(letter: DeadLetter) -> Self {
        let key = letter.message_key.map(String::from_utf8);
        Self {
            place: format!("{}@{}", letter.id.at, letter.id.offset),
            consumer: letter.id.consumer,
            message_id: letter.ce_id,
            message_type: letter.message_type,
            message_key: key.and_then(Result::ok),
            attempts: letter.attempts,
            reason: letter.reason,
            died_at: iso_time(letter.died_at),
        }
    }
}

/// List dead letters
///
/// Messages that this service could not handle, of all its consumers, at most 500. Mend the cause, then
/// `onceward dead-letter replay`: it is handled, and what waits behind it in its order.
#[utoipa::path(
    get,
    path = "/dead-letters",
    operation_id = "list_dead_letters",
    tag = "dead letters",
    responses((status = 200, description = "Those that are dead now.", body = Letters)),
    security(("operator" = []))
)]
pub(crate) async fn list<B: Backend>(
    _operator: Operator,
    State(app): State<App<B>>,
) -> Result<Json<Letters>, ApiError> {
    let letters = dead_letter::list_outlines(app.db().pool(), None, false, MOST).await?;
    let items = letters.into_iter().map(Letter::from).collect();
    Ok(Json(Letters { items }))
}
