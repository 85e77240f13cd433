//! What a fetch reads.

use bytes::Bytes;

use crate::{Cursor, MessageId, Micros, PgCursor, PgPage, SqliteCursor};

/// One row of `outbox` (or a parked copy of one).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// Sequence number.
    pub seq: i64,
    /// Identity of the message.
    pub message_id: MessageId,
    /// Kind of aggregate.
    pub aggregate_type: String,
    /// Which aggregate.
    pub aggregate_id: String,
    /// Versioned message type.
    pub message_type: String,
    /// Topic.
    pub topic: String,
    /// Ordering key.
    pub message_key: Option<String>,
    /// Value.
    pub payload: Bytes,
    /// JSON object, name → text.
    pub headers: String,
    /// Microseconds, UTC.
    pub occurred_at: Micros,
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
