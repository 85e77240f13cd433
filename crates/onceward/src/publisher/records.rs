//! The records of one Kafka transaction, in one arena.
//!
//! A batch of 20,000 rows would be a quarter of a million small allocations if each key, value and
//! header were an object of its own. So they are written once, in the form in which Kafka's record
//! batches (format 2) hold them, one behind the other:
//!
//! ```text
//! body = key length, key, value length, value, header count, { name length, name, value length, value }*
//! ```
//!
//! with every number a zigzag varint, and -1 as the length of a missing key. What stands before it in
//! a record (length, attributes, timestamp and offset deltas) depends on how a publisher splits
//! batches, and is the publisher's. One that speaks the protocol itself copies [`Record::body`];
//! one over a client library takes it apart again by [`Record::key`], [`Record::payload`] and
//! [`Record::headers`].
//!
//! A topic and partition is a [`Destination`], known by its number in the batch, so that sorting
//! records by partition is an index into a `Vec`. Destinations say how many records and bytes they
//! get: buffers can be made in the right size at once.

use std::sync::Arc;

/// Where records go, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// Topic.
    pub topic: Arc<str>,
    /// Partition, from 0. Computed by us (see [`crate::partition_for`]): letting the client library
    /// choose would move keys when the library changes.
    pub partition: i32,
    /// Records of the batch that go there.
    pub record_count: usize,
    /// Length of their bodies together.
    pub body_bytes: usize,
}

/// Records of one transaction, in the order in which they are published. See the module's text.
#[derive(Debug, Clone, Default)]
pub struct Records {
    timestamp_ms: i64,
    arena: Vec<u8>,
    places: Vec<Place>,
    destinations: Vec<Destination>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    /// Where the body ends; it begins where the one before ends.
    end: usize,
    destination: u32,
}

impl Records {
    /// None yet. `timestamp_ms`, milliseconds since the Unix epoch, is the record timestamp of all:
    /// when they are published. Kafka's retention counts from it, so it must not be the time of the
    /// event, which may be days ago.
    pub fn new(timestamp_ms: i64) -> Self {
        Self {
            timestamp_ms,
            ..Self::default()
        }
    }

    /// Empties the batch and keeps its memory for the next.
    pub fn clear(&mut self, timestamp_ms: i64) {
        self.timestamp_ms = timestamp_ms;
        self.arena.clear();
        self.places.clear();
        self.destinations.clear();
    }

    /// Makes room ahead.
    pub fn reserve(&mut self, records: usize, bytes: usize) {
        self.places.reserve(records);
        self.arena.reserve(bytes);
    }

    /// Adds a topic and partition, and gives its number for [`Self::push`]. The caller adds each one
    /// once.
    pub fn add_destination(&mut self, topic: Arc<str>, partition: i32) -> usize {
        self.destinations.push(Destination {
            topic,
            partition,
            record_count: 0,
            body_bytes: 0,
        });
        self.destinations.len() - 1
    }

    /// Adds a record; `headers` writes its headers. A `destination` that was not added is taken for
    /// the last one added; without any, nothing is done.
    pub fn push(
        &mut self,
        destination: usize,
        key: Option<&[u8]>,
        payload: &[u8],
        headers: impl FnOnce(&mut HeaderWriter<'_>),
    ) {
        let Some(last) = self.destinations.len().checked_sub(1) else {
            return;
        };
        let index = destination.min(last);
        let start = self.arena.len();
        let arena = &mut self.arena;
        match key {
            Some(key) => put_bytes(arena, key),
            None => put_varint(arena, -1),
        }
        put_bytes(arena, payload);
        let mut writer = HeaderWriter::new(arena);
        headers(&mut writer);
        writer.finish();
        let end = arena.len();
        if let Some(destination) = self.destinations.get_mut(index) {
            destination.record_count += 1;
            destination.body_bytes += end - start;
        }
        self.places.push(Place {
            end,
            destination: u32::try_from(index).unwrap_or(u32::MAX),
        });
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.places.len()
    }
    /// None.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
    /// Record timestamp of all, milliseconds since the Unix epoch.
    pub fn timestamp_ms(&self) -> i64 {
        self.timestamp_ms
    }
    /// All topics and partitions, by their numbers.
    pub fn destinations(&self) -> &[Destination] {
        &self.destinations
    }

    /// One record.
    pub fn get(&self, index: usize) -> Option<Record<'_>> {
        let place = self.places.get(index)?;
        let start = match index.checked_sub(1) {
            Some(before) => self.places.get(before)?.end,
            None => 0,
        };
        let destination_index = usize::try_from(place.destination).ok()?;
        Some(Record {
            destination_index,
            destination: self.destinations.get(destination_index)?,
            body: self.arena.get(start..place.end)?,
        })
    }

