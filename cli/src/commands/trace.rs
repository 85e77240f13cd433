//! `onceward message trace`: collects a story from all outboxes, inboxes and topics.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::Result;
use serde::Serialize;
use uuid::Uuid;

use super::inbox::{self, Received};
use super::message::{self, Filter, Message};
use super::trace_tree;
use crate::database::{self, Reading};
use crate::kafka;
use crate::locate::Place;
use crate::outcome::{Outcome, not_found};

/// A story is cut here, and says so.
const MAX_MESSAGES: i64 = 1_000;

/// One message of a story with everything known about it.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Node {
    pub message_id: Uuid,
    pub message_type: String,
    /// The message that led here.
    pub causation_id: Option<Uuid>,
    /// Its outbox row; `None` once the janitor purged it.
    pub outbox: Option<Message>,
    /// `topic/partition@offset`, from Kafka or from an inbox.
    pub record: Option<String>,
    /// What became of it in each consumer.
    pub inbox: Vec<Received>,
    /// What it caused, by message id, in order of time.
    pub caused: Vec<Uuid>,
}

/// A whole story.
#[derive(Debug, Serialize)]
pub(super) struct Story {
    pub asked_for: String,
    pub correlation_ids: BTreeSet<String>,
    /// Messages without a known cause, in order of time.
    pub roots: Vec<Uuid>,
    pub messages: BTreeMap<Uuid, Node>,
    /// Whether Kafka was asked for records that no inbox knows.
    pub kafka_was_asked: bool,
    pub cut: bool,
}

/// `message trace`.
pub(crate) async fn trace(place: &Place, id: &str) -> Result<Outcome> {
    let (mut open, failed) = database::open_all(place, None).await?;
    let mut notes = database::talk(&failed);
    let (rows, correlation_ids) = outbox_rows(&mut open, id).await?;
    let mut messages: BTreeMap<Uuid, Node> = BTreeMap::new();
    let cut = rows.len() >= usize::try_from(MAX_MESSAGES).unwrap_or(usize::MAX);
    for row in rows {
        let header = |name: &str| row.headers.get(name).and_then(|id| id.parse().ok());
        let node = Node {
            message_id: row.message_id,
            message_type: row.message_type.clone(),
            causation_id: header(onceward::header::CAUSATION_ID),
            outbox: Some(row),
            ..Node::default()
        };
        messages.insert(node.message_id, node);
    }
    add_inbox(&mut open, place, id, &mut messages).await?;
    if messages.is_empty() {
        return Err(not_found(format!(
            "{id}: no outbox or inbox knows it as order, message or correlation id"
        )));
    }
    let asked = find_records(place, &mut messages).await;
    if let Err(why) = &asked {
        notes.push(format!(
            "note: Kafka is not reachable ({why}); places of records are known from inboxes alone"
        ));
    }
    let mut story = Story {
        asked_for: id.to_owned(),
        correlation_ids,
        roots: vec![],
        messages,
        kafka_was_asked: asked.is_ok(),
        cut,
    };
    link(&mut story);
    if cut {
        notes.push(format!("note: cut after {MAX_MESSAGES} messages"));
    }
    Ok(Outcome::new(trace_tree::text(&story), &story)?.with_notes(notes))
}

/// Rows that carry the id, then all rows of their stories.
async fn outbox_rows(
    open: &mut [Reading<'_>],
    id: &str,
) -> Result<(Vec<Message>, BTreeSet<String>)> {
    let mut rows: BTreeMap<Uuid, Message> = BTreeMap::new();
    let mut stories = BTreeSet::new();
    let mut todo = vec![id.to_owned()];
    while let Some(wanted) = todo.pop() {
        let filter = Filter {
            story: Some(&wanted),
            limit: MAX_MESSAGES,
            ..Filter::default()
        };
        for reading in open.iter_mut() {
            let name = &reading.source.name;
            for row in message::rows(&mut reading.connection, name, &filter).await? {
                let correlation = row.headers.get(onceward::header::CORRELATION_ID);
                if let Some(correlation) = correlation
                    && stories.insert(correlation.clone())
                    && *correlation != wanted
                {
                    todo.push(correlation.clone());
                }
                rows.insert(row.message_id, row);
            }
        }
    }
    Ok((rows.into_values().collect(), stories))
}

/// Inbox rows of the messages found, and messages that only an inbox still knows.
async fn add_inbox(
    open: &mut [Reading<'_>],
    place: &Place,
    id: &str,
    messages: &mut BTreeMap<Uuid, Node>,
) -> Result<()> {
    let mut ids: HashSet<String> = messages.keys().map(Uuid::to_string).collect();
    ids.extend(
        messages
            .values()
            .filter_map(|n| n.causation_id)
            .map(|id| id.to_string()),
    );
    ids.insert(id.to_owned());
    for reading in open {
        let mut rows = inbox::of_messages(reading, place, &ids).await?;
        let known: HashSet<String> = rows.iter().map(|r| r.ce_id.clone()).collect();
        let by_key = inbox::of_key(reading, id).await?;
        rows.extend(by_key.into_iter().filter(|r| !known.contains(&r.ce_id)));
        for row in rows {
            let Ok(message_id) = row.ce_id.parse() else {
                continue;
            };
            let node = messages.entry(message_id).or_insert_with(|| Node {
                message_id,
                message_type: row.message_type.clone().unwrap_or_default(),
                ..Node::default()
            });
            node.record.get_or_insert_with(|| row.place());
            node.inbox.push(row);
        }
    }
    Ok(())
}

/// Asks Kafka where the records stand that no inbox knows.
async fn find_records(place: &Place, messages: &mut BTreeMap<Uuid, Node>) -> Result<(), String> {
    let missing = messages.values().filter(|n| n.record.is_none());
    let wanted: Vec<kafka::Wanted> = missing
        .filter_map(|n| n.outbox.as_ref())
        .filter(|row| row.state == "published")
        .map(|row| kafka::Wanted {
            message_id: row.message_id,
            topic: row.topic.clone(),
            key: row.message_key.clone(),
            occurred_at: row.occurred_at,
        })
        .collect();
    for (message_id, record) in kafka::find(place, wanted).await? {
        if let Some(node) = messages.get_mut(&message_id) {
            node.record = Some(record);
        }
    }
    Ok(())
}

/// Makes the tree: what caused what, in order of time.
fn link(story: &mut Story) {
    let mut order: Vec<(i64, Uuid)> = story
        .messages
        .values()
        .map(|n| (trace_tree::began(n), n.message_id))
        .collect();
    order.sort_unstable();
    for (_, id) in order {
        let cause = story.messages.get(&id).and_then(|n| n.causation_id);
        match cause.and_then(|cause| story.messages.get_mut(&cause)) {
            // A message can't cause itself; a liar's record becomes a root.
            Some(parent) if parent.message_id != id => parent.caused.push(id),
            _ => story.roots.push(id),
        }
    }
}
