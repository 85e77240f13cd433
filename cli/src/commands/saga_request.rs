//! `onceward saga retry`, `skip`, `force-complete` and `force-compensate`.
//!
//! The command only writes a wish; the orchestrator carries it out, because only it knows the saga's
//! definition, and it locks the saga first.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use auditor::Connection;
use onceward_saga::{SagaStatus, Verb};
use serde_json::json;

use super::saga;
use crate::World;
use crate::args::SagaWish;
use crate::database::{self, has_table, on};
use crate::locate::Place;
use crate::outcome::{Exit, Outcome, refused, usage};

/// How often it looks what became of the wish.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Writes the wish, and waits until it is carried out or refused.
pub(crate) async fn ask(
    place: &Place,
    world: &World<'_>,
    verb: Verb,
    wish: &SagaWish,
    step: Option<&str>,
) -> Result<Outcome> {
    for (option, text) in [("--why", &wish.why), ("--by", &wish.by)] {
        if text.trim().is_empty() || text.chars().any(char::is_control) {
            return Err(usage(format!("{option} must be a line of text")));
        }
    }
    let mut found = saga::find(place, &wish.id).await?;
    let saga = &found.saga;
    let status = saga.status.parse::<SagaStatus>();
    if status.is_ok_and(SagaStatus::has_ended) {
        return Err(refused(format!(
            "saga {} has ended, it is {}: nothing can be done to it any more",
            saga.saga_id, saga.status
        )));
    }
    let source = place.source(&saga.source)?;
    let mut connection = database::open_for_writing(&source.url).await?;
    if !has_table(&mut connection, "saga_request").await? {
        return Err(refused(format!(
            "the tables of {} are older than this command: the service that owns them brings them up to \
             date (onceward_saga::schema::migrate; in the shop: shop migrate)",
            saga.source
        )));
    }
    let id = write(&mut connection, world, verb, wish, step, saga.saga_id).await?;
    let (state, note) = wait(&mut connection, id, wish.timeout).await?;
    let mut text = format!("request {id}: {verb} saga {}, {state}", saga.saga_id);
    if let Some(note) = &note {
        text.push_str(&format!(": {note}"));
    }
    let exit = match state.as_str() {
        "done" => Exit::Done,
        "refused" => Exit::Broken,
        _ if wish.timeout == 0 => Exit::Done,
        _ => {
            found.notes.push(format!(
                "not carried out within {} s: does {} run? The request stays.",
                wish.timeout, saga.source
            ));
            Exit::Unreachable
        }
    };
    let data = json!({ "request": id, "verb": verb, "step": step, "state": state, "note": note,
        "source": saga.source, "saga_id": saga.saga_id });
    Ok(Outcome::new(text, &data)?
        .with_notes(found.notes)
        .ending(exit))
}

async fn write(
    connection: &mut Connection,
    world: &World<'_>,
    verb: Verb,
    wish: &SagaWish,
    step: Option<&str>,
    saga_id: uuid::Uuid,
) -> Result<i64> {
    const WISH: &str = "insert into saga_request \
         (saga_id, verb, step, requested_by, why, requested_at) \
         values ($1, $2, $3, $4, $5, $6) returning id";
    let now = world.clock.now();
    // CRASH: died before this statement = no wish; after it = the wish stands and is carried out
    // once. Asked again, the saga is another by then, and what makes no sense any more is refused.
    on!(connection, c => {
        sqlx::query_scalar(WISH)
            .bind(saga_id).bind(verb.as_str()).bind(step)
            .bind(&wish.by).bind(&wish.why).bind(now)
            .fetch_one(&mut *c).await.context("the request could not be written")
    })
}

/// Looks until the wish is carried out or refused, or the time is up.
async fn wait(
    connection: &mut Connection,
    id: i64,
    seconds: u64,
) -> Result<(String, Option<String>)> {
    const LOOK: &str = "select state, note from saga_request where id = $1";
    let until = Instant::now() + Duration::from_secs(seconds);
    loop {
        let (state, note): (String, Option<String>) = on!(connection, c => {
            sqlx::query_as(LOOK).bind(id).fetch_one(&mut *c).await
        })?;
        if state != "requested" || Instant::now() >= until {
            return Ok((state, note));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
