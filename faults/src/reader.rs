//! A plain `read_committed` consumer: what it sees, and when, is what counts.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use onceward::{Clock, Micros, SystemClock};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::Result;
use crate::account::Event;
use crate::stage::PARTITIONS;

/// A record that a reader saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// What it says; `None` if that can't be read.
    pub event: Option<Event>,
    /// When it was seen.
    pub visible: Micros,
}

impl fmt::Display for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.partition, self.offset)?;
        match self.event {
            Some(event) => write!(
                f,
                " (key {}, number {}, token {})",
                event.key, event.number, event.token
            ),
            None => Ok(()),
        }
    }
}

fn consumer(kafka: &str, topic: &str) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .set("group.id", "faults")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "20")
        // It must not be the last to notice that Kafka is back.
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "100")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    Ok(consumer)
}

fn sight(record: &impl Message) -> Sight {
    Sight {
        partition: record.partition(),
        offset: record.offset(),
        event: record.payload().and_then(Event::read),
        visible: SystemClock.now(),
    }
}

/// Everything that is in the topic now, read from the beginning by a consumer of its own.
pub fn read_all(kafka: &str, topic: &str) -> Result<Vec<Sight>> {
    let consumer = consumer(kafka, topic)?;
    let (mut seen, mut ended) = (Vec::new(), std::collections::BTreeSet::new());
    let mut heard = Instant::now();
    while ended.len() < usize::try_from(PARTITIONS)? {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(record)) => {
                seen.push(sight(&record));
                heard = Instant::now();
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                ended.insert(partition);
            }
            Some(Err(_)) | None if heard.elapsed() < Duration::from_secs(30) => {}
            Some(Err(error)) => return Err(error).context("reading the topic"),
            None => bail!("Kafka gives no records"),
        }
    }
    Ok(seen)
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    seen: Mutex<Vec<Sight>>,
}

/// Reads a topic on a thread until it is dropped; a Kafka that goes away is waited for.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Reads `topic` from its beginning.
    pub fn start(kafka: &str, topic: &str) -> Result<Self> {
        let consumer = consumer(kafka, topic)?;
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = std::thread::Builder::new()
            .name("reader".into())
            .spawn(move || {
                while !theirs.stop.load(Ordering::Relaxed) {
                    if let Some(Ok(record)) = consumer.poll(Duration::from_millis(50)) {
                        let sight = sight(&record);
                        let mut seen = theirs.seen.lock().unwrap_or_else(PoisonError::into_inner);
                        seen.push(sight);
                    }
                }
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// How many records were seen.
    pub fn count(&self) -> usize {
        let seen = self.shared.seen.lock();
        seen.unwrap_or_else(PoisonError::into_inner).len()
    }

    /// When the first event that was written at `since` or later was seen.
    pub fn first_written_since(&self, since: Micros) -> Option<Micros> {
        let seen = self.shared.seen.lock();
        let seen = seen.unwrap_or_else(PoisonError::into_inner);
        // From the end: what was seen before can't have been written since.
        let late = seen.iter().rev().take_while(|sight| sight.visible >= since);
        let new = |sight: &&Sight| sight.event.is_some_and(|event| event.written >= since);
        late.filter(new).last().map(|sight| sight.visible)
    }

    /// Seen so far, a second each since `since`: for the plot.
    pub fn per_second(&self, since: Micros) -> Vec<u32> {
        let seen = self.shared.seen.lock();
        let seen = seen.unwrap_or_else(PoisonError::into_inner);
        let mut counts = Vec::new();
        for sight in seen.iter() {
            let Ok(second) = usize::try_from((sight.visible - since) / 1_000_000) else {
                continue;
            };
            if counts.len() <= second {
                counts.resize(second + 1, 0);
            }
            if let Some(count) = counts.get_mut(second) {
                *count += 1;
            }
        }
        counts
    }

    /// Ends the thread.
    pub fn stop(mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("stopped twice")?;
        thread.join().map_err(|_| anyhow!("the reader panicked"))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}
