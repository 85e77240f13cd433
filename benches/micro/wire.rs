//! From rows to Kafka's wire form and back.

use std::hint::black_box;

use anyhow::{Context, Result};
use criterion::{Criterion, Throughput};
use onceward::publisher::{EncodedHeaders, Records};
use onceward::{
    Cursor, Envelope, Event, MessageId, PgCursor, ProgressRecord, SourceId, header, partition_for,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const ROWS: usize = 10_000;
const PARTITIONS: i32 = 3;

/// An event of about 300 bytes.
#[derive(Debug, Serialize, Deserialize, Event)]
#[event(type = "bench.happened.v1", id = n)]
pub(crate) struct Happened {
    n: u64,
    filler: String,
}

impl Happened {
    pub(crate) fn new(n: u64) -> Self {
        let filler = "x".repeat(270);
        Self { n, filler }
    }
}

/// Fills an arena that is reused, as the relay does: key, payload, headers of the source and of the row.
fn fill(records: &mut Records, payload: &[u8], shared: &EncodedHeaders) {
    records.clear(1_700_000_000_000);
    for partition in 0..PARTITIONS {
        records.add_destination("bench.happened".into(), partition);
    }
    for row in 0..ROWS {
        let key = format!("key-{}", row % 1_000);
        let partition = partition_for(key.as_bytes(), PARTITIONS);
        let destination = usize::try_from(partition).unwrap_or(0);
        records.push(destination, Some(key.as_bytes()), payload, |headers| {
            headers.add_encoded(shared);
            headers.add(header::CE_ID, b"0190b6f0-7a5c-7cc0-98a1-3f5e2d8b4c11");
            headers.add(header::POSITION, b"123456");
            headers.add(header::PREVIOUS_POSITION, b"123453");
        });
    }
}

fn shared_headers() -> EncodedHeaders {
    EncodedHeaders::of([
        (header::CE_SOURCE, b"bench".as_slice()),
        (header::CE_TYPE, b"bench.happened.v1"),
        (header::CONTENT_TYPE, b"application/json"),
    ])
}

/// Of a batch of 10,000 rows.
pub(crate) fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(ROWS as u64));
    let (payload, shared) = (vec![b'x'; 300], shared_headers());
    let mut records = Records::new(0);
    group.bench_function("10,000 rows into a transaction's arena", |bencher| {
        bencher.iter(|| {
            fill(&mut records, &payload, &shared);
            black_box(records.len())
        });
    });
    group.finish();
}

/// The arena's records taken apart again, and an event out of its payload.
pub(crate) fn decode(criterion: &mut Criterion) -> Result<()> {
    let mut group = criterion.benchmark_group("decode");
    group.throughput(Throughput::Elements(ROWS as u64));
    let mut records = Records::new(0);
    fill(&mut records, &[b'x'; 300], &shared_headers());
    group.bench_function("10,000 records: key, payload, every header", |bencher| {
        bencher.iter(|| {
            let lengths = records.iter().map(|record| {
                let headers = record.headers().map(|(_, value)| value.len());
                record.payload().len()
                    + record.key().map_or(0, <[u8]>::len)
                    + headers.sum::<usize>()
            });
            black_box(lengths.sum::<usize>())
        });
    });
    group.throughput(Throughput::Elements(1));
    let envelope = Envelope::of(&Happened::new(7), MessageId(Uuid::from_u128(7)))?;
    envelope.decode::<Happened>().context("decoding")?;
    group.bench_function("an event of 300 bytes out of its envelope", |bencher| {
        bencher.iter(|| black_box(&envelope).decode::<Happened>().is_ok());
    });
    group.finish();
    Ok(())
}

/// The progress record that every Kafka transaction carries, of a source with 30 partitions.
pub(crate) fn progress(criterion: &mut Criterion) -> Result<()> {
    let cursor = Cursor::Postgres(PgCursor {
        done: "123456:123470:123456,123460,123469".to_owned(),
        page: None,
    });
    let mut progress = ProgressRecord::genesis(SourceId(Uuid::nil()), 1, cursor);
    let positions = (0..30).map(|partition| (partition, 1_000_000));
    progress
        .partitions
        .insert("bench.happened".into(), positions.collect());
    let text = serde_json::to_vec(&progress)?;
    serde_json::from_slice::<ProgressRecord>(&text)?;
    let mut group = criterion.benchmark_group("progress");
    group.bench_function("written", |bencher| {
        bencher.iter(|| serde_json::to_vec(black_box(&progress)));
    });
    group.bench_function("read", |bencher| {
        bencher.iter(|| serde_json::from_slice::<ProgressRecord>(black_box(&text)));
    });
    group.finish();
    Ok(())
}
