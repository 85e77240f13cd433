//! What a fetch reads.

use std::fmt;
use std::sync::Arc;

use crate::{Cursor, MessageId, Micros, PgCursor, PgPage, SqliteCursor, breach};

/// One row of `outbox` (or a parked copy of one).
///
/// The rows of a batch share one buffer for their texts and payloads: a backlog is read without an
/// allocation per row or column. So a row that is kept keeps its batch in memory.
#[derive(Clone)]
pub struct OutboxRow {
    /// Sequence number.
    pub seq: i64,
    /// Identity of the message.
    pub message_id: MessageId,
    /// Microseconds, UTC.
    pub occurred_at: Micros,
    buffer: Arc<Buffer>,
    place: Place,
}

/// What the rows of a batch are made of, one behind the other.
#[derive(Default)]
struct Buffer {
    texts: String,
    payloads: Vec<u8>,
}

/// Where a row's columns lie in its buffer.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// The texts follow each other from here, in the order of [`Texts`].
    texts: usize,
    lengths: [u32; TEXTS],
    has_key: bool,
    payload: usize,
    payload_length: u32,
}

const TEXTS: usize = 6;

impl OutboxRow {
    /// Kind of aggregate.
    pub fn aggregate_type(&self) -> &str {
        self.text(0)
    }
    /// Which aggregate.
    pub fn aggregate_id(&self) -> &str {
        self.text(1)
    }
    /// Versioned message type.
    pub fn message_type(&self) -> &str {
        self.text(2)
    }
    /// Topic.
    pub fn topic(&self) -> &str {
        self.text(3)
    }
    /// Ordering key.
    pub fn message_key(&self) -> Option<&str> {
        self.place.has_key.then(|| self.text(4))
    }
    /// JSON object, name → text.
    pub fn headers(&self) -> &str {
        self.text(5)
    }
    /// Value.
    pub fn payload(&self) -> &[u8] {
        let start = self.place.payload;
        let end = start + to_usize(self.place.payload_length);
        self.buffer.payloads.get(start..end).unwrap_or_default()
    }

    fn text(&self, index: usize) -> &str {
        let lengths = self.place.lengths;
        let before: usize = lengths.iter().take(index).map(|l| to_usize(*l)).sum();
        let start = self.place.texts + before;
        let end = start + lengths.get(index).map_or(0, |l| to_usize(*l));
        self.buffer.texts.get(start..end).unwrap_or_default()
    }
}

impl PartialEq for OutboxRow {
    fn eq(&self, other: &Self) -> bool {
        self.seq == other.seq
            && self.message_id == other.message_id
            && self.occurred_at == other.occurred_at
            && self.message_key() == other.message_key()
            && (0..TEXTS).all(|index| self.text(index) == other.text(index))
            && self.payload() == other.payload()
    }
}
impl Eq for OutboxRow {}

impl fmt::Debug for OutboxRow {
    // Without payload and headers: they may hold anything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxRow")
            .field("seq", &self.seq)
            .field("message_id", &self.message_id)
            .field("message_type", &self.message_type())
            .field("topic", &self.topic())
            .field("message_key", &self.message_key())
            .field("payload_bytes", &self.payload().len())
            .finish_non_exhaustive()
    }
}

fn to_usize(length: u32) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// The columns of a row as a database gave them, not yet checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawRow<'a> {
    pub(super) seq: i64,
    pub(super) message_id: MessageId,
    pub(super) aggregate_type: &'a [u8],
    pub(super) aggregate_id: &'a [u8],
    pub(super) message_type: &'a [u8],
    pub(super) topic: &'a [u8],
    pub(super) message_key: Option<&'a [u8]>,
    pub(super) payload: &'a [u8],
    pub(super) headers: &'a [u8],
    pub(super) occurred_at: Micros,
}

/// Collects the rows of a batch.
#[derive(Debug, Default)]
pub(super) struct RowCollector {
    texts: Vec<u8>,
    payloads: Vec<u8>,
    rows: Vec<(i64, MessageId, Micros, Place)>,
}

impl RowCollector {
    /// With room for this many rows.
    pub(super) fn with_capacity(rows: usize) -> Self {
        Self {
            rows: Vec::with_capacity(rows),
            ..Self::default()
        }
    }

