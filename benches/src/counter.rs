//! Counts what a `read_committed` consumer is given, by the heads of its batches alone.
//!
//! A client that makes an object of every record takes several times the relay's CPU, on the same two
//! cores: a backlog would be measured by the speed of its reader. What is in the records is looked at
//! afterwards, one by one ([`crate::checks`]). Source: Kafka's protocol guide, Fetch v4 (which every
//! broker since 0.11 answers) and "Record Batch".

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut};

use crate::stage::PARTITIONS;

const FETCH: i16 = 1;
const VERSION: i16 = 4;
const READ_COMMITTED: i8 = 1;
const WAIT_MS: i32 = 50;
const MIN_BYTES: i32 = 1;
const PARTITION_BYTES: i32 = 8 << 20;
const ANSWER_AT_MOST: Duration = Duration::from_secs(10);
/// Length of a batch's head, `baseOffset` to `recordsCount`.
const HEAD: usize = 61;
/// In `attributes`: markers, not rows.
const CONTROL: i16 = 1 << 5;

/// One connection to the one broker there is.
pub(crate) struct Counter {
    stream: TcpStream,
    topic: String,
    /// Next offset of each partition.
    next: Vec<i64>,
    answer: Vec<u8>,
}

impl Counter {
    pub(crate) fn connect(kafka: &str, topic: &str) -> Result<Self> {
        let stream = TcpStream::connect(kafka).with_context(|| format!("no Kafka at {kafka}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_AT_MOST))?;
        Ok(Self {
            stream,
            topic: topic.to_owned(),
            next: (0..PARTITIONS).map(|_| 0).collect(),
            answer: Vec::new(),
        })
    }

    /// Waits a moment for more; says how many rows came.
    pub(crate) fn poll(&mut self) -> Result<u64> {
        self.ask()?;
        let mut size = [0; 4];
        self.stream.read_exact(&mut size)?;
        self.answer.resize(u32::from_be_bytes(size) as usize, 0);
        self.stream.read_exact(&mut self.answer)?;
        let mut answer = self.answer.as_slice();
        let (_correlation, _throttle) = (answer.try_get_i32()?, answer.try_get_i32()?);
        let mut rows = 0;
        for _ in 0..answer.try_get_i32()? {
            let name = usize::try_from(answer.try_get_i16()?)?;
            take(&mut answer, name)?;
            for _ in 0..answer.try_get_i32()? {
                let partition = usize::try_from(answer.try_get_i32()?)?;
                let error = answer.try_get_i16()?;
                ensure!(error == 0, "Fetch: error {error}");
                take(&mut answer, size_of::<[i64; 2]>())?; // high watermark, last stable offset
                let aborted = answer.try_get_i32()?;
                ensure!(aborted <= 0, "{aborted} aborted transactions");
                let bytes = usize::try_from(answer.try_get_i32()?).unwrap_or(0);
                let batches = take(&mut answer, bytes)?;
                let next = self.next.get_mut(partition).context("foreign partition")?;
                rows += count(batches, next)?;
            }
        }
        Ok(rows)
    }

    fn ask(&mut self) -> Result<()> {
        let mut request = Vec::new();
        request.put_i32(0); // length, known at the end
        request.put_i16(FETCH);
        request.put_i16(VERSION);
        request.put_i32(0); // correlation
        put_text(&mut request, "bench")?;
        request.put_i32(-1); // no replica
        request.put_i32(WAIT_MS);
        request.put_i32(MIN_BYTES);
        request.put_i32(PARTITION_BYTES * PARTITIONS);
        request.put_i8(READ_COMMITTED);
        request.put_i32(1); // topics
        put_text(&mut request, &self.topic)?;
        request.put_i32(PARTITIONS);
        for (partition, offset) in (0..PARTITIONS).zip(&self.next) {
            request.put_i32(partition);
            request.put_i64(*offset);
            request.put_i32(PARTITION_BYTES);
        }
        let length = u32::try_from(request.len() - 4)?.to_be_bytes();
        request[..4].copy_from_slice(&length);
        Ok(self.stream.write_all(&request)?)
    }
}

/// Rows in `batches` from offset `next` on, which is moved past them.
fn count(mut batches: &[u8], next: &mut i64) -> Result<u64> {
    let mut rows = 0;
    // The last batch may be cut off; it comes again.
    while batches.len() >= HEAD {
        let mut head = batches;
        let base = head.get_i64();
        let length = usize::try_from(head.get_i32())? + 12;
        if batches.len() < length {
            break;
        }
        head.advance(9); // leader epoch, magic, checksum
        let (attributes, last) = (head.get_i16(), base + i64::from(head.get_i32()));
        head.advance(30); // times, producer, base sequence
        let records = u64::try_from(head.get_i32())?;
        // A fetch from the middle of a batch gets all of it; batches are never counted in part here.
        if base < *next {
            bail!("a batch at {base} when {next} was asked for");
        }
        if attributes & CONTROL == 0 {
            rows += records;
        }
        *next = last + 1;
        batches.advance(length);
    }
    Ok(rows)
}

fn put_text(request: &mut Vec<u8>, text: &str) -> Result<()> {
    request.put_i16(i16::try_from(text.len())?);
    request.put_slice(text.as_bytes());
    Ok(())
}

fn take<'a>(answer: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (head, rest) = answer.split_at_checked(length).context("answer cut off")?;
    *answer = rest;
    Ok(head)
}