    /// All records in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Record<'_>> {
        let mut start = 0;
        self.places.iter().map(move |place| {
            let body = self.arena.get(start..place.end).unwrap_or_default();
            start = place.end;
            let destination_index = usize::try_from(place.destination).unwrap_or_default();
            Record {
                destination_index,
                // Its number was checked when it was pushed.
                destination: &self.destinations[destination_index],
                body,
            }
        })
    }
}

/// One record of [`Records`].
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Number of the destination.
    pub destination_index: usize,
    /// Topic and partition.
    pub destination: &'a Destination,
    /// Key, value and headers as Kafka's record batches hold them.
    pub body: &'a [u8],
}

impl<'a> Record<'a> {
    /// The key.
    pub fn key(&self) -> Option<&'a [u8]> {
        take_bytes(&mut { self.body })
    }
    /// The value.
    pub fn payload(&self) -> &'a [u8] {
        let mut rest = self.body;
        take_bytes(&mut rest);
        take_bytes(&mut rest).unwrap_or_default()
    }
    /// Names and values, in order.
    pub fn headers(&self) -> Headers<'a> {
        let mut rest = self.body;
        take_bytes(&mut rest);
        take_bytes(&mut rest);
        let left = take_varint(&mut rest).and_then(|count| usize::try_from(count).ok());
        Headers {
            left: left.unwrap_or(0),
            rest,
        }
    }
}

/// The headers of a record.
#[derive(Debug, Clone)]
pub struct Headers<'a> {
    left: usize,
    rest: &'a [u8],
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, &'a [u8]);
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let name = take_bytes(&mut self.rest)?;
        let value = take_bytes(&mut self.rest).unwrap_or_default();
        Some((std::str::from_utf8(name).unwrap_or_default(), value))
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}
impl ExactSizeIterator for Headers<'_> {}

/// Writes the headers of one record.
#[derive(Debug)]
pub struct HeaderWriter<'a> {
    arena: &'a mut Vec<u8>,
    /// Where the count goes.
    at: usize,
    count: usize,
}

/// A place in the headers of a record, to go back to.
#[derive(Debug, Clone, Copy)]
pub struct HeaderMark {
    length: usize,
    count: usize,
}

impl<'a> HeaderWriter<'a> {
    fn new(arena: &'a mut Vec<u8>) -> Self {
        let at = arena.len();
        // Up to 63 headers are counted in one byte.
        arena.push(0);
        Self {
            arena,
            at,
            count: 0,
        }
    }

    /// Adds one.
    pub fn add(&mut self, name: &str, value: &[u8]) {
        put_bytes(self.arena, name.as_bytes());
        put_bytes(self.arena, value);
        self.count += 1;
    }

    /// Adds many that were encoded before, see [`EncodedHeaders`].
    pub fn add_encoded(&mut self, headers: &EncodedHeaders) {
        self.arena.extend_from_slice(&headers.bytes);
        self.count += headers.count;
    }

    /// What is written so far.
    pub fn mark(&self) -> HeaderMark {
        HeaderMark {
            length: self.arena.len(),
            count: self.count,
        }
    }

