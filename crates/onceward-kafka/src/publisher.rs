//! The relay's transactional producer. A `BaseProducer` lives on a thread of its own; transactions go
//! to it and outcomes come back through channels (`ThreadedProducer` or `flush()` would cost 100 ms a
//! commit). Dropping [`RdKafkaPublisher`] closes the channel; the thread ends by itself, so nothing
//! waits for a dead broker.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use onceward::publisher::{BrokerError, PublishOutcome, Publisher, Records};
use onceward::{ProgressRecord, SourceName};
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use tokio::sync::oneshot;

use crate::fault::{kafka_error, kafka_error_needing};
use crate::transaction::{ProgressToSend, publish, wait_for_statistics};
use crate::trouble::Trouble;
use crate::watch::{RETRY_BACKOFF_MS, Watch};

/// `transaction.timeout.ms`: what a killed relay leaves open is aborted by Kafka after this.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(10);
/// `message.timeout.ms`: below the transaction's, so that records fail before their transaction does.
const MESSAGE_TIMEOUT_MS: u64 = 8_000;
/// How long `init_transactions` may take; Kafka first ends what the fenced producer left open.
const INIT_AT_MOST: Duration = Duration::from_secs(15);
/// How often `init_transactions` is asked for.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long an open waits for a broker; the caller begins anew.
const CONNECT_AT_MOST: Duration = Duration::from_secs(5);
/// How often an idle producer looks at its connections' events, so that they don't pile up.
const IDLE_LOOK: Duration = Duration::from_millis(500);

/// A transactional producer of one source, by rdkafka. See [`Publisher`].
#[derive(Debug)]
pub struct RdKafkaPublisher {
    source: SourceName,
    commands: Sender<Command>,
}

struct Command {
    records: Arc<Records>,
    progress_key: String,
    progress: Vec<u8>,
    answer: oneshot::Sender<PublishOutcome>,
}

impl Publisher for RdKafkaPublisher {
    async fn publish(
        &mut self,
        records: &Arc<Records>,
        progress: &ProgressRecord,
    ) -> PublishOutcome {
        let progress_key = progress.key(self.source.as_str()).into_owned();
        let progress = match serde_json::to_vec(progress) {
            Ok(bytes) => bytes,
            Err(error) => return PublishOutcome::Unknown(format!("progress as JSON: {error}")),
        };
        let (answer, outcome) = oneshot::channel();
        let command = Command {
            records: Arc::clone(records),
            progress_key,
            progress,
            answer,
        };
        if self.commands.send(command).is_err() {
            return PublishOutcome::Unknown("the producer's thread has ended".into());
        }
        outcome.await.unwrap_or_else(|_| {
            PublishOutcome::Unknown("the producer's thread ended in a transaction".into())
        })
    }
}

