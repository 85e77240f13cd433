//! One transaction after another, each to a known (or known to be unknown) end.
//!
//! ```text
//! ready ─ settle ─ produce ─┬─ all there ─ EndTxn(commit) ─┬─ ok ───── Committed
//!   │        │              │                              ├─ fenced ─ Fenced
//!   │        │              │                              └─ else ─── Unknown
//!   │        │              ├─ refused ─── EndTxn(abort) ──┬─ ok ───── NotCommitted, or begun again
//!   │        │              │                              └─ else ─── Fenced, Unknown
//!   └────────┴─ NotCommitted└─ no answer ───────────────────────────── Unknown
//! ```
//! Until the first byte of a Produce is sent nothing is under way, and trouble is an outage. From
//! then on any trouble of the connection makes the outcome unknown: nothing is sent again across
//! a transaction's end. Every end has its own epoch, so a request that arrives late is refused.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use onceward::publisher::{BrokerError, PublishOutcome, Records, Refusal};
use onceward::{Clock, ProgressRecord, SourceName, SystemClock};
use tokio::time::{Instant, sleep};

use super::batch::Encoder;
use super::cluster::{Cluster, Trouble};
use super::connection::WireError;
use super::fault::{Code, Kind};
use super::message::{EndTxn, InitProducerId, ProducerIdentity};
use super::produce::{self, Envelope, Lanes, Load, Sent};
use super::settings::Settings;
use crate::publisher::TRANSACTION_TIMEOUT;
use answers::{Answers, Failure, gone, receive};

mod answers;
mod ready;

/// How long Kafka may take to end what a fenced producer left open.
const INIT_AT_MOST: Duration = Duration::from_secs(15);
/// From the first byte to the end: below the transaction's own time-out.
const TRANSACTION_AT_MOST: Duration = Duration::from_secs(8);
/// Between two tries while nothing is open.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Requests under way to one broker.
const IN_FLIGHT: usize = 3;
/// Times a transaction is begun again behind a clean abort: enough to halve the largest batch down to
/// one record.
const AGAIN_AT_MOST: u32 = 24;
/// Memory kept from one transaction to the next.
const KEPT_BYTES: usize = 256 << 10;

/// A transactional producer of one source for transactions V2 (KIP-890).
pub(crate) struct V2Publisher {
    cluster: Cluster,
    transactional_id: String,
    progress_topic: Arc<str>,
    source: String,
    producer: ProducerIdentity,
    lanes: Lanes,
    encoder: Encoder,
    out: Vec<u8>,
    /// When the last transaction ended, until its markers are known to be written.
    ended: Option<Instant>,
    /// Why it must not be used again.
    dead: Option<String>,
}

impl std::fmt::Debug for V2Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("V2Publisher")
            .field("transactional_id", &self.transactional_id)
            .field("producer", &self.producer)
            .finish_non_exhaustive()
    }
}

/// Why no producer could be made.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// The cluster has no transactions V2.
    Unsupported(String),
    /// The first contact failed in a way that librdkafka can tell more about.
    Unclear(BrokerError),
    /// Anything else.
    Broker(BrokerError),
}

impl From<Trouble> for OpenError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Passing(reason) => Self::Broker(BrokerError::Unavailable(reason)),
            Trouble::Cut(reason) => Self::Unclear(BrokerError::Unavailable(reason)),
            Trouble::Lasting(reason) => Self::Unclear(BrokerError::Configuration(reason)),
            Trouble::Fenced => Self::Broker(BrokerError::Fenced),
        }
    }
}

/// What one attempt came to.
enum Attempt {
    Ended(PublishOutcome),
    /// Cleanly aborted, and worth another one.
    Again(Refusal),
}

/// How an EndTxn was answered.
enum End {
    Done,
    Fenced,
    Unknown(String),
}

impl V2Publisher {
    /// Connects, fences every older producer of the source and aborts what it left open.
    pub(super) async fn open(settings: Settings, source: &SourceName) -> Result<Self, OpenError> {
        let transactional_id = source.transactional_id();
        let until = Instant::now() + INIT_AT_MOST;
        let mut cluster = Cluster::new(settings, transactional_id.clone());
        if let Some(reason) = cluster.missing_ability(until).await? {
            return Err(OpenError::Unsupported(reason));
        }
        let progress_topic: Arc<str> = source.progress_topic().into();
        cluster.learn(&[&progress_topic], until).await?;
        let mut publisher = Self {
            cluster,
            transactional_id,
            progress_topic,
            source: source.as_str().to_owned(),
            producer: ProducerIdentity::NONE,
            lanes: Lanes::default(),
            encoder: Encoder::default(),
            out: Vec::new(),
            ended: None,
            dead: None,
        };
        publisher.init(until).await?;
        Ok(publisher)
    }

