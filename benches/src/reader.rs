//! A plain `read_committed` consumer on a thread of its own: it says what is visible, and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use crate::source::number_of;

/// Value of a time that is not known yet.
pub(crate) const NEVER: i64 = i64::MIN;

/// A consumer of these topics, assigned to all partitions from their beginning.
pub(crate) fn consumer(kafka: &str, topics: &[&str], bulk: bool) -> Result<BaseConsumer> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", kafka)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        // The broker answers when there is something; this bounds the wait where it overlooks it.
        .set("fetch.wait.max.ms", "5")
        .set("fetch.queue.backoff.ms", "1")
        // Where Kafka is killed its return must be seen, not our patience.
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "50");
    if bulk {
        config
            .set("fetch.min.bytes", "100000")
            .set("max.partition.fetch.bytes", "8000000")
            .set("queued.max.messages.kbytes", "128000");
    }
    let consumer: BaseConsumer = config.create()?;
    let mut assignment = TopicPartitionList::new();
    for topic in topics {
        for partition in 0..partitions(&consumer, topic)? {
            assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
    }
    consumer.assign(&assignment)?;
    Ok(consumer)
}

/// How many partitions a topic has.
fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<i32> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10))?;
        let known = metadata.topics().first().map(|topic| topic.partitions());
        match known.map(<[_]>::len) {
            Some(count) if count > 0 => return Ok(i32::try_from(count)?),
            // It was made just now, and the broker has not heard of it yet.
            _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            _ => bail!("topic {topic} has no partitions"),
        }
    }
}

/// How many records were seen by when, in seconds since [`Reader::begun`].
pub(crate) type Timeline = Vec<(f64, u64)>;

struct Shared {
    begun: Instant,
    stop: AtomicBool,
    count: AtomicU64,
    /// When each numbered row was seen, nanoseconds since `begun`.
    seen: Vec<AtomicI64>,
}

/// Reads on a thread until it is stopped or dropped.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<Timeline>>>,
}

impl Reader {
    /// Reads `topic`. Rows with a number below `numbered` have their time kept.
    pub(crate) fn start(kafka: &str, topic: &str, numbered: usize, bulk: bool) -> Result<Self> {
        Self::of_all(kafka, &[topic], numbered, bulk)
    }

    /// Reads several topics. Their records are counted together.
    pub(crate) fn of_all(
        kafka: &str,
        topics: &[&str],
        numbered: usize,
        bulk: bool,
    ) -> Result<Self> {
        let consumer = consumer(kafka, topics, bulk)?;
        let shared = Arc::new(Shared {
            begun: Instant::now(),
            stop: AtomicBool::new(false),
            count: AtomicU64::new(0),
            seen: (0..numbered).map(|_| AtomicI64::new(NEVER)).collect(),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("reader".into())
            .spawn(move || read(&consumer, &theirs))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// What all times are counted from.
    pub(crate) fn begun(&self) -> Instant {
        self.shared.begun
    }

    /// Records seen.
    pub(crate) fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// When a numbered row was seen, nanoseconds since [`Self::begun`], or [`NEVER`].
    pub(crate) fn seen(&self, number: usize) -> i64 {
        let slot = self.shared.seen.get(number);
        slot.map_or(NEVER, |slot| slot.load(Ordering::Relaxed))
    }

    /// Waits until `count` records were seen.
    pub(crate) async fn wait_for(&self, count: u64, at_most: Duration) -> Result<()> {
        let deadline = Instant::now() + at_most;
        while self.count() < count {
            if Instant::now() > deadline {
                bail!("{} of {count} records after {at_most:?}", self.count());
            }
            self.goes_on()?;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Fails if the thread has ended by itself.
    pub(crate) fn goes_on(&self) -> Result<()> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            bail!("the reader has ended");
        }
        Ok(())
    }

    /// Stops.
    pub(crate) fn stop(mut self) -> Result<Timeline> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("stopped twice")?;
        thread.join().map_err(|_| anyhow!("the reader panicked"))?
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn read(consumer: &BaseConsumer, shared: &Shared) -> Result<Timeline> {
    let mut timeline = Timeline::new();
    let mut count = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let Some(record) = consumer.poll(Duration::from_millis(50)) else {
            continue;
        };
        let record = match record {
            Ok(record) => record,
            // Kafka is killed here; the client connects again by itself.
            Err(_) if consumer.client().fatal_error().is_none() => continue,
            Err(error) => return Err(error.into()),
        };
        let now = shared.begun.elapsed();
        count += 1;
        shared.count.store(count, Ordering::Relaxed);
        if !shared.seen.is_empty()
            && let Some(number) = record.payload().and_then(number_of)
            && let Some(slot) = shared.seen.get(number)
        {
            slot.store(i64::try_from(now.as_nanos())?, Ordering::Relaxed);
        }
        let seconds = now.as_secs_f64();
        match timeline.last_mut() {
            // One point a millisecond.
            Some(last) if seconds - last.0 < 0.001 => last.1 = count,
            _ => timeline.push((seconds, count)),
        }
    }
    Ok(timeline)
}