impl RdKafkaPublisher {
    /// Starts the thread, makes the producer there and initialises its transactions.
    pub(crate) async fn open(
        config: ClientConfig,
        source: &SourceName,
    ) -> Result<Self, BrokerError> {
        let (commands, receiver) = channel();
        let (opened, answer) = oneshot::channel();
        let its = source.clone();
        std::thread::Builder::new()
            .name(format!("publish {source}"))
            .spawn(move || run(config, &its, opened, &receiver))
            .map_err(|error| BrokerError::Unavailable(format!("starting a thread: {error}")))?;
        match answer.await {
            Ok(Ok(())) => Ok(Self {
                source: source.clone(),
                commands,
            }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(BrokerError::Unavailable(
                "the producer's thread ended while opening".into(),
            )),
        }
    }
}

/// The thread: opens, then publishes one transaction after another until nobody asks any more.
fn run(
    config: ClientConfig,
    source: &SourceName,
    opened: oneshot::Sender<Result<(), BrokerError>>,
    commands: &Receiver<Command>,
) {
    let producer = match open(config, source) {
        Ok(producer) => producer,
        Err(error) => {
            let _ = opened.send(Err(error));
            return;
        }
    };
    if opened.send(Ok(())).is_err() {
        return;
    }
    let topic = source.progress_topic();
    loop {
        match commands.recv_timeout(IDLE_LOOK) {
            Ok(command) => {
                let progress = ProgressToSend {
                    topic: &topic,
                    key: &command.progress_key,
                    value: &command.progress,
                };
                producer.context().in_use.store(true, Ordering::Release);
                let outcome = publish(&producer, &command.records, progress);
                // Before the answer: the caller takes the records' memory back.
                drop(command.records);
                // CRASH: the answer is lost, the transaction's outcome stands in the progress topic;
                // whoever takes over reads it there.
                let _ = command.answer.send(outcome);
            }
            Err(RecvTimeoutError::Timeout) => {
                producer.poll(Duration::from_millis(1));
                let context = producer.context();
                // Statistics tell of what was up to some time ago.
                if context.idle_since().elapsed() > Duration::from_secs(3) {
                    context.in_use.store(false, Ordering::Release);
                }
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn open(
    mut config: ClientConfig,
    source: &SourceName,
) -> Result<BaseProducer<Context>, BrokerError> {
    config
        .set("transactional.id", source.transactional_id())
        .set(
            "transaction.timeout.ms",
            TRANSACTION_TIMEOUT.as_millis().to_string(),
        )
        .set("message.timeout.ms", MESSAGE_TIMEOUT_MS.to_string())
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "0")
        .set("socket.nagle.disable", "true")
        // A topic that does not exist is told within two seconds, not thirty.
        .set("topic.metadata.propagation.max.ms", "2000")
        .set("retry.backoff.ms", RETRY_BACKOFF_MS.to_string())
        .set("retry.backoff.max.ms", "1000")
        // A slow commit waits for the next ones.
        .set("statistics.interval.ms", "250")
        // Lost connections are logged at this level; the watch needs every one of them.
        .set("log.connection.close", "true")
        .set_log_level(RDKafkaLogLevel::Info);
    let doing = format!("opening the producer of {source}");
    let producer: BaseProducer<Context> = config
        .create_with_context(Context::default())
        .map_err(|error| kafka_error(&error, &doing))?;
    connect(&producer, &config, source, &doing)?;
    // CRASH: older producers are fenced and what they left open is aborted; nothing else changed.
    // Asked for again and again: left to itself librdkafka asks every 500 ms, and Kafka refuses the first
    // times while it ends what the fenced producer left open.
    let init = || producer.init_transactions(ASK_AGAIN);
    if let Err(error) = resume(&producer, INIT_AT_MOST, init, RDKafkaError::is_retriable) {
        return Err(match producer.context().watch.trouble(&config) {
            Some(Trouble::Refused(text)) => BrokerError::Configuration(format!("{doing}: {text}")),
            Some(Trouble::Perhaps(text)) => BrokerError::Unavailable(format!("{doing}: {text}")),
            None => {
                let need = format!("WRITE on transactional id {}", source.transactional_id());
                kafka_error_needing(&error, &doing, &need)
            }
        });
    }
    // What happened before the first transaction can't harm it: nothing was to be ended. Connections ended
    // on the way here, so their counts are waited for, or the first transaction would pay for them.
    wait_for_statistics(&producer);
    producer.context().watch.cleanse();
    Ok(producer)
}

/// Repeats a call of librdkafka's that goes on where it was when it is repeated, until it ends in
/// another way or `at_most` is over. Between two the waiting events are served.
pub(crate) fn resume(
    producer: &BaseProducer<Context>,
    at_most: Duration,
    call: impl Fn() -> KafkaResult<()>,
    goes_on: impl Fn(&RDKafkaError) -> bool,
) -> KafkaResult<()> {
    let deadline = Instant::now() + at_most;
    loop {
        let result = call();
        drain(producer);
        match &result {
            Err(KafkaError::Transaction(error)) if goes_on(error) && Instant::now() < deadline => {}
            _ => return result,
        }
    }
}

/// Connects first: librdkafka looks for the transactions' coordinator at once if a broker is up, and
/// else only every 500 ms. The first answer comes from a bootstrap server, whose connection ends with
/// it; the second one from a broker that is up.
fn connect(
    producer: &BaseProducer<Context>,
    config: &ClientConfig,
    source: &SourceName,
    doing: &str,
) -> Result<(), BrokerError> {
    let topic = source.progress_topic();
    let deadline = Instant::now() + CONNECT_AT_MOST;
    let mut answers = 0;
    while answers < 2 {
        let asked = producer
            .client()
            .fetch_metadata(Some(&topic), Duration::from_millis(500));
        drain(producer);
        let Err(error) = asked else {
            answers += 1;
            continue;
        };
        match producer.context().watch.trouble(config) {
            Some(Trouble::Refused(cause)) => {
                return Err(BrokerError::Configuration(format!("{doing}: {cause}")));
            }
            trouble if Instant::now() > deadline => {
                return Err(BrokerError::Unavailable(match trouble {
                    Some(Trouble::Perhaps(cause)) => format!("{doing}: {cause}"),
                    _ => format!("{doing}: {error}"),
                }));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Serves every event that waits: logs, errors, statistics, delivery reports.
pub(crate) fn drain(producer: &BaseProducer<Context>) {
    // `in_flight_count` is librdkafka's `outq_len`: records under way and events not served.
    for _ in 0..10_000 {
        if producer.in_flight_count() == 0 {
            return;
        }
        producer.poll(Duration::ZERO);
    }
}

/// What delivery reports said of the open transaction.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    /// Records acknowledged.
    pub(crate) acknowledged: usize,
    /// Offset of the progress record: the one with the highest index.
    pub(crate) progress_offset: Option<i64>,
    /// Index of the progress record.
    pub(crate) progress_index: usize,
    /// Failures that name a cause, by the lowest index.
    pub(crate) refused: Option<(usize, RDKafkaErrorCode)>,
    /// Any failure, the first.
    pub(crate) failed: Option<RDKafkaErrorCode>,
}

/// Receives the client's callbacks; all of them run in the thread's `poll`.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) watch: Watch,
    pub(crate) deliveries: Mutex<Deliveries>,
    last_use: Mutex<Instant>,
    in_use: AtomicBool,
}

impl Default for Context {
    fn default() -> Self {
        Self {
            watch: Watch::default(),
            deliveries: Mutex::default(),
            last_use: Mutex::new(Instant::now()),
            in_use: AtomicBool::new(false),
        }
    }
}

impl Context {
    /// Forgets the last transaction's reports. `progress_index`: how many records come before it.
    pub(crate) fn begin(&self, progress_index: usize) {
        let mut deliveries = self
            .deliveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *deliveries = Deliveries {
            progress_index,
            ..Deliveries::default()
        };
    }

    /// Notes that a transaction ended now.
    pub(crate) fn ended(&self) {
        *self.last_use.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn idle_since(&self) -> Instant {
        *self.last_use.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.watch.on_log(level, facility, text);
    }
    fn stats_raw(&self, json: &[u8]) {
        self.watch
            .on_statistics(json, self.in_use.load(Ordering::Acquire));
    }
    fn error(&self, error: KafkaError, reason: &str) {
        self.watch.on_error(&error, reason);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, report: &DeliveryResult<'_>, index: usize) {
        let mut deliveries = self
            .deliveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match report {
            Ok(message) => {
                deliveries.acknowledged += 1;
                if index == deliveries.progress_index {
                    deliveries.progress_offset = Some(message.offset());
                }
            }
            Err((error, _)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                deliveries.fail(index, code);
            }
        }
    }
}

impl Deliveries {
    /// Notes a failure. The rest of a failed transaction is purged: that names no cause.
    pub(crate) fn fail(&mut self, index: usize, code: RDKafkaErrorCode) {
        use RDKafkaErrorCode as C;
        self.failed.get_or_insert(code);
        let names_cause = !matches!(code, C::PurgeQueue | C::PurgeInflight | C::State);
        if names_cause && self.refused.is_none_or(|(lowest, _)| index < lowest) {
            self.refused = Some((index, code));
        }
    }
}
