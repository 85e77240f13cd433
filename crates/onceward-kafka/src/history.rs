//! Topics read from end to end, outside of any group.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use onceward::consumer::rebuild::{History, Reading, Since, Stretch};
use onceward::consumer::{Record, SubscriberError, TopicPartition};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use crate::KafkaConfig;
use crate::events::{Event, Events};
use crate::fault::{denied, is_denied};
use crate::ffi::describe_topics;
use crate::subscriber::{Quiet, failed};

/// One question to the cluster.
const ASK: Duration = Duration::from_secs(10);
/// No record and no end of a partition for this long: Kafka is gone.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a partition is waited for before its errors count as silence.
const TICK: Duration = Duration::from_millis(200);
/// The client library wants a name. No group of that name is joined, and nothing is committed.
const NO_GROUP: &str = "onceward-rebuild";

/// Reads topics from end to end by librdkafka.
pub struct KafkaHistory {
    consumer: BaseConsumer<Quiet>,
}

impl std::fmt::Debug for KafkaHistory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KafkaHistory")
    }
}

impl KafkaHistory {
    /// A reader on this cluster. Connects when it reads.
    ///
    /// # Errors
    /// The configuration is refused; every problem is named.
    pub fn new(config: &KafkaConfig) -> Result<Self, SubscriberError> {
        let config = config.client_config().map_err(failed("configuration"))?;
        Ok(Self {
            consumer: client_config(config)
                .create_with_context(Quiet)
                .map_err(failed("reader start"))?,
        })
    }
}

fn client_config(mut config: ClientConfig) -> ClientConfig {
    config
        .set("group.id", NO_GROUP)
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("allow.auto.create.topics", "false")
        // Partitions are read side by side, and each holds what it has fetched until its turn
        // comes.
        .set("queued.max.messages.kbytes", "4096")
        .set("queued.min.messages", "1000")
        // Else a partition that holds so many is not looked at again for a second.
        .set("fetch.queue.backoff.ms", "5");
    config
}

impl History for KafkaHistory {
    fn stretches(
        &mut self,
        topics: &[String],
        since: Since,
    ) -> Result<Vec<Stretch>, SubscriberError> {
        let doing = "topic lookup";
        let described = describe_topics(self.consumer.client(), topics, ASK);
        let mut stretches = Vec::new();
        for (name, topic) in described.map_err(failed(doing))? {
            let topic = topic.map_err(|code| match is_denied(code) {
                true => failed(doing)(denied(doing, &format!("DESCRIBE on topic {name}"))),
                false => failed(doing)(format!("{name}: {code}")),
            })?;
            let partitions = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
            for partition in 0..partitions {
                // The end of a `read_committed` consumer: no transaction is open below it.
                let (log_start, end) = self
                    .consumer
                    .fetch_watermarks(&name, partition, ASK)
                    .map_err(failed("offset lookup"))?;
                stretches.push(Stretch {
                    at: TopicPartition {
                        topic: name.as_str().into(),
                        partition,
                    },
                    topic_id: topic.id.clone(),
                    log_start,
                    start: log_start,
                    end,
                });
            }
        }
        if let Since::Time(micros) = since {
            self.begin_at(micros, &mut stretches)?;
        }
        Ok(stretches)
    }

