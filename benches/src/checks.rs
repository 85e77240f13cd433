//! A benchmark that publishes wrongly fast is worth nothing: the topic is read again and judged.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::message::{Headers, Message};

use crate::reader::consumer;
use crate::source::Source;

/// Fails unless the topic's records are exactly the source's rows, the last `rows` that were published:
/// each position once, and within a partition each record naming the one before.
pub(crate) fn exactly_once(kafka: &str, source: &Source, rows: u64) -> Result<()> {
    let consumer = consumer(kafka, &[&source.topic], true)?;
    let first = i64::try_from(source.before)? + 1;
    let mut seen = vec![false; usize::try_from(rows)?];
    let mut last = std::collections::BTreeMap::new();
    let (mut count, mut quiet) = (0_u64, Instant::now());
    loop {
        let Some(record) = consumer.poll(Duration::from_millis(200)) else {
            // Everything was seen before: what does not come now is not there.
            if count >= rows || quiet.elapsed() > Duration::from_secs(10) {
                break;
            }
            continue;
        };
        let record = record?;
        quiet = Instant::now();
        count += 1;
        let header = |name: &str| -> Result<i64> {
            let headers = record.headers().context("a record without headers")?;
            let found = headers.iter().find(|header| header.key == name);
            let value = found
                .and_then(|header| header.value)
                .context("no position")?;
            Ok(std::str::from_utf8(value)?.parse()?)
        };
        let position = header("onceward-position")?;
        let slot = usize::try_from(position - first)
            .ok()
            .and_then(|at| seen.get_mut(at));
        let slot =
            slot.with_context(|| format!("position {position} of {rows} rows from {first}"))?;
        ensure!(!*slot, "position {position} twice");
        *slot = true;
        let before = last.insert(record.partition(), position).unwrap_or(0);
        let named = header("onceward-previous-position")?;
        ensure!(
            named == before,
            "record {position} follows {before}, and names {named}"
        );
    }
    ensure!(count == rows, "{count} records of {rows} rows");
    Ok(())
}
