//! `onceward dead-letter list` and `show`, for both sides: what Kafka refused (outbox) and what a
//! consumer refused (inbox).

use std::collections::BTreeMap;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::message::as_time;
use crate::database::{self, Reading, on};
use crate::locate::Place;
use crate::outcome::{Outcome, not_found, refused};
use crate::render::{contents, exact_time, key, or_dash, payload, short, table, time};

/// Which side refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Side {
    /// Kafka refused it on the way out.
    Outbox,
    /// A consumer refused it.
    Inbox,
}

/// A dead letter of either side.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Letter {
    pub side: Side,
    /// The database it is in.
    pub source: String,
    /// The consumer; `None` on the outbox side.
    pub consumer: Option<String>,
    pub message_id: String,
    pub message_type: Option<String>,
    pub topic: String,
    pub partition: Option<i32>,
    pub offset: Option<i64>,
    pub seq: Option<i64>,
    pub message_key: Option<String>,
    /// Tries made; `None` on the outbox side, where a refusal is final.
    pub attempts: Option<i32>,
    pub reason: String,
    pub state: String,
    #[serde(serialize_with = "as_time")]
    pub since: i64,
    /// Messages of the same key that queue behind it.
    pub behind: i64,
    #[serde(skip)]
    pub headers: BTreeMap<String, String>,
    #[serde(skip)]
    pub payload: Vec<u8>,
}

impl Letter {
    /// Where it stands: `TOPIC/PARTITION@OFFSET`, or its row.
    pub fn place(&self) -> String {
        match (self.partition, self.offset, self.seq) {
            (Some(partition), Some(offset), _) => format!("{}/{partition}@{offset}", self.topic),
            (_, _, Some(seq)) => format!("{} seq {seq}", self.topic),
            _ => self.topic.clone(),
        }
    }

    /// Who refused it, in a table.
    fn who(&self) -> String {
        self.consumer.clone().unwrap_or_else(|| self.source.clone())
    }

    /// Whether it was neither replayed nor discarded.
    pub fn is_open(&self) -> bool {
        ["parked", "dead"].contains(&self.state.as_str())
    }

    fn is(&self, wanted: &str) -> bool {
        self.message_id == wanted || (self.side == Side::Inbox && self.place() == wanted)
    }
}

type OutboxRow = (
    Uuid,
    i64,
    String,
    String,
    Option<String>,
    String,
    String,
    i64,
    Vec<u8>,
    String,
    i64,
);

async fn of_outbox(reading: &mut Reading<'_>) -> Result<Vec<Letter>> {
    const SQL: &str = "select d.message_id, d.seq, d.message_type, d.topic, d.message_key, \
         d.reason, d.state, d.parked_at, d.payload, d.headers, \
         (select count(*) from outbox_dead_letter b where b.topic = d.topic \
            and b.message_key = d.message_key and b.seq > d.seq and b.state = 'parked') \
         from outbox_dead_letter d order by d.seq";
    let rows: Vec<OutboxRow> =
        on!(&mut reading.connection, c => sqlx::query_as(SQL).fetch_all(&mut *c).await)?;
    let source = reading.source.name.as_str();
    let made = rows.into_iter().map(|row| {
        let (
            id,
            seq,
            message_type,
            topic,
            message_key,
            reason,
            state,
            since,
            payload,
            headers,
            behind,
        ) = row;
        Letter {
            side: Side::Outbox,
            source: source.to_owned(),
            consumer: None,
            message_id: id.to_string(),
            message_type: Some(message_type),
            topic,
            partition: None,
            offset: None,
            seq: Some(seq),
            message_key,
            attempts: None,
            reason,
            state,
            since,
            behind,
            headers: serde_json::from_str(&headers).unwrap_or_default(),
            payload,
        }
    });
    Ok(made.collect())
}

type InboxRow = (
    String,
    String,
    i32,
    i64,
    String,
    Option<String>,
    Option<Vec<u8>>,
    i32,
    String,
    String,
    i64,
    Vec<u8>,
    String,
    i64,
);

async fn of_inbox(reading: &mut Reading<'_>) -> Result<Vec<Letter>> {
    const SQL: &str = "select d.consumer, d.topic, d.partition, d.record_offset, d.ce_id, \
         d.message_type, d.message_key, d.attempts, d.reason, d.state, d.died_at, d.payload, \
         d.headers, \
         (select count(*) from inbox_waiting w where w.consumer = d.consumer \
            and w.topic = d.topic and w.partition = d.partition \
            and w.message_key = d.message_key and w.record_offset > d.record_offset) \
         from inbox_dead_letter d order by d.died_at, d.topic, d.partition, d.record_offset";
    let rows: Vec<InboxRow> =
        on!(&mut reading.connection, c => sqlx::query_as(SQL).fetch_all(&mut *c).await)?;
    let source = reading.source.name.as_str();
    let made = rows.into_iter().map(|row| {
        let (
            consumer,
            topic,
            partition,
            offset,
            id,
            message_type,
            key_bytes,
            attempts,
            reason,
            state,
            since,
            payload,
            headers,
            behind,
        ) = row;
        Letter {
            side: Side::Inbox,
            source: source.to_owned(),
            consumer: Some(consumer),
            message_id: id,
            message_type,
            topic,
            partition: Some(partition),
            offset: Some(offset),
            seq: None,
            message_key: key(key_bytes),
            attempts: Some(attempts),
            reason,
            state,
            since,
            behind,
            headers: base64_headers(&headers),
            payload,
        }
    });
    Ok(made.collect())
}

