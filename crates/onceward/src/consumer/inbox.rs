//! The inbox: which messages were handled. Its insert is the claim of a message.

use std::collections::HashMap;

use sqlx::Row;

use super::TopicPartition;
use super::entry::{Entry, Identity};
use crate::{Backend, ConsumerName, Error, Micros, QueryResult, Result, Tx};

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboxState {
    /// Its effect is committed.
    Handled,
    /// To be tried again, or queued behind one that is.
    Waiting,
    /// Refused, or its attempts are used up.
    Dead,
    /// A dead letter given up by an operator.
    Discarded,
}

impl InboxState {
    /// As stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Waiting => "waiting",
            Self::Dead => "dead",
            Self::Discarded => "discarded",
        }
    }
}

/// What became of an attempt to claim a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// Never seen: handle it.
    First,
    /// Seen at these coordinates before: skip it.
    Duplicate,
    /// The id was seen at other coordinates: skip it, and say so.
    ReusedId,
}

/// Claims messages; the answers are in their order. `entries` have distinct identities.
pub(super) async fn claim<B: Backend>(
    tx: &mut Tx<'_, B>,
    consumer: &ConsumerName,
    entries: &[(&Entry, InboxState)],
    now: Micros,
) -> Result<Vec<Claim>, sqlx::Error> {
    let mut fresh: HashMap<(String, String), ()> = HashMap::with_capacity(entries.len());
    let mut rest = entries;
    while !rest.is_empty() {
        // Four statement texts at most, so that the statement cache holds them all.
        let size = [64, 16, 4, 1]
            .into_iter()
            .find(|n| *n <= rest.len())
            .unwrap_or(1);
        let (chunk, others) = rest.split_at(size);
        rest = others;
        let mut query = sqlx::query::<B>(insert_text(size));
        for (entry, state) in chunk {
            query = query
                .bind(consumer.as_str())
                .bind(entry.identity.ce_source.as_str())
                .bind(entry.identity.ce_id.as_str())
                .bind(&*entry.at.topic)
                .bind(entry.at.partition)
                .bind(entry.offset)
                .bind(entry.stored_type())
                .bind(entry.key())
                .bind(state.as_str())
                .bind(now)
                .bind((*state == InboxState::Handled).then_some(now));
        }
        for row in query.fetch_all(&mut **tx).await? {
            let id: (String, String) = (row.try_get(0)?, row.try_get(1)?);
            fresh.insert(id, ());
        }
    }
    let mut claims = Vec::with_capacity(entries.len());
    for (entry, _) in entries {
        let Identity { ce_source, ce_id } = entry.identity.clone();
        claims.push(if fresh.contains_key(&(ce_source, ce_id)) {
            Claim::First
        } else {
            duplicate(tx, consumer, entry).await?
        });
    }
    Ok(claims)
}

/// The insert of `rows` rows: 1, 4, 16 or 64.
fn insert_text(rows: usize) -> &'static str {
    use std::sync::LazyLock;
    static TEXTS: LazyLock<[String; 4]> = LazyLock::new(|| [1, 4, 16, 64].map(text));
    fn text(rows: usize) -> String {
        let values: Vec<String> = (0..rows)
            .map(|row| {
                let holders: Vec<String> = (1..=11).map(|n| format!("${}", row * 11 + n)).collect();
                format!("({})", holders.join(", "))
            })
            .collect();
        format!(
            "insert into inbox (consumer, ce_source, ce_id, topic, partition, record_offset, \
             message_type, message_key, state, received_at, handled_at) values {} \
             on conflict (consumer, ce_source, ce_id) do nothing returning ce_source, ce_id",
            values.join(", ")
        )
    }
    let index = match rows {
        64 => 3,
        16 => 2,
        4 => 1,
        _ => 0,
    };
    &TEXTS[index]
}

