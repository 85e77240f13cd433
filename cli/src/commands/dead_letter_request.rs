//! `onceward dead-letter replay`, `discard` and `requests`.
//!
//! The command only writes a wish; the relay (outbox side) or the consumer instance that owns the
//! partition (inbox side) carries it out, because only it can keep the key's order.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use auditor::Connection;
use serde::Serialize;
use serde_json::json;

use super::dead_letter::{self, Letter, Side};
use super::message::as_time;
use crate::World;
use crate::args::{LetterRequest, ReplayRequest, Wish};
use crate::database::{self, on};
use crate::locate::Place;
use crate::outcome::{Exit, Outcome, not_found, refused};
use crate::render::{or_dash, short, table, time};

/// How often `--wait` looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// `dead-letter replay`.
pub(crate) async fn replay(
    place: &Place,
    world: &World<'_>,
    request: &ReplayRequest,
) -> Result<Outcome> {
    match (&request.letter, &request.parked_in) {
        (Some(letter), _) => {
            let (letter, notes) =
                dead_letter::find(place, letter, request.wish.consumer.as_deref()).await?;
            ask(place, world, &request.wish, "replay", letter, notes).await
        }
        (None, topic) => {
            let topic = topic.as_deref().unwrap_or_default();
            replay_topic(place, world, topic, &request.wish).await
        }
    }
}

/// All that is parked in a topic, one wish for each key.
async fn replay_topic(
    place: &Place,
    world: &World<'_>,
    topic: &str,
    wish: &Wish,
) -> Result<Outcome> {
    let (letters, mut notes) = dead_letter::all(place, None).await?;
    let mut meant = BTreeMap::new();
    for letter in letters {
        if letter.side == Side::Outbox && letter.topic == topic && letter.is_open() {
            // The whole key is meant, a row without one by its id.
            let id = letter
                .message_key
                .is_none()
                .then(|| letter.message_id.clone());
            let key = (letter.source.clone(), letter.message_key.clone(), id);
            meant.entry(key).or_insert(letter);
        }
    }
    if meant.is_empty() {
        return Err(not_found(format!(
            "nothing is parked in topic {topic}; `onceward dead-letter list` shows what is"
        )));
    }
    // One for each database, however many keys are parked there.
    let mut connections = BTreeMap::new();
    let mut asked = vec![];
    for letter in meant.values() {
        let connection = match connections.entry(&letter.source) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(none) => {
                let source = place.source(&letter.source)?;
                none.insert(database::open_for_writing(&source.url).await?)
            }
        };
        let (id, _) = write(connection, world, wish, "replay", letter).await?;
        asked.push((id, letter));
    }
    let until = Instant::now() + Duration::from_secs(wish.timeout);
    let (mut requests, mut count) = (vec![], BTreeMap::<String, usize>::new());
    for (id, letter) in asked {
        let state = match connections.get_mut(&letter.source) {
            Some(connection) if wish.wait => wait(connection, letter.side, id, until).await?,
            _ => "requested".to_owned(),
        };
        requests.push(json!({ "request": id, "source": letter.source,
            "message_key": letter.message_key, "state": state }));
        *count.entry(state).or_default() += 1;
    }
    let states = count
        .iter()
        .map(|(state, count)| format!("{count} {state}"));
    let text = format!(
        "replay of {} keys and messages parked in {topic}: {}",
        requests.len(),
        states.collect::<Vec<_>>().join(", ")
    );
    if !wish.wait {
        notes.push(
            "the sources' relays carry it out; follow it: onceward dead-letter requests".to_owned(),
        );
    }
    let exit = match (count.get("refused"), count.get("done")) {
        (Some(_), _) => Exit::Broken,
        (None, Some(done)) if *done == requests.len() => Exit::Done,
        _ if wish.wait => {
            notes.push(format!(
                "not carried out within {} s: do the relays run? The requests stay.",
                wish.timeout
            ));
            Exit::Unreachable
        }
        _ => Exit::Done,
    };
    let data = json!({ "topic": topic, "kind": "replay", "requests": requests });
    Ok(Outcome::new(text, &data)?.with_notes(notes).ending(exit))
}

/// `dead-letter discard`.
pub(crate) async fn discard(
    place: &Place,
    world: &World<'_>,
    request: &LetterRequest,
    yes_break_order: bool,
) -> Result<Outcome> {
    let (letter, notes) =
        dead_letter::find(place, &request.letter, request.wish.consumer.as_deref()).await?;
    if !yes_break_order {
        return Err(refused(format!(
            "discarding {} means that its effect never happens{}. To acknowledge that: \
             --yes-break-order",
            letter.message_id,
            if letter.message_key.is_some() {
                " and that later messages of its key go on without it"
            } else {
                ""
            }
        )));
    }
    ask(place, world, &request.wish, "discard", letter, notes).await
}

