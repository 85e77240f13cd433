//! Record batches (format 2), written once, straight into the request that carries them. No memory is
//! taken per record.
//!
//! A record is `length, attributes, time, offset, body`. The bodies (key, value, headers) come encoded,
//! see [`Records`](onceward::publisher::Records), and are copied as they are.

use super::codec::{Put, put_varint, varint_len, zigzag};
use super::message::ProducerIdentity;
use super::settings::Compression;

/// A batch without its records.
const HEAD: usize = 61;
/// Offset and length come before what the length counts.
const UNCOUNTED: usize = 12;
/// What the checksum covers begins here.
const CHECKED_FROM: usize = 21;
/// Attribute: part of a transaction.
const TRANSACTIONAL: i16 = 0x10;
/// Smaller batches are not worth the work.
const COMPRESS_FROM: usize = 1024;

/// Which records go into a batch, and how many bytes they take uncompressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) count: usize,
    records_len: usize,
}

impl Extent {
    /// The longest prefix of `bodies` that fits into a batch of `limit` bytes; one at least.
    pub(super) fn of<'a>(bodies: impl Iterator<Item = &'a [u8]>, limit: usize) -> Self {
        let mut extent = Self {
            count: 0,
            records_len: 0,
        };
        for body in bodies {
            let counted = counted_len(extent.count, body);
            let length = varint_len(zigzag(signed(counted))) + counted;
            if extent.count > 0 && extent.len() + length > limit {
                break;
            }
            extent.count += 1;
            extent.records_len += length;
        }
        extent
    }

    /// The batch's length, uncompressed.
    pub(super) fn len(self) -> usize {
        HEAD + self.records_len
    }
}

/// What a batch says of all its records.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchHead {
    pub(super) producer: ProducerIdentity,
    /// Sequence number of the first record.
    pub(super) sequence: usize,
    pub(super) timestamp_ms: i64,
    pub(super) compression: Compression,
}

/// Encodes batches; keeps its memory from one to the next.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    plain: Vec<u8>,
    packed: Vec<u8>,
}

impl Encoder {
    /// Writes a batch with its length before it, as a Produce request has it. `bodies` begin with
    /// those that the extent was made of.
    pub(super) fn put_batch<'a>(
        &mut self,
        out: &mut Vec<u8>,
        bodies: impl Iterator<Item = &'a [u8]>,
        extent: Extent,
        head: BatchHead,
    ) {
        let compress = head.compression != Compression::None && extent.records_len >= COMPRESS_FROM;
        let bodies = bodies.take(extent.count);
        if compress {
            self.plain.clear();
            put_records(&mut self.plain, bodies, extent);
            self.pack(head.compression);
            // What can't be made smaller is sent as it is.
            if !self.packed.is_empty() && self.packed.len() < extent.records_len {
                let attributes = TRANSACTIONAL | head.compression.attribute();
                let packed = &self.packed;
                put_framed(out, extent.count, head, attributes, packed.len(), |out| {
                    out.extend_from_slice(packed);
                });
            } else {
                let plain = &self.plain;
                put_framed(out, extent.count, head, TRANSACTIONAL, plain.len(), |out| {
                    out.extend_from_slice(plain);
                });
            }
        } else {
            let length = extent.records_len;
            put_framed(out, extent.count, head, TRANSACTIONAL, length, |out| {
                put_records(out, bodies, extent);
            });
        }
    }

    /// Packs `plain` into `packed`; leaves that empty if it can't.
    fn pack(&mut self, compression: Compression) {
        self.packed.clear();
        match compression {
            Compression::None => {}
            Compression::Lz4 => {
                let mut frame = lz4_flex::frame::FrameEncoder::new(&mut self.packed);
                let written = std::io::Write::write_all(&mut frame, &self.plain);
                if written.is_err() || frame.finish().is_err() {
                    self.packed.clear();
                }
            }
            Compression::Zstd => {
                if zstd::stream::copy_encode(&self.plain[..], &mut self.packed, 1).is_err() {
                    self.packed.clear();
                }
            }
        }
    }

    /// Gives memory back that a large transaction took.
    pub(super) fn shrink(&mut self, to: usize) {
        self.plain.clear();
        self.packed.clear();
        self.plain.shrink_to(to);
        self.packed.shrink_to(to);
    }
}