/// `[[name, base64], …]`, as the consumer keeps what came from Kafka.
fn base64_headers(json: &str) -> BTreeMap<String, String> {
    let pairs: Vec<(String, String)> = serde_json::from_str(json).unwrap_or_default();
    pairs
        .into_iter()
        .map(|(name, value)| {
            let text = STANDARD.decode(&value);
            let text = text.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
            (name, text.unwrap_or(value))
        })
        .collect()
}

/// All dead letters of all databases.
pub(super) async fn all(place: &Place, source: Option<&str>) -> Result<(Vec<Letter>, Vec<String>)> {
    let (mut open, failed) = database::open_all(place, source).await?;
    let mut letters = vec![];
    for reading in &mut open {
        letters.extend(of_outbox(reading).await?);
        letters.extend(of_inbox(reading).await?);
    }
    Ok((letters, database::talk(&failed)))
}

/// The one dead letter meant by a message id or coordinates.
pub(super) async fn find(
    place: &Place,
    wanted: &str,
    consumer: Option<&str>,
) -> Result<(Letter, Vec<String>)> {
    let (letters, notes) = all(place, None).await?;
    let mut found: Vec<Letter> = letters
        .into_iter()
        .filter(|l| l.is(wanted) && (consumer.is_none() || l.consumer.as_deref() == consumer))
        .collect();
    if found.len() > 1 {
        let who: Vec<String> = found.iter().map(Letter::who).collect();
        let more = match found.iter().all(|letter| letter.place() == wanted) {
            true => "",
            false => ", or TOPIC/PARTITION@OFFSET",
        };
        return Err(refused(format!(
            "{} dead letters match {wanted}, of {}; say which: --consumer NAME{more}",
            found.len(),
            who.join(", ")
        )));
    }
    match found.pop() {
        Some(letter) => Ok((letter, notes)),
        None => Err(not_found(format!(
            "no dead letter {wanted}; `onceward dead-letter list --all` shows all"
        ))),
    }
}

/// `dead-letter list`.
pub(crate) async fn list(place: &Place, source: Option<&str>, also_done: bool) -> Result<Outcome> {
    let (mut letters, notes) = all(place, source).await?;
    letters.retain(|l| also_done || l.is_open());
    let lines = letters.iter().map(|l| {
        vec![
            time(l.since),
            if l.side == Side::Outbox {
                "outbox"
            } else {
                "inbox"
            }
            .to_owned(),
            l.who(),
            l.place(),
            or_dash(l.message_key.clone()),
            l.message_id.clone(),
            or_dash(l.attempts),
            l.behind.to_string(),
            l.state.clone(),
            short(&l.reason, 60),
        ]
    });
    let headings = [
        "SINCE", "SIDE", "WHO", "WHERE", "KEY", "MESSAGE", "TRIES", "BEHIND", "STATE", "REASON",
    ];
    let text = if letters.is_empty() {
        "no dead letters".to_owned()
    } else {
        table(&headings, lines.collect())
    };
    Ok(Outcome::new(text, &letters)?.with_notes(notes))
}

#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    letter: Letter,
    headers: BTreeMap<String, String>,
    payload: Value,
}

/// `dead-letter show`.
pub(crate) async fn show(place: &Place, wanted: &str, consumer: Option<&str>) -> Result<Outcome> {
    let (letter, notes) = find(place, wanted, consumer).await?;
    let body = payload(&letter.payload);
    let mut text = format!(
        "message  {}\ntype     {}\nrefused  by {} of {}\nwhere    {}\nkey      {}\nstate    {}, since {}\n\
         tries    {}\nbehind   {} of the same key\nreason   {}\n",
        letter.message_id,
        or_dash(letter.message_type.clone()),
        letter.consumer.as_deref().unwrap_or("Kafka, a row"),
        letter.source,
        letter.place(),
        or_dash(letter.message_key.clone()),
        letter.state,
        exact_time(letter.since),
        or_dash(letter.attempts),
        letter.behind,
        letter.reason,
    );
    text.push_str(&contents(&letter.headers, &body));
    let headers = letter.headers.clone();
    let shown = Shown {
        letter,
        headers,
        payload: body,
    };
    Ok(Outcome::new(text, &shown)?.with_notes(notes))
}

#[cfg(test)]
mod tests {
    use super::base64_headers;

    #[test]
    fn headers_are_shown_as_text_and_what_is_no_base64_as_it_is() {
        let headers = base64_headers(r#"[["a", "b25jZXdhcmQ="], ["b", "not base64!"]]"#);
        assert_eq!(headers["a"], "onceward");
        assert_eq!(headers["b"], "not base64!");
    }
}