    /// CRASH: died here = older producers are fenced and what they left open is aborted; nothing else.
    async fn init(&mut self, until: Instant) -> Result<(), Trouble> {
        let doing = "initialising transactions";
        let need = format!("WRITE on transactional id {}", self.transactional_id);
        loop {
            let request = InitProducerId {
                transactional_id: &self.transactional_id,
                transaction_timeout_ms: i32::try_from(TRANSACTION_TIMEOUT.as_millis())
                    .unwrap_or(i32::MAX),
                current: self.producer,
            };
            let trouble = match self.cluster.ask_coordinator(&request, until).await {
                Ok((error, identity)) => match Code::of(error) {
                    None if identity.id >= 0 && identity.epoch >= 0 => {
                        self.producer = identity;
                        return Ok(());
                    }
                    None => return Err(Trouble::Passing(format!("{doing}: no id in the answer"))),
                    Some(code) => {
                        if code.kind() == Kind::Coordinator {
                            self.cluster.forget_coordinator();
                        } else if !code.is_concurrent() {
                            return Err(Trouble::of(code, doing, &need));
                        }
                        Trouble::of(code, doing, &need)
                    }
                },
                Err(passing @ (Trouble::Passing(_) | Trouble::Cut(_))) => passing,
                Err(lasting) => return Err(lasting),
            };
            if Instant::now() + RETRY_PAUSE > until {
                return Err(trouble);
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// See [`onceward::publisher::Publisher::publish`].
    pub(crate) async fn publish(
        &mut self,
        rows: &Records,
        progress: &ProgressRecord,
    ) -> PublishOutcome {
        if let Some(reason) = &self.dead {
            return PublishOutcome::Unknown(format!("producer of no more use: {reason}"));
        }
        let key = progress.key(&self.source);
        let value = match serde_json::to_vec(progress) {
            Ok(value) => value,
            Err(error) => return PublishOutcome::Unknown(format!("progress as JSON: {error}")),
        };
        let mut progress = Records::new(SystemClock.now().div_euclid(1000));
        let to = progress.add_destination(self.progress_topic.clone(), 0);
        progress.push(to, Some(key.as_bytes()), &value, |_| {});
        let load = Load {
            rows,
            progress: &progress,
        };
        if let Err(index) = self.lanes.fill(load) {
            let reason = "larger than any broker takes".to_owned();
            return PublishOutcome::NotCommitted(Refusal::Record { index, reason });
        }
        let outcome = self.attempts(load).await;
        match &outcome {
            PublishOutcome::Unknown(reason) => self.dead = Some(reason.clone()),
            PublishOutcome::Fenced => self.dead = Some("fenced".into()),
            _ => {}
        }
        self.lanes.clear();
        self.out.clear();
        self.out.shrink_to(KEPT_BYTES);
        self.encoder.shrink(KEPT_BYTES);
        outcome
    }

    async fn attempts(&mut self, load: Load<'_>) -> PublishOutcome {
        let enough = Instant::now() + TRANSACTION_AT_MOST;
        let mut left = AGAIN_AT_MOST;
        loop {
            match self.attempt(load).await {
                Attempt::Ended(outcome) => return outcome,
                Attempt::Again(refusal) => {
                    left -= 1;
                    if left == 0 || Instant::now() > enough {
                        return PublishOutcome::NotCommitted(refusal);
                    }
                    self.lanes.rewind();
                }
            }
        }
    }

    async fn attempt(&mut self, load: Load<'_>) -> Attempt {
        let leaders = match self.ready().await {
            Ok(leaders) => leaders,
            Err(outcome) => return Attempt::Ended(outcome),
        };
        let until = Instant::now() + TRANSACTION_AT_MOST;
        // Should this future be dropped on the way, the transaction stays open: not to be used again.
        self.dead = Some("left in a transaction".into());
        let produced = self.produce(load, &leaders, until).await;
        let attempt = match produced {
            Ok(Ok(progress_offset)) => match self.end(true, until).await {
                // CRASH: the answer is lost, the transaction's outcome stands in the progress topic;
                // whoever takes over reads it there.
                End::Done => Attempt::Ended(PublishOutcome::Committed {
                    progress_offset,
                    // A late EndTxn has an epoch of the past, and is refused.
                    dirty: false,
                }),
                End::Fenced => Attempt::Ended(PublishOutcome::Fenced),
                End::Unknown(reason) => Attempt::Ended(PublishOutcome::Unknown(reason)),
            },
            Ok(Err(failure)) => self.abort(failure, load, until).await,
            Err(error) => {
                self.cluster.disconnect();
                Attempt::Ended(PublishOutcome::Unknown(error.to_string()))
            }
        };
        self.dead = None;
        attempt
    }

    /// Sends all records; the offset of the progress record, or why it must be aborted.
    async fn produce(
        &mut self,
        load: Load<'_>,
        leaders: &[i32],
        until: Instant,
    ) -> Result<Result<i64, Failure>, WireError> {
        let envelope = Envelope {
            transactional_id: &self.transactional_id,
            producer: self.producer,
            compression: self.cluster.settings().compression,
        };
        let mut under_way: VecDeque<Sent> = VecDeque::new();
        let mut answers = Answers::default();
        let mut more = true;
        while more && answers.failure.is_none() {
            more = false;
            for leader in leaders {
                let connection = self.cluster.connection(*leader).ok_or_else(gone)?;
                connection.begin(&mut self.out, produce::KEY, produce::VERSION, true);
                let sent = self.lanes.put_request(
                    &mut self.out,
                    &mut self.encoder,
                    *leader,
                    load,
                    &envelope,
                );
                if let Some(sent) = sent {
                    connection.send(&mut self.out, until).await?;
                    under_way.push_back(sent);
                    more = true;
                }
            }
            while under_way.len() > IN_FLIGHT * leaders.len() {
                if let Some(sent) = under_way.pop_front() {
                    receive(&mut self.cluster, &self.lanes, &sent, &mut answers, until).await?;
                }
            }
        }
        for sent in under_way {
            receive(&mut self.cluster, &self.lanes, &sent, &mut answers, until).await?;
        }
        if let Some(failure) = answers.failure {
            return Ok(Err(failure));
        }
        match answers.last {
            Some((record, offset)) if record == load.progress_index() => Ok(Ok(offset)),
            _ => Err(gone()),
        }
    }

    /// CRASH: Kafka aborts by its time-out what was not aborted; nothing was visible.
    async fn abort(&mut self, failure: Failure, load: Load<'_>, until: Instant) -> Attempt {
        let Failure {
            code,
            message,
            batch,
            record: index,
        } = failure;
        let topic = load.topic(index).to_owned();
        let need = match code.kind() {
            Kind::Configuration => format!("WRITE on transactional id {}", self.transactional_id),
            _ => write_on(&topic),
        };
        let mut reason = code.told(&need);
        if !message.is_empty() {
            reason = format!("{reason}: {message}");
        }
        match code.kind() {
            Kind::Fenced => return Attempt::Ended(PublishOutcome::Fenced),
            Kind::Lost => return Attempt::Ended(PublishOutcome::Unknown(reason)),
            _ => {}
        }
        match self.end(false, until).await {
            End::Done => {}
            End::Fenced => return Attempt::Ended(PublishOutcome::Fenced),
            End::Unknown(end) => {
                return Attempt::Ended(PublishOutcome::Unknown(format!("{reason}; {end}")));
            }
        }
        let is_progress = index == load.progress_index();
        let refusal = match code.kind() {
            Kind::TooLarge if self.lanes.halve(&batch) => {
                return Attempt::Again(Refusal::Record { index, reason });
            }
            Kind::Moved => {
                self.cluster.forget_leaders();
                return Attempt::Again(Refusal::Outage(reason));
            }
            Kind::TooLarge | Kind::Record | Kind::Topic if is_progress => {
                Refusal::Progress(format!("{topic}: {reason}"))
            }
            Kind::TooLarge | Kind::Record => Refusal::Record { index, reason },
            Kind::Topic => Refusal::Topic { topic, reason },
            Kind::Configuration => Refusal::Progress(reason),
            Kind::Outage | Kind::Coordinator | Kind::Fenced | Kind::Lost => Refusal::Outage(reason),
        };
        Attempt::Ended(PublishOutcome::NotCommitted(refusal))
    }

    /// Commits or aborts, and adopts the identity for the next transaction.
    async fn end(&mut self, commit: bool, until: Instant) -> End {
        let doing = if commit { "commit" } else { "abort" };
        loop {
            let Some(connection) = self.cluster.coordinator_connection() else {
                return End::Unknown(format!("{doing}: the coordinator is gone"));
            };
            let request = EndTxn {
                transactional_id: &self.transactional_id,
                producer: self.producer,
                commit,
            };
            let (error, identity) = match connection.call(&request, until).await {
                Ok(answer) => answer,
                Err(error) => {
                    self.cluster.disconnect();
                    return End::Unknown(format!("{doing}: {error}"));
                }
            };
            match Code::of(error) {
                None if identity.id >= 0 && identity.epoch >= 0 => {
                    self.producer = identity;
                    self.ended = Some(Instant::now());
                    return End::Done;
                }
                None => return End::Unknown(format!("{doing}: no new epoch in the answer")),
                // The coordinator says that it has done nothing yet.
                Some(code) if code.is_concurrent() && Instant::now() < until => {
                    sleep(Duration::from_millis(1)).await;
                }
                Some(code) if code.kind() == Kind::Fenced => return End::Fenced,
                Some(code) => return End::Unknown(format!("{doing}: {code}")),
            }
        }
    }
}

/// The right to publish to a topic.
fn write_on(topic: &str) -> String {
    format!("WRITE on topic {topic}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use onceward::publisher::{Broker, PublishOutcome, Records};
    use onceward::{Cursor, ProgressRecord, SourceId, SourceName, SqliteCursor};
    use onceward_testkit::kafka;
    use tokio::time::Instant;

    use super::V2Publisher;
    use crate::v2::codec::Put;
    use crate::v2::message::{InitProducerId, Request};
    use crate::v2::settings::{Compression, Settings};
    use crate::{KafkaBroker, KafkaConfig};

    /// Kafka counts 32,767 epochs, one a transaction, and then gives another producer id.
    #[tokio::test(flavor = "multi_thread")]
    async fn transactions_go_on_when_the_epochs_of_a_producer_id_run_out() {
        let config = KafkaConfig::plaintext(kafka::shared().unwrap().bootstrap());
        let source = SourceName::new("epochs").unwrap();
        let broker = KafkaBroker::new(config.clone()).unwrap();
        broker.ensure_progress_topic(&source).await.unwrap();
        let settings = || Settings::read(&config, Compression::None).unwrap();
        let mut first = V2Publisher::open(settings(), &source).await.unwrap();
        use_up_epochs(&mut first, 32_750).await;

        let mut publisher = V2Publisher::open(settings(), &source).await.unwrap();
        let begun = publisher.producer;
        assert!(begun.epoch > 32_750, "{begun:?}");
        for position in 1..=40 {
            let mut progress = ProgressRecord::genesis(
                SourceId(uuid::Uuid::nil()),
                1,
                Cursor::Sqlite(SqliteCursor { seq: position }),
            );
            progress.position = position;
            let outcome = publisher.publish(&Records::new(0), &progress).await;
            assert!(
                matches!(outcome, PublishOutcome::Committed { .. }),
                "{outcome:?}"
            );
        }
        assert_ne!(publisher.producer.id, begun.id);
        assert!(publisher.producer.epoch < 40, "{:?}", publisher.producer);
        let known = broker.read_progress(&source, None).await.unwrap();
        assert_eq!(known.record.unwrap().1.position, 40);
        let known = Arc::new(
            first
                .publish(
                    &Records::new(0),
                    &ProgressRecord::genesis(
                        SourceId(uuid::Uuid::nil()),
                        1,
                        Cursor::Sqlite(SqliteCursor { seq: 0 }),
                    ),
                )
                .await,
        );
        assert!(matches!(*known, PublishOutcome::Fenced), "{known:?}");
    }

    /// Initialises again and again, many requests under way at a time.
    async fn use_up_epochs(publisher: &mut V2Publisher, up_to: i16) {
        let until = Instant::now() + Duration::from_secs(120);
        publisher.cluster.coordinator(until).await.unwrap();
        let mut left = up_to - publisher.producer.epoch;
        while left > 0 {
            let connection = publisher.cluster.coordinator_connection().unwrap();
            let now = left.min(200);
            for _ in 0..now {
                let mut out = Vec::new();
                connection.begin(&mut out, InitProducerId::KEY, InitProducerId::VERSION, true);
                out.put_text(&publisher.transactional_id);
                out.put_i32(10_000);
                out.put_i64(-1);
                out.put_i16(-1);
                out.put_no_tags();
                connection.send(&mut out, until).await.unwrap();
            }
            for _ in 0..now {
                let mut answer = connection.receive(true, until).await.unwrap();
                let (error, _) = InitProducerId::read(&mut answer).unwrap();
                assert_eq!(error, 0);
            }
            left -= now;
        }
    }
}
