//! A benchmark that publishes wrongly fast is worth nothing: the topic is read again and judged.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::message::{BorrowedMessage, Headers, Message};

use crate::reader::consumer;
use crate::relay::Whose;
use crate::source::{Source, number_of};

/// Fails unless the topic's records are exactly the source's rows, the last `rows` that were published, in
/// order. By our relay's account each position is there once, and within a partition each record names
/// the one before; by Debezium's each row's number is there once, and the rows of a key come by rising `seq`.
pub(crate) fn exactly_once(kafka: &str, source: &Source, rows: u64) -> Result<()> {
    let consumer = consumer(kafka, &[&source.topic], true)?;
    let (mut once, mut order) = (Once::of(rows)?, Order::of(source)?);
    let mut quiet = Instant::now();
    loop {
        let Some(record) = consumer.poll(Duration::from_millis(200)) else {
            // Everything was seen before: what does not come now is not there.
            if once.count >= rows || quiet.elapsed() > Duration::from_secs(10) {
                break;
            }
            continue;
        };
        quiet = Instant::now();
        once.see(order.see(&record?)?)?;
    }
    let count = once.count;
    ensure!(count == rows, "{count} records of {rows} rows");
    Ok(())
}

/// Numbers below a bound, each of which may come once.
struct Once {
    seen: Vec<bool>,
    count: u64,
}

impl Once {
    fn of(count: u64) -> Result<Self> {
        let seen = vec![false; usize::try_from(count)?];
        Ok(Self { seen, count: 0 })
    }

    fn see(&mut self, number: usize) -> Result<()> {
        let rows = self.seen.len();
        let slot = self.seen.get_mut(number);
        let slot = slot.with_context(|| format!("number {number} of {rows} rows"))?;
        ensure!(!*slot, "number {number} twice");
        *slot = true;
        self.count += 1;
        Ok(())
    }
}

/// What the relays say about order in their headers.
enum Order {
    /// The position of the first row, and each partition's last.
    Positions(i64, BTreeMap<i32, i64>),
    /// Each key's last `seq`.
    Seqs(HashMap<Vec<u8>, i64>),
}

impl Order {
    fn of(source: &Source) -> Result<Self> {
        Ok(match source.whose {
            Whose::Ours | Whose::OursByRdkafka => {
                Self::Positions(i64::try_from(source.before)? + 1, BTreeMap::new())
            }
            Whose::Debezium => Self::Seqs(HashMap::new()),
        })
    }

    /// Which of the rows this is, the first being 0. Fails if it came out of order.
    fn see(&mut self, record: &BorrowedMessage<'_>) -> Result<usize> {
        match self {
            Self::Positions(first, last) => {
                let position = header(record, "onceward-position")?;
                let before = last.insert(record.partition(), position).unwrap_or(0);
                let named = header(record, "onceward-previous-position")?;
                ensure!(
                    named == before,
                    "record {position} follows {before}, and names {named}"
                );
                Ok(usize::try_from(position - *first)?)
            }
            Self::Seqs(last) => {
                let seq = header(record, "seq")?;
                let key = record.key().context("a record without a key")?;
                let before = last.insert(key.to_owned(), seq).unwrap_or(0);
                ensure!(seq > before, "seq {seq} of a key follows {before}");
                let number = record.payload().and_then(number_of);
                number.context("a record that is no row")
            }
        }
    }
}

fn header(record: &BorrowedMessage<'_>, name: &str) -> Result<i64> {
    let headers = record.headers().context("a record without headers")?;
    let found = headers.iter().find(|header| header.key == name);
    let value = found.and_then(|header| header.value);
    let value = value.with_context(|| format!("a record without {name}"))?;
    Ok(std::str::from_utf8(value)?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_may_come_once_and_must_be_one_of_them() -> Result<()> {
        let mut numbers = Once::of(2)?;
        numbers.see(1)?;
        assert!(numbers.see(1).is_err());
        assert!(numbers.see(2).is_err());
        numbers.see(0)?;
        assert_eq!(numbers.count, 2);
        Ok(())
    }
}