async fn ask(
    place: &Place,
    world: &World<'_>,
    wish: &Wish,
    kind: &str,
    letter: Letter,
    mut notes: Vec<String>,
) -> Result<Outcome> {
    if !letter.is_open() {
        return Err(refused(format!(
            "{} is {} already",
            letter.message_id, letter.state
        )));
    }
    let source = place.source(&letter.source)?;
    let mut connection = database::open_for_writing(&source.url).await?;
    let (id, fresh) = write(&mut connection, world, wish, kind, &letter).await?;
    let owner = match letter.side {
        Side::Outbox => format!("the relay of source {}", letter.source),
        Side::Inbox => format!(
            "{} (whoever owns {})",
            letter.place(),
            or_dash(letter.consumer.clone())
        ),
    };
    let state = if wish.wait {
        let until = Instant::now() + Duration::from_secs(wish.timeout);
        wait(&mut connection, letter.side, id, until).await?
    } else {
        "requested".to_owned()
    };
    let mut text = format!(
        "{} {id}: {kind} {} of {}, {state}",
        if fresh {
            "request"
        } else {
            "already asked: request"
        },
        letter.message_id,
        letter.place()
    );
    if letter.side == Side::Outbox && letter.message_key.is_some() {
        text.push_str(&format!(
            "\nthe whole parked key {} is meant, {} more behind it",
            or_dash(letter.message_key.clone()),
            letter.behind
        ));
    }
    if !wish.wait {
        notes.push(format!(
            "it is carried out by {owner}; follow it: onceward dead-letter requests"
        ));
    }
    let exit = match state.as_str() {
        "refused" => Exit::Broken,
        "done" => Exit::Done,
        _ if wish.wait => {
            notes.push(format!(
                "not carried out within {} s: does {owner} run? The request stays.",
                wish.timeout
            ));
            Exit::Unreachable
        }
        _ => Exit::Done,
    };
    let data = json!({ "request": id, "fresh": fresh, "kind": kind, "state": state,
        "side": letter.side, "source": letter.source, "message_id": letter.message_id });
    Ok(Outcome::new(text, &data)?.with_notes(notes).ending(exit))
}

/// Writes the wish, unless the same one is still open. Returns its id and whether it is new.
async fn write(
    connection: &mut Connection,
    world: &World<'_>,
    wish: &Wish,
    kind: &str,
    letter: &Letter,
) -> Result<(i64, bool)> {
    match letter.side {
        Side::Outbox => write_outbox(connection, world, wish, kind, letter).await,
        Side::Inbox => write_inbox(connection, world, wish, kind, letter).await,
    }
}

async fn write_outbox(
    connection: &mut Connection,
    world: &World<'_>,
    wish: &Wish,
    kind: &str,
    letter: &Letter,
) -> Result<(i64, bool)> {
    const OPEN: &str = "select id from outbox_dead_letter_request where kind = $1 and topic = $2 \
         and state in ('requested', 'running') and (message_key = $3 or message_id = $4) limit 1";
    const WISH: &str = "insert into outbox_dead_letter_request \
         (kind, topic, message_key, message_id, requested_by, note, requested_at) \
         values ($1, $2, $3, $4, $5, $6, $7) returning id";
    // A row without a key is parked alone, and meant by its id.
    let id: Option<uuid::Uuid> = match letter.message_key {
        Some(_) => None,
        None => Some(letter.message_id.parse()?),
    };
    let key = letter.message_key.as_deref();
    let now = world.clock.now();
    // Two operators asking at once write two wishes; the second finds the key free and is done.
    on!(connection, c => {
        let open: Option<i64> = sqlx::query_scalar(OPEN)
            .bind(kind).bind(&letter.topic).bind(key).bind(id)
            .fetch_optional(&mut *c).await?;
        if let Some(open) = open {
            return Ok((open, false));
        }
        // CRASH: died before this statement = no wish; after it = the wish stands, ask again and
        // the same one is found.
        let made: i64 = sqlx::query_scalar(WISH)
            .bind(kind).bind(&letter.topic).bind(key).bind(id)
            .bind(&wish.by).bind(wish.note.as_deref()).bind(now)
            .fetch_one(&mut *c).await.context("the request could not be written")?;
        Ok((made, true))
    })
}

