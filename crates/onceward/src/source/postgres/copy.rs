//! `COPY … TO STDOUT (FORMAT binary)`: rows as bytes, for backlogs. Compared with a prepared query it
//! saves the server the protocol of rows and us an object per row.

use bytes::{Buf, Bytes};
use futures::TryStreamExt;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::super::SourceError;
use super::super::mirror::corrupt;
use crate::MessageId;

use super::super::row::RawRow;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Columns of a row: those of a copy, see `copy_page.sql`.
const COLUMNS: i16 = 10;

/// A row as it came; `None` for null.
pub(super) struct CopiedRow<'a>([Option<&'a [u8]>; 10]);

impl<'a> CopiedRow<'a> {
    /// Whether this is the row that tells of the snapshot.
    pub(super) fn is_header(&self) -> bool {
        self.0[0].is_none()
    }
    pub(super) fn message_id(&self) -> Result<Option<MessageId>, SourceError> {
        let id = self.0[1].map(Uuid::from_slice).transpose();
        Ok(id.map_err(|e| corrupt("message_id", &e))?.map(MessageId))
    }
    pub(super) fn text(&self, column: usize) -> &'a [u8] {
        self.0.get(column).copied().flatten().unwrap_or_default()
    }
    fn number(&self, column: usize) -> Result<i64, SourceError> {
        let bytes = self.text(column).try_into();
        let bytes: [u8; 8] = bytes.map_err(|e| corrupt("outbox row", &e))?;
        Ok(i64::from_be_bytes(bytes))
    }
    pub(super) fn raw(&self) -> Result<RawRow<'a>, SourceError> {
        let id = self.message_id()?;
        Ok(RawRow {
            seq: self.number(0)?,
            message_id: id.ok_or_else(|| corrupt("outbox row", &"no message_id"))?,
            aggregate_type: self.text(2),
            aggregate_id: self.text(3),
            message_type: self.text(4),
            topic: self.text(5),
            message_key: self.0[6],
            payload: self.text(7),
            headers: self.text(8),
            occurred_at: self.number(9)?,
        })
    }
}