    /// Takes back everything since `mark`.
    pub fn back_to(&mut self, mark: HeaderMark) {
        self.arena.truncate(mark.length);
        self.count = mark.count;
    }

    fn finish(self) {
        if let (Some(at), Ok(count @ ..=63)) =
            (self.arena.get_mut(self.at), u8::try_from(self.count))
        {
            *at = count << 1;
            return;
        }
        let mut count = Vec::new();
        put_varint(&mut count, i64::try_from(self.count).unwrap_or(i64::MAX));
        self.arena.splice(self.at..=self.at, count);
    }
}

/// Headers that many records share, encoded once.
#[derive(Debug, Clone, Default)]
pub struct EncodedHeaders {
    bytes: Vec<u8>,
    count: usize,
}

impl EncodedHeaders {
    /// Encodes them.
    pub fn of<'a>(headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut encoded = Self::default();
        for (name, value) in headers {
            put_bytes(&mut encoded.bytes, name.as_bytes());
            put_bytes(&mut encoded.bytes, value);
            encoded.count += 1;
        }
        encoded
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, i64::try_from(bytes.len()).unwrap_or(i64::MAX));
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, number: i64) {
    let mut rest = (number << 1 ^ number >> 63).cast_unsigned();
    loop {
        let low = (rest & 0x7f) as u8;
        rest >>= 7;
        if rest == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

fn take_varint(from: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first()?;
        *from = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    None
}

/// `None` for a missing value, and where nothing is left.
fn take_bytes<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_varint(from)?).ok()?;
    let (bytes, rest) = from.split_at_checked(length)?;
    *from = rest;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        let shared = EncodedHeaders::of([("a", &b"1"[..]), ("b", b"")]);
        let mut records = Records::new(7);
        let first = records.add_destination("t".into(), 2);
        let second = records.add_destination("t".into(), 0);
        let long = vec![9_u8; 70_000];
        records.push(first, Some(b"key"), b"value", |headers| {
            headers.add_encoded(&shared);
            let mark = headers.mark();
            headers.add("c", b"taken back");
            headers.back_to(mark);
            headers.add("d", b"4");
        });
        records.push(second, None, &long, |headers| {
            for number in 0..100 {
                headers.add("many", &[number]);
            }
        });
        records.push(first, Some(b""), b"", |_| {});

        let read: Vec<Record<'_>> = records.iter().collect();
        assert_eq!(read[0].key(), Some(&b"key"[..]));
        assert_eq!(read[0].payload(), b"value");
        let headers: Vec<_> = read[0].headers().collect();
        assert_eq!(headers, [("a", &b"1"[..]), ("b", b""), ("d", b"4")]);
        assert_eq!((read[1].key(), read[1].payload()), (None, &long[..]));
        assert_eq!(read[1].destination.partition, 0);
        let many: Vec<u8> = read[1].headers().map(|(_, value)| value[0]).collect();
        assert_eq!(many, (0..100).collect::<Vec<u8>>());
        assert_eq!(
            (read[2].key(), read[2].payload()),
            (Some(&b""[..]), &b""[..])
        );
        assert_eq!(read[2].headers().count(), 0);
        assert_eq!(records.get(1).unwrap().body, read[1].body);
        let counts: Vec<_> = records
            .destinations()
            .iter()
            .map(|to| (to.record_count, to.body_bytes))
            .collect();
        let bytes = read[0].body.len() + read[2].body.len();
        assert_eq!(counts, [(2, bytes), (1, read[1].body.len())]);
    }

    /// From the description of Kafka's record format: lengths are zigzag varints.
    #[test]
    fn the_body_is_what_kafka_stores() {
        let mut records = Records::new(0);
        let to = records.add_destination("t".into(), 0);
        records.push(to, None, b"v", |headers| headers.add("h", &[b'x'; 64]));
        let mut expected = vec![1, 2, b'v', 2, 2, b'h', 0x80, 1];
        expected.extend([b'x'; 64]);
        assert_eq!(records.get(0).unwrap().body, expected);
    }
}