    fn read(&self, stretches: &[Stretch]) -> Result<Box<dyn Reading + '_>, SubscriberError> {
        let wanted: Vec<_> = stretches
            .iter()
            .map(|stretch| (stretch.start < stretch.end).then(|| stretch.clone()))
            .collect();
        let mut list = TopicPartitionList::new();
        for stretch in wanted.iter().flatten() {
            let (topic, partition) = (&*stretch.at.topic, stretch.at.partition);
            list.add_partition_offset(topic, partition, Offset::Offset(stretch.start))
                .map_err(failed("assign"))?;
        }
        // Before anything is fetched, so that nothing comes by the common queue.
        let partitions: Vec<_> = wanted
            .into_iter()
            .map(|stretch| {
                let end = stretch.as_ref().map_or(0, |stretch| stretch.end);
                let events = stretch.map(|stretch| {
                    let events = Events::of_partition(&self.consumer, &stretch.at);
                    events.ok_or_else(|| failed("reader start")(&stretch.at))
                });
                Ok(Partition {
                    events: events.transpose()?,
                    end,
                })
            })
            .collect::<Result<_, SubscriberError>>()?;
        let common = Events::of(&self.consumer);
        self.consumer.assign(&list).map_err(failed("assign"))?;
        Ok(Box::new(AllPartitions {
            common: common.ok_or_else(|| failed("reader start")("it has no group"))?,
            partitions,
        }))
    }
}

impl KafkaHistory {
    /// Moves the beginnings to the first record of this time or a later one.
    fn begin_at(&self, micros: i64, stretches: &mut [Stretch]) -> Result<(), SubscriberError> {
        let doing = "offset lookup by time";
        let mut question = TopicPartitionList::new();
        for Stretch { at, .. } in &*stretches {
            let time = Offset::Offset(micros.div_euclid(1000));
            question
                .add_partition_offset(&at.topic, at.partition, time)
                .map_err(failed(doing))?;
        }
        let answer = self.consumer.offsets_for_times(question, ASK);
        let answer = answer.map_err(failed(doing))?;
        let found: BTreeMap<_, _> = answer
            .elements()
            .iter()
            .map(|found| {
                (
                    (found.topic().to_owned(), found.partition()),
                    found.offset(),
                )
            })
            .collect();
        for stretch in stretches {
            let key = (stretch.at.topic.to_string(), stretch.at.partition);
            stretch.start = match found.get(&key) {
                Some(Offset::Offset(offset)) => *offset,
                // Nothing is as young.
                _ => stretch.end,
            };
        }
        Ok(())
    }
}

struct AllPartitions<'c> {
    /// Errors that are about no partition.
    common: Events<'c, Quiet>,
    partitions: Vec<Partition<'c>>,
}

struct Partition<'c> {
    /// `None`: there is nothing to read any more.
    events: Option<Events<'c, Quiet>>,
    end: i64,
}

impl Reading for AllPartitions<'_> {
    fn next(&mut self, place: usize) -> Result<Option<Record>, SubscriberError> {
        let Some(Partition { events, end }) = self.partitions.get_mut(place) else {
            return Ok(None);
        };
        let (begun, mut trouble) = (Instant::now(), "no answer".to_owned());
        while let Some(reading) = events {
            match reading.poll(TICK) {
                Event::Record(record) if record.offset < *end => return Ok(Some(record)),
                Event::Record(_) => *events = None,
                // Behind the last record may stand the marker of its transaction.
                Event::End { offset, .. } if offset >= *end => *events = None,
                Event::Failed { at, code, text, .. } => trouble = told(at, code, text)?,
                _ => {}
            }
            if let Event::Failed { at, code, text, .. } = self.common.poll(Duration::ZERO) {
                trouble = told(at, code, text)?;
            }
            if begun.elapsed() > SILENCE {
                return Err(failed("reading")(trouble));
            }
        }
        Ok(None)
    }
}

/// What may pass by itself, in words; an error for what does not.
fn told(
    at: Option<TopicPartition>,
    code: RDKafkaErrorCode,
    text: String,
) -> Result<String, SubscriberError> {
    let doing = "reading";
    match (code, at) {
        (RDKafkaErrorCode::GroupAuthorizationFailed, _) => Ok(text),
        (_, Some(at)) if is_denied(code) => Err(failed(doing)(denied(
            doing,
            &format!("READ on topic {}", at.topic),
        ))),
        (RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange, _) => {
            Err(failed(doing)(text))
        }
        _ => Ok(text),
    }
}