async fn write_inbox(
    connection: &mut Connection,
    world: &World<'_>,
    wish: &Wish,
    kind: &str,
    letter: &Letter,
) -> Result<(i64, bool)> {
    const OPEN: &str = "select id from inbox_dead_letter_request where kind = $1 and consumer = $2 \
         and topic = $3 and partition = $4 and record_offset = $5 and state = 'requested' limit 1";
    const WISH: &str = "insert into inbox_dead_letter_request \
         (kind, consumer, topic, partition, record_offset, requested_by, note, requested_at) \
         values ($1, $2, $3, $4, $5, $6, $7, $8) returning id";
    let consumer = letter.consumer.clone().unwrap_or_default();
    let (partition, offset) = (letter.partition.unwrap_or(-1), letter.offset.unwrap_or(-1));
    let now = world.clock.now();
    on!(connection, c => {
        let open: Option<i64> = sqlx::query_scalar(OPEN)
            .bind(kind).bind(&consumer).bind(&letter.topic).bind(partition).bind(offset)
            .fetch_optional(&mut *c).await?;
        if let Some(open) = open {
            return Ok((open, false));
        }
        // CRASH: as on the outbox side.
        let made: i64 = sqlx::query_scalar(WISH)
            .bind(kind).bind(&consumer).bind(&letter.topic).bind(partition).bind(offset)
            .bind(&wish.by).bind(wish.note.as_deref()).bind(now)
            .fetch_one(&mut *c).await.context("the request could not be written")?;
        Ok((made, true))
    })
}

/// Looks until the wish is carried out or refused, or the time is up.
async fn wait(connection: &mut Connection, side: Side, id: i64, until: Instant) -> Result<String> {
    let sql = match side {
        Side::Outbox => "select state from outbox_dead_letter_request where id = $1",
        Side::Inbox => "select state from inbox_dead_letter_request where id = $1",
    };
    loop {
        let state: String = on!(connection, c => {
            sqlx::query_scalar(sql).bind(id).fetch_one(&mut *c).await
        })?;
        if ["done", "refused"].contains(&state.as_str()) || Instant::now() >= until {
            return Ok(state);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[derive(Debug, Serialize)]
struct Request {
    side: Side,
    source: String,
    id: i64,
    kind: String,
    what: String,
    state: String,
    requested_by: String,
    #[serde(serialize_with = "as_time")]
    requested_at: i64,
    note: Option<String>,
}

type Row = (i64, String, String, String, String, i64, Option<String>);

/// `dead-letter requests`.
pub(crate) async fn list(place: &Place, only_open: bool) -> Result<Outcome> {
    const OUTBOX: &str = "select id, kind, \
         topic || ' ' || coalesce('key ' || message_key, 'one message without a key'), state, \
         requested_by, requested_at, note from outbox_dead_letter_request order by id";
    const INBOX: &str = "select id, kind, \
         consumer || ' ' || topic || '/' || partition || '@' || record_offset, state, \
         requested_by, requested_at, note from inbox_dead_letter_request order by id";
    let (mut open, failed) = database::open_all(place, None).await?;
    let mut found = vec![];
    for reading in &mut open {
        for (side, sql) in [(Side::Outbox, OUTBOX), (Side::Inbox, INBOX)] {
            let rows: Vec<Row> =
                on!(&mut reading.connection, c => sqlx::query_as(sql).fetch_all(&mut *c).await)?;
            found.extend(rows.into_iter().map(|row| {
                let (id, kind, what, state, requested_by, requested_at, note) = row;
                let source = reading.source.name.clone();
                Request {
                    side,
                    source,
                    id,
                    kind,
                    what,
                    state,
                    requested_by,
                    requested_at,
                    note,
                }
            }));
        }
    }
    found.retain(|r| !only_open || ["requested", "running"].contains(&r.state.as_str()));
    found.sort_by_key(|r| r.requested_at);
    let lines = found.iter().map(|r| {
        vec![
            time(r.requested_at),
            r.source.clone(),
            r.id.to_string(),
            r.kind.clone(),
            r.what.clone(),
            r.state.clone(),
            r.requested_by.clone(),
            short(&or_dash(r.note.clone()), 60),
        ]
    });
    let headings = [
        "ASKED", "SOURCE", "NUMBER", "KIND", "WHAT", "STATE", "BY", "NOTE",
    ];
    let text = if found.is_empty() {
        "no requests".to_owned()
    } else {
        table(&headings, lines.collect())
    };
    Ok(Outcome::new(text, &found)?.with_notes(database::talk(&failed)))
}
