//! The inbox: which messages were handled. Its insert is the claim of a message.

use sqlx::Row;

use super::TopicPartition;
use super::entry::{Entry, Identity};
use crate::bulk::{Bulk, pieces};
use crate::{Backend, ConsumerName, Error, Micros, QueryResult, Result, Tx, breach};

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
///
/// The insert is the claim. It is not asked for the rows it took, which would cost more than the insert;
/// nearly always it takes all. Several that are not all new say [`ClaimError::SomeKnown`]: then the batch
/// is run again with `look_first`, which finds out which before it inserts the rest.
pub(super) async fn claim<B: Backend>(
    tx: &mut Tx<'_, B>,
    consumer: &ConsumerName,
    entries: &[(&Entry, InboxState)],
    look_first: bool,
    now: Micros,
) -> Result<Vec<Claim>, ClaimError> {
    let mut claims = match look_first && !breach::is_broken(breach::INBOX) {
        true => known(tx, consumer, entries).await?,
        false => vec![Claim::First; entries.len()],
    };
    let new: Vec<_> = (0..entries.len())
        .filter(|place| claims[*place] == Claim::First)
        .collect();
    for chunk in pieces(&new) {
        let mut query = sqlx::query::<B>(INSERT.text::<B>(chunk.len()));
        for (entry, state) in chunk.iter().map(|place| entries[*place]) {
            query = query
                .bind(entry.identity.ce_source.as_str())
                .bind(entry.identity.ce_id.as_str())
                .bind(&*entry.at.topic)
                .bind(entry.at.partition)
                .bind(entry.offset)
                .bind(entry.stored_type())
                .bind(entry.key())
                .bind(state.as_str())
                .bind((state == InboxState::Handled).then_some(now));
        }
        let query = query.bind(consumer.as_str()).bind(now);
        let inserted = query.execute(&mut **tx).await?.rows_affected();
        match *chunk {
            _ if breach::is_broken(breach::INBOX) => {}
            _ if inserted == u64::try_from(chunk.len()).unwrap_or(u64::MAX) => {}
            [alone] => claims[alone] = known(tx, consumer, &entries[alone..=alone]).await?[0],
            _ => return Err(ClaimError::SomeKnown),
        }
    }
    Ok(claims)
}

/// Which of these were seen before: [`Claim::First`] if not.
async fn known<B: Backend>(
    tx: &mut Tx<'_, B>,
    consumer: &ConsumerName,
    entries: &[(&Entry, InboxState)],
) -> Result<Vec<Claim>, sqlx::Error> {
    let mut claims = Vec::with_capacity(entries.len());
    for chunk in pieces(entries) {
        let mut query = sqlx::query_scalar::<B, Option<String>>(LOOKUP.text::<B>(chunk.len()));
        for (entry, _) in chunk {
            query = query
                .bind(entry.identity.ce_source.as_str())
                .bind(entry.identity.ce_id.as_str());
        }
        let first = claims.len();
        claims.resize(first + chunk.len(), Claim::First);
        let found: Option<String> = query.bind(consumer.as_str()).fetch_one(&mut **tx).await?;
        for seen in found.iter().flat_map(|found| found.lines()) {
            let (place, seen) = seen.split_once(' ').unwrap_or_default();
            let place: usize = place.parse().unwrap_or(usize::MAX);
            if let Some((entry, _)) = chunk.get(place) {
                let at = &entry.at;
                let here = format!("{}/{}/{}", at.topic, at.partition, entry.offset);
                claims[first + place] = match seen == here {
                    true => Claim::Duplicate,
                    false => Claim::ReusedId,
                };
            }
        }
    }
    Ok(claims)
}

/// Why messages could not be claimed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClaimError {
    /// Some were known, and nobody knows which; or, after looking, an older owner of the partition that has
    /// not noticed yet has committed one of them meanwhile.
    #[error("some of the messages are known")]
    SomeKnown,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Nine of each row; then consumer and now, which all rows share.
static INSERT: Bulk = Bulk::custom(|rows, parameters| {
    let (consumer, now) = (
        parameters.shared(9 * rows + 1),
        parameters.shared(9 * rows + 2),
    );
    let row = |place: usize| {
        let first = 9 * place + 1;
        let own: Vec<String> = (first..first + 8).map(|n| parameters.of(n)).collect();
        let (own, handled) = (own.join(", "), parameters.of(first + 8));
        format!("({consumer}, {own}, {now}, {handled})")
    };
    let all: Vec<String> = (0..rows).map(row).collect();
    format!(
        "insert into inbox (consumer, ce_source, ce_id, topic, partition, record_offset, \
         message_type, message_key, state, received_at, handled_at) values {} \
         on conflict (consumer, ce_source, ce_id) do nothing",
        all.join(", ")
    )
});

/// Which of these messages were seen before: `place topic/partition/offset`, a line each, in one row, because
/// a driver takes longer for a row than SQLite to find one. Source and id of each; then consumer.
/// Served by the primary key, if Postgres does not plan it while the table is empty, which is why it is not
/// asked before there was a duplicate: as `(ce_source, ce_id) in (…)` SQLite would walk through the whole inbox of
/// the consumer, and so would Postgres in a join that was planned while the table was empty.
static LOOKUP: Bulk = Bulk::custom(|rows, parameters| {
    let row = |place: usize| {
        let (source, id) = (parameters.of(2 * place + 1), parameters.of(2 * place + 2));
        format!("({place}, {source}, {id})")
    };
    let all: Vec<String> = (0..rows).map(row).collect();
    format!(
        "with known (place, source, id) as (values {}) \
         select string_agg(place || ' ' || seen, '\n') from (select place, \
         (select i.topic || '/' || i.partition || '/' || i.record_offset from inbox i \
         where i.consumer = {} and i.ce_source = source and i.ce_id = id) as seen from known) found where seen is not null",
        all.join(", "),
        parameters.shared(2 * rows + 1)
    )
});

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
///
/// # Errors
/// [`Error::Database`].
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