/// Runs a COPY and hands each row on. The server's answer is read to its end whatever `take` says of
/// a row: only then the connection can be used again.
pub(super) async fn copy(
    conn: &mut PgConnection,
    statement: &str,
    mut take: impl FnMut(&CopiedRow<'_>) -> Result<(), SourceError> + Send,
) -> Result<(), SourceError> {
    let failed = || SourceError::database("outbox fetch");
    let mut answer = conn.copy_out_raw(statement).await.map_err(failed())?;
    let mut form = Form::default();
    let mut outcome = Ok(());
    while let Some(chunk) = answer.try_next().await.map_err(failed())? {
        if outcome.is_ok() {
            outcome = form.read(chunk, &mut take);
        }
    }
    outcome?;
    if !form.ended {
        return Err(corrupt("fetch", &"the copy has no end"));
    }
    Ok(())
}

/// Takes the stream apart. Postgres sends a row a message, but does not promise to.
#[derive(Default)]
struct Form {
    begun: bool,
    ended: bool,
    /// Bytes of a row that is not there whole.
    left: Vec<u8>,
}

impl Form {
    fn read(
        &mut self,
        chunk: Bytes,
        take: &mut impl FnMut(&CopiedRow<'_>) -> Result<(), SourceError>,
    ) -> Result<(), SourceError> {
        let joined;
        let mut rest: &[u8] = if self.left.is_empty() {
            &chunk
        } else {
            self.left.extend_from_slice(&chunk);
            joined = std::mem::take(&mut self.left);
            &joined
        };
        if !self.begun {
            let Some(after) = after_header(rest)? else {
                self.left = rest.to_vec();
                return Ok(());
            };
            (rest, self.begun) = (after, true);
        }
        while !rest.is_empty() {
            match take_row(rest)? {
                Taken::Row(row, after) => {
                    take(&row)?;
                    rest = after;
                }
                Taken::End => {
                    self.ended = true;
                    return Ok(());
                }
                Taken::Partial => {
                    self.left = rest.to_vec();
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// What follows the stream's header; `None` if it is not there whole.
fn after_header(bytes: &[u8]) -> Result<Option<&[u8]>, SourceError> {
    // Signature, flags, length of an extension.
    let Some((head, rest)) = bytes.split_at_checked(SIGNATURE.len() + 8) else {
        return Ok(None);
    };
    if !head.starts_with(SIGNATURE) {
        return Err(corrupt("fetch", &"not a binary copy"));
    }
    let mut extension = head.get(SIGNATURE.len() + 4..).unwrap_or_default();
    let length = usize::try_from(extension.get_u32()).unwrap_or(usize::MAX);
    Ok(rest.get(length..))
}

enum Taken<'a> {
    Row(CopiedRow<'a>, &'a [u8]),
    End,
    Partial,
}

fn take_row(bytes: &[u8]) -> Result<Taken<'_>, SourceError> {
    let mut rest = bytes;
    let Ok(count) = rest.try_get_i16() else {
        return Ok(Taken::Partial);
    };
    if count == -1 {
        return Ok(Taken::End);
    }
    if count != COLUMNS {
        return Err(corrupt("fetch", &format!("a row of {count} columns")));
    }
    let mut columns = [None; 10];
    for column in &mut columns {
        let Ok(length) = rest.try_get_i32() else {
            return Ok(Taken::Partial);
        };
        // -1 is null.
        let Ok(length) = usize::try_from(length) else {
            continue;
        };
        let Some((value, after)) = rest.split_at_checked(length) else {
            return Ok(Taken::Partial);
        };
        (*column, rest) = (Some(value), after);
    }
    Ok(Taken::Row(CopiedRow(columns), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream of one header row and two rows, as Postgres writes it.
    fn stream() -> Vec<u8> {
        let mut out = SIGNATURE.to_vec();
        out.extend([0; 8]);
        for seq in [None, Some(1_i64), Some(2)] {
            out.extend(COLUMNS.to_be_bytes());
            for column in 0..10 {
                match (column, seq) {
                    (0, Some(seq)) => {
                        out.extend(8_i32.to_be_bytes());
                        out.extend(seq.to_be_bytes());
                    }
                    (1, _) => {
                        out.extend(16_i32.to_be_bytes());
                        out.extend([7; 16]);
                    }
                    (9, Some(_)) => {
                        out.extend(8_i32.to_be_bytes());
                        out.extend(5_i64.to_be_bytes());
                    }
                    (7, Some(seq)) => {
                        out.extend(i32::try_from(seq).unwrap().to_be_bytes());
                        out.extend(vec![b'x'; usize::try_from(seq).unwrap()]);
                    }
                    _ => out.extend((-1_i32).to_be_bytes()),
                }
            }
        }
        out.extend((-1_i16).to_be_bytes());
        out
    }

    #[test]
    fn rows_are_the_same_however_the_stream_is_cut() {
        let stream = stream();
        for piece in 1..=stream.len() {
            let (mut form, mut seen) = (Form::default(), Vec::new());
            for chunk in stream.chunks(piece) {
                form.read(Bytes::copy_from_slice(chunk), &mut |row| {
                    let payload = if row.is_header() {
                        None
                    } else {
                        let raw = row.raw()?;
                        Some((raw.seq, raw.payload.len(), raw.message_key.is_some()))
                    };
                    seen.push(payload);
                    Ok(())
                })
                .unwrap();
            }
            assert!(form.ended, "pieces of {piece}");
            assert_eq!(seen, [None, Some((1, 1, false)), Some((2, 2, false))]);
        }
    }

    #[test]
    fn another_form_is_refused() {
        let mut ignore = |_: &CopiedRow<'_>| Ok(());
        let text = Bytes::from_static(b"1\tkey\tvalue and some more text");
        assert!(Form::default().read(text, &mut ignore).is_err());
        let mut narrow = SIGNATURE.to_vec();
        narrow.extend([0; 8]);
        narrow.extend(3_i16.to_be_bytes());
        assert!(Form::default().read(narrow.into(), &mut ignore).is_err());
    }
}