async fn duplicate<B: Backend>(
    tx: &mut Tx<'_, B>,
    consumer: &ConsumerName,
    entry: &Entry,
) -> Result<Claim, sqlx::Error> {
    let seen: Option<(String, i32, i64)> = sqlx::query_as(
        "select topic, partition, record_offset from inbox \
         where consumer = $1 and ce_source = $2 and ce_id = $3",
    )
    .bind(consumer.as_str())
    .bind(entry.identity.ce_source.as_str())
    .bind(entry.identity.ce_id.as_str())
    .fetch_optional(&mut **tx)
    .await?;
    let same = seen.is_none_or(|(topic, partition, offset)| {
        topic == *entry.at.topic && partition == entry.at.partition && offset == entry.offset
    });
    Ok(if same {
        Claim::Duplicate
    } else {
        Claim::ReusedId
    })
}

/// Moves a message from one state to the next; `false` if it was not in `from`: somebody was
/// faster.
pub(super) async fn move_state<B: Backend>(
    tx: &mut Tx<'_, B>,
    consumer: &ConsumerName,
    identity: &Identity,
    from: InboxState,
    to: InboxState,
    now: Micros,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "update inbox set state = $5, handled_at = $6 \
         where consumer = $1 and ce_source = $2 and ce_id = $3 and state = $4",
    )
    .bind(consumer.as_str())
    .bind(identity.ce_source.as_str())
    .bind(identity.ce_id.as_str())
    .bind(from.as_str())
    .bind(to.as_str())
    .bind((to == InboxState::Handled).then_some(now))
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A row of the inbox, as tools show it.
#[derive(Debug, Clone, PartialEq)]
pub struct InboxRow {
    /// Consumer name.
    pub consumer: String,
    /// `ce_source`; empty for a record without an id.
    pub ce_source: String,
    /// `ce_id`, or topic id/partition/offset.
    pub ce_id: String,
    /// Where the record stands.
    pub at: TopicPartition,
    /// Its offset.
    pub offset: i64,
    /// Versioned type.
    pub message_type: Option<String>,
    /// Its key.
    pub message_key: Option<Vec<u8>>,
    /// `handled`, `waiting`, `dead`, `discarded`.
    pub state: String,
    /// When it was first received.
    pub received_at: Micros,
    /// When its effect was committed.
    pub handled_at: Option<Micros>,
}

/// Which inbox rows to list; all given conditions must hold.
#[derive(Debug, Clone, Default)]
pub struct InboxFilter {
    /// Of this consumer.
    pub consumer: Option<String>,
    /// In this state.
    pub state: Option<InboxState>,
    /// With this `ce_id`.
    pub ce_id: Option<String>,
}

/// Lists inbox rows, the newest first, at most `limit`.
pub async fn list<B: Backend>(
    pool: &sqlx::Pool<B>,
    filter: &InboxFilter,
    limit: i64,
) -> Result<Vec<InboxRow>> {
    let rows = sqlx::query(
        "select consumer, ce_source, ce_id, topic, partition, record_offset, message_type, \
         message_key, state, received_at, handled_at from inbox \
         where (cast($1 as text) is null or consumer = $1) \
         and (cast($2 as text) is null or state = $2) \
         and (cast($3 as text) is null or ce_id = $3) \
         order by received_at desc, record_offset desc limit $4",
    )
    .bind(filter.consumer.as_deref())
    .bind(filter.state.map(InboxState::as_str))
    .bind(filter.ce_id.as_deref())
    .bind(limit)
    .fetch_all(pool)
    .await
    .map_err(Error::database("inbox list"))?;
    rows.iter()
        .map(|row| {
            let topic: String = row.try_get("topic")?;
            Ok(InboxRow {
                consumer: row.try_get("consumer")?,
                ce_source: row.try_get("ce_source")?,
                ce_id: row.try_get("ce_id")?,
                at: TopicPartition {
                    topic: topic.into(),
                    partition: row.try_get("partition")?,
                },
                offset: row.try_get("record_offset")?,
                message_type: row.try_get("message_type")?,
                message_key: row.try_get("message_key")?,
                state: row.try_get("state")?,
                received_at: row.try_get("received_at")?,
                handled_at: row.try_get("handled_at")?,
            })
        })
        .collect::<Result<_, sqlx::Error>>()
        .map_err(Error::database("inbox list"))
}