    /// Adds a row behind the others. What is longer than 4 GiB no database of ours gives.
    pub(super) fn push(&mut self, row: &RawRow<'_>) {
        let texts = [
            row.aggregate_type,
            row.aggregate_id,
            row.message_type,
            row.topic,
            row.message_key.unwrap_or_default(),
            row.headers,
        ];
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let place = Place {
            texts: self.texts.len(),
            lengths: texts.map(length),
            has_key: row.message_key.is_some(),
            payload: self.payloads.len(),
            payload_length: length(row.payload),
        };
        for text in texts {
            self.texts.extend_from_slice(text);
        }
        self.payloads.extend_from_slice(row.payload);
        self.rows
            .push((row.seq, row.message_id, row.occurred_at, place));
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The rows, in the order of `seq`. Fails where a text is not UTF-8.
    pub(super) fn finish(self) -> Result<Vec<OutboxRow>, std::string::FromUtf8Error> {
        let buffer = Arc::new(Buffer {
            // All at once: what holds for each text holds for all of them together. Where it holds
            // only for all together, a text that ends in mid-character reads as empty.
            texts: String::from_utf8(self.texts)?,
            payloads: self.payloads,
        });
        let mut rows: Vec<OutboxRow> = self
            .rows
            .into_iter()
            .map(|(seq, message_id, occurred_at, place)| OutboxRow {
                seq,
                message_id,
                occurred_at,
                buffer: Arc::clone(&buffer),
                place,
            })
            .collect();
        let is_sorted = rows.is_sorted_by_key(|row| row.seq);
        if !is_sorted && !breach::is_broken(breach::ORDER_BY_SEQ) {
            rows.sort_unstable_by_key(|row| row.seq);
        }
        Ok(rows)
    }
}

/// How much a fetch may return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchLimits {
    /// Rows, at least 1.
    pub max_rows: u32,
    /// Payload bytes. One row is always returned, however large.
    pub max_bytes: u64,
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self {
            max_rows: 5_000,
            max_bytes: 16 << 20,
        }
    }
}

/// Rows in publishing order, and where to resume behind any of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The rows; empty when there is nothing to publish.
    pub rows: Vec<OutboxRow>,
    /// More rows are already there: fetch again at once.
    pub more: bool,
    pub(super) end: BatchEnd,
}

/// How a prefix of the batch becomes a cursor.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum BatchEnd {
    /// The `seq` of the row says it all. Holds the cursor the batch started at.
    Sqlite { from: i64 },
    /// A prefix is a page of `current`; the whole of a complete batch makes it `done`.
    /// `from_seq` is where the page before ended, 0 before the first.
    Postgres {
        done: String,
        current: String,
        from_seq: i64,
    },
    /// Nothing new.
    Unchanged(Cursor),
}

impl Batch {
    pub(super) fn empty(cursor: Cursor) -> Self {
        Self {
            rows: Vec::new(),
            more: false,
            end: BatchEnd::Unchanged(cursor),
        }
    }

    /// Where to resume once the first `count` rows are passed (published or parked); the whole
    /// batch if `count` is at or above its length.
    pub fn cursor_after(&self, count: usize) -> Cursor {
        let last = count.min(self.rows.len()).checked_sub(1);
        let last_seq = last.and_then(|at| self.rows.get(at)).map(|row| row.seq);
        match &self.end {
            BatchEnd::Unchanged(cursor) => cursor.clone(),
            BatchEnd::Sqlite { from } => Cursor::Sqlite(SqliteCursor {
                seq: last_seq.unwrap_or(*from),
            }),
            BatchEnd::Postgres {
                done,
                current,
                from_seq,
            } => {
                let all = count >= self.rows.len() && !self.more;
                Cursor::Postgres(if all {
                    PgCursor {
                        done: current.clone(),
                        page: None,
                    }
                } else {
                    PgCursor {
                        done: done.clone(),
                        page: Some(PgPage {
                            current: current.clone(),
                            last_seq: last_seq.unwrap_or(*from_seq),
                        }),
                    }
                })
            }
        }
    }

    /// Where to resume once all rows are passed.
    pub fn next(&self) -> Cursor {
        self.cursor_after(self.rows.len())
    }
}

/// What waits to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backlog {
    /// Unpublished rows, counted up to the cap that was asked for.
    pub rows: i64,
    /// The cap was reached: there are at least that many.
    pub capped: bool,
    /// `occurred_at` of the oldest among those counted, microseconds.
    pub oldest: Option<Micros>,
}

impl Backlog {
    pub(super) fn new(rows: i64, oldest: Option<Micros>, cap: u32) -> Self {
        Self {
            rows,
            capped: rows >= i64::from(cap),
            oldest,
        }
    }
}