impl Compression {
    fn attribute(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }
}

/// Length, head, records as `put` writes them, and the checksum over all that.
fn put_framed(
    out: &mut Vec<u8>,
    count: usize,
    head: BatchHead,
    attributes: i16,
    records_len: usize,
    put: impl FnOnce(&mut Vec<u8>),
) {
    out.put_count(HEAD + records_len);
    let start = out.len();
    out.put_i64(0); // offset, given by the broker
    out.put_i32(int32(HEAD - UNCOUNTED + records_len));
    out.put_i32(-1); // leader epoch, not checked
    out.push(2); // format
    out.put_i32(0); // checksum, below
    out.put_i16(attributes);
    out.put_i32(int32(count) - 1); // last offset
    out.put_i64(head.timestamp_ms); // first
    out.put_i64(head.timestamp_ms); // latest
    out.put_i64(head.producer.id);
    out.put_i16(head.producer.epoch);
    out.put_i32(int32(head.sequence));
    out.put_i32(int32(count));
    put(out);
    let checksum = crc32c::crc32c(out.get(start + CHECKED_FROM..).unwrap_or_default());
    if let Some(place) = out.get_mut(start + CHECKED_FROM - 4..start + CHECKED_FROM) {
        place.copy_from_slice(&checksum.to_be_bytes());
    }
}

fn put_records<'a>(out: &mut Vec<u8>, bodies: impl Iterator<Item = &'a [u8]>, extent: Extent) {
    out.reserve(extent.records_len);
    for (index, body) in bodies.enumerate() {
        put_varint(out, zigzag(signed(counted_len(index, body))));
        out.extend_from_slice(&[0, 0]); // attributes; time, the same for all
        put_varint(out, zigzag(signed(index)));
        out.extend_from_slice(body);
    }
}

/// What a record's length counts.
fn counted_len(index: usize, body: &[u8]) -> usize {
    2 + varint_len(zigzag(signed(index))) + body.len()
}

fn signed(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Nothing counted here comes near the limit: a request is of some megabytes.
fn int32(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{BatchHead, Encoder, Extent};
    use crate::v2::codec::Reader;
    use crate::v2::message::ProducerIdentity;
    use crate::v2::settings::Compression;

    #[test]
    fn a_batch_is_as_long_as_was_reckoned_and_within_its_limit() {
        let bodies: Vec<Vec<u8>> = (0..500_usize).map(|n| vec![7; n * 3]).collect();
        let all = || bodies.iter().map(Vec::as_slice);
        for limit in [0, 70, 1_000, 50_000, usize::MAX] {
            let extent = Extent::of(all(), limit);
            assert!(extent.count == 1 || extent.len() <= limit, "{limit}");
            assert_eq!(extent.count == bodies.len(), limit == usize::MAX);
            for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
                let head = BatchHead {
                    producer: ProducerIdentity { id: 1, epoch: 2 },
                    sequence: 3,
                    timestamp_ms: 4,
                    compression,
                };
                let mut out = Vec::new();
                Encoder::default().put_batch(&mut out, all(), extent, head);
                let batch = Reader::new(&out).bytes().unwrap().unwrap();
                match compression {
                    Compression::None => assert_eq!(batch.len(), extent.len()),
                    _ => assert!(batch.len() <= extent.len()),
                }
                let counted = i32::from_be_bytes(batch[8..12].try_into().unwrap());
                assert_eq!(usize::try_from(counted).unwrap(), batch.len() - 12);
                let checksum = u32::from_be_bytes(batch[17..21].try_into().unwrap());
                assert_eq!(checksum, crc32c::crc32c(&batch[21..]));
            }
        }
    }
}
