//! A story as a tree for people.

use std::collections::HashSet;

use onceward::Micros;
use uuid::Uuid;

use super::trace::{Node, Story};
use crate::render::{after, age, exact_time};

/// When a message was written, or first seen.
pub(super) fn began(node: &Node) -> Micros {
    let received = node.inbox.iter().map(|r| r.received_at).min();
    node.outbox
        .as_ref()
        .map(|row| row.occurred_at)
        .or(received)
        .unwrap_or(0)
}

/// The last thing known of a message.
fn ended(node: &Node) -> Micros {
    let handled = node
        .inbox
        .iter()
        .map(|r| r.handled_at.unwrap_or(r.received_at))
        .max();
    handled.unwrap_or(0).max(began(node))
}

/// The whole text.
pub(super) fn text(story: &Story) -> String {
    let start = story.messages.values().map(began).min().unwrap_or(0);
    let end = story.messages.values().map(ended).max().unwrap_or(0);
    let mut sources: Vec<&str> = story
        .messages
        .values()
        .filter_map(|n| n.outbox.as_ref().map(|row| row.source.as_str()))
        .collect();
    sources.sort_unstable();
    sources.dedup();
    let mut out = format!(
        "{}: {} messages of {} sources in {}, from {}\n",
        story.asked_for,
        story.messages.len(),
        sources.len(),
        age(end - start),
        exact_time(start)
    );
    let mut told = HashSet::new();
    for root in &story.roots {
        out.push('\n');
        branch(story, *root, "", "", start, &mut told, &mut out);
    }
    out
}

fn branch(
    story: &Story,
    id: Uuid,
    first: &str,
    rest: &str,
    start: Micros,
    told: &mut HashSet<Uuid>,
    out: &mut String,
) {
    // Causes are headers, and headers can be made to go round in a circle.
    let Some(node) = story.messages.get(&id).filter(|_| told.insert(id)) else {
        return;
    };
    let line = if node.caused.is_empty() {
        "   "
    } else {
        "│  "
    };
    let after = |at: Micros| after(at - start);
    out.push_str(&format!("{first}{}  {id}\n", node.message_type));
    let outbox = match &node.outbox {
        Some(row) => format!(
            "{} seq {}, {}, {}",
            row.source,
            row.seq,
            after(row.occurred_at),
            row.state
        ),
        None => "row purged".to_owned(),
    };
    out.push_str(&format!("{rest}{line}outbox  {outbox}\n"));
    let record = match (&node.record, &node.outbox) {
        (Some(record), _) => record.clone(),
        (None, Some(row)) if row.state != "published" => format!("{}, not yet", row.topic),
        (None, Some(row)) => format!("{}, place unknown", row.topic),
        (None, None) => "unknown".to_owned(),
    };
    out.push_str(&format!("{rest}{line}topic   {record}\n"));
    for row in &node.inbox {
        let at = after(row.handled_at.unwrap_or(row.received_at));
        out.push_str(&format!(
            "{rest}{line}inbox   {} {} {at}\n",
            row.consumer, row.state
        ));
    }
    for (number, child) in node.caused.iter().enumerate() {
        let last = number + 1 == node.caused.len();
        let (fork, gap) = if last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        let (first, rest) = (format!("{rest}{fork}"), format!("{rest}{gap}"));
        branch(story, *child, &first, &rest, start, told, out);
    }
}
