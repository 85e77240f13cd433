//! One Kafka transaction, from begin to a known (or known to be unknown) end.
//!
//! ```text
//! begin ─ send all ─ wait for every report ─┬─ all there ─ commit ─┬─ ok ──── Committed { dirty? }
//!                                           │                     ├─ fenced  Fenced
//!                                           │                     └─ else ── Unknown
//!                                           └─ one failed ─ abort ┬─ ok, clean, cause known  NotCommitted
//!                                                                 ├─ fenced                  Fenced
//!                                                                 └─ else                    Unknown
//! ```
//! A dirty producer begins no further transaction: see [`crate::watch`].

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use onceward::publisher::{PublishOutcome, Records, Refusal};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, PurgeConfig};

use crate::fault::{Fault, denied, fault, in_words, is_denied};
use crate::publisher::{Context, Deliveries, TRANSACTION_TIMEOUT, drain, resume};
use crate::watch::MAY_HAVE_RETRIED;

/// How long an abort may take; longer makes the outcome unknown.
const ABORT_AT_MOST: Duration = Duration::from_secs(5);
/// How long a commit waits between two looks at whether the producer is dirty.
const LOOK_FOR_DIRT: Duration = Duration::from_millis(200);
/// Slack for librdkafka to fail what is older than `message.timeout.ms`.
const DELIVERY_AT_MOST: Duration = Duration::from_secs(9);

/// The progress record of a transaction.
#[derive(Clone, Copy)]
pub(crate) struct ProgressToSend<'a> {
    pub(crate) topic: &'a str,
    pub(crate) key: &'a str,
    pub(crate) value: &'a [u8],
}

/// Publishes rows and progress in one transaction; blocks until the outcome is known.
pub(crate) fn publish(
    producer: &BaseProducer<Context>,
    records: &Records,
    progress: ProgressToSend<'_>,
) -> PublishOutcome {
    let context = producer.context();
    drain(producer);
    let mut outcome = attempt(producer, records, progress);
    if let Attempt::SequenceGap(_) = outcome {
        // A record that the broker refused leaves a gap in its partition's sequence numbers, which
        // fails the next transaction there; librdkafka then makes a new epoch, and all is well. That
        // transaction is known to be aborted, so this is what the caller would do next.
        outcome = attempt(producer, records, progress);
    }
    context.ended();
    match outcome {
        Attempt::Ended(outcome) => outcome,
        Attempt::SequenceGap(reason) => PublishOutcome::Unknown(reason),
    }
}

/// How one try ended.
enum Attempt {
    /// With an outcome.
    Ended(PublishOutcome),
    /// Cleanly aborted, because an earlier refusal left a gap.
    SequenceGap(String),
}

fn attempt(
    producer: &BaseProducer<Context>,
    records: &Records,
    progress: ProgressToSend<'_>,
) -> Attempt {
    let context = producer.context();
    if let Some(reason) = context.watch.dirt() {
        let reason = format!("dirty producer: {reason}");
        return Attempt::Ended(PublishOutcome::Unknown(reason));
    }
    context.begin(records.len());
    if let Err(error) = producer.begin_transaction() {
        return Attempt::Ended(ended_badly(&error, "begin"));
    }
    match send_all(producer, records, progress) {
        Ok(()) => Attempt::Ended(commit(producer, records.len())),
        Err(failure) => abort(producer, records, progress.topic, failure),
    }
}

/// Why a transaction can't be committed.
enum Failure {
    /// See the reports.
    Reported,
    /// librdkafka failed the transaction as a whole.
    Transaction(RDKafkaErrorCode, String),
    /// Records neither arrived nor failed in time.
    Stuck(&'static str),
}

fn send_all(
    producer: &BaseProducer<Context>,
    records: &Records,
    progress: ProgressToSend<'_>,
) -> Result<(), Failure> {
    let deadline = Instant::now() + DELIVERY_AT_MOST;
    for (index, record) in records.iter().enumerate() {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers().len());
        for (name, value) in record.headers() {
            headers = headers.insert(Header {
                key: name,
                value: Some(value),
            });
        }
        let mut outgoing = BaseRecord::with_opaque_to(&record.destination.topic, index)
            .partition(record.destination.partition)
            .payload(record.payload())
            .timestamp(records.timestamp_ms())
            .headers(headers);
        outgoing.key = record.key();
        send(producer, outgoing, index, deadline)?;
        // Serve reports on the way, else those of a large batch pile up.
        if index % 1024 == 1023 {
            producer.poll(Duration::ZERO);
            if with_deliveries(producer, |deliveries| deliveries.failed.is_some()) {
                return Err(Failure::Reported);
            }
        }
    }
    let index = records.len();
    let outgoing = BaseRecord::<str, [u8], usize>::with_opaque_to(progress.topic, index)
        .partition(0)
        .key(progress.key)
        .payload(progress.value);
    send(producer, outgoing, index, deadline)?;
    wait_for_reports(producer, deadline)?;
    with_deliveries(producer, |deliveries| {
        let all = deliveries.acknowledged == records.len() + 1;
        if deliveries.failed.is_none() && all && deliveries.progress_offset.is_some() {
            Ok(())
        } else {
            Err(Failure::Reported)
        }
    })
}

fn send<K: rdkafka::message::ToBytes + ?Sized>(
    producer: &BaseProducer<Context>,
    mut record: BaseRecord<'_, K, [u8], usize>,
    index: usize,
    deadline: Instant,
) -> Result<(), Failure> {
    loop {
        let Err((error, returned)) = producer.send(record) else {
            return Ok(());
        };
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
        if code != RDKafkaErrorCode::QueueFull {
            with_deliveries(producer, |deliveries| deliveries.fail(index, code));
            return Err(Failure::Reported);
        }
        if Instant::now() > deadline {
            return Err(Failure::Stuck("the send queue stays full"));
        }
        producer.poll(Duration::from_millis(1));
        record = returned;
    }
}

/// Until nothing is under way. Not `flush()`: it sleeps in steps of 100 ms.
fn wait_for_reports(producer: &BaseProducer<Context>, deadline: Instant) -> Result<(), Failure> {
    let mut look_at = Instant::now() + Duration::from_millis(20);
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(1));
        let now = Instant::now();
        if now > deadline {
            return Err(Failure::Stuck("records were not acknowledged in time"));
        }
        // What waits for a lost connection would be sent again after a while, for a commit that a
        // dirty producer had better not send.
        if producer.context().watch.dirt().is_some() {
            return Err(Failure::Stuck("a connection was lost"));
        }
        // Records of a transaction that failed as a whole (rights, expired producer id) would wait
        // in the queue for their time-out; ask for its state instead.
        if now > look_at {
            if let Some((code, text)) = transaction_error(producer) {
                return Err(Failure::Transaction(code, text));
            }
            look_at = now + Duration::from_millis(20);
        }
    }
    Ok(())
}

/// The error that failed the open transaction. A second `begin_transaction` changes nothing: it
/// answers with that error, or with `State` while the transaction is fine.
fn transaction_error(producer: &BaseProducer<Context>) -> Option<(RDKafkaErrorCode, String)> {
    match producer.begin_transaction() {
        Err(KafkaError::Transaction(error)) if error.code() != RDKafkaErrorCode::State => {
            Some((error.code(), error.string()))
        }
        _ => None,
    }
}

fn commit(producer: &BaseProducer<Context>, progress_index: usize) -> PublishOutcome {
    let watch = &producer.context().watch;
    let start = Instant::now();
    // CRASH: before this the transaction is open and Kafka aborts it: rows come again. After it rows
    // and progress are both visible: the next owner reads progress and goes on behind them.
    // Given up when the producer becomes dirty: a new one finds out how it ended, and is quicker to be back
    // than librdkafka's own retries, which wait for `RETRY_BACKOFF_MS` each.
    let result = resume(
        producer,
        TRANSACTION_TIMEOUT,
        || producer.commit_transaction(LOOK_FOR_DIRT),
        |error| error.code() == RDKafkaErrorCode::OperationTimedOut && watch.dirt().is_none(),
    );
    let took = start.elapsed();
    if let Err(error) = result {
        // Even an "abortable" error here is not "not committed".
        return match (ended_badly(&error, "commit"), watch.dirt()) {
            (PublishOutcome::Unknown(_), Some(reason)) => {
                PublishOutcome::Unknown(format!("dirty producer: {reason}"))
            }
            (outcome, _) => outcome,
        };
    }
    if took > MAY_HAVE_RETRIED {
        // Long enough to have been sent twice, or just a busy broker: the counts tell. To wait for
        // them costs less than to take over anew, which on a busy machine would come again and again.
        wait_for_statistics(producer);
    }
    match with_deliveries(producer, |deliveries| deliveries.progress_offset) {
        Some(progress_offset) => PublishOutcome::Committed {
            progress_offset,
            dirty: watch.dirt().is_some(),
        },
        None => PublishOutcome::Unknown(format!("no report for record {progress_index}")),
    }
}

fn abort(
    producer: &BaseProducer<Context>,
    records: &Records,
    progress_topic: &str,
    failure: Failure,
) -> Attempt {
    let watch = &producer.context().watch;
    let whole = match &failure {
        Failure::Transaction(code, text) => Some((*code, text.clone())),
        _ => transaction_error(producer),
    };
    if whole
        .as_ref()
        .is_some_and(|(code, _)| fault(*code) == Fault::Fenced)
    {
        return Attempt::Ended(PublishOutcome::Fenced);
    }
    if with_deliveries(producer, |deliveries| {
        deliveries.failed == Some(RDKafkaErrorCode::MessageTimedOut)
    }) {
        watch.soil("records timed out");
    }
    if let Some(reason) = watch.dirt() {
        // Not even an abort, whose EndTxn could be late as well: the next producer's init aborts.
        let reason = format!("dirty producer: {reason}");
        return Attempt::Ended(PublishOutcome::Unknown(reason));
    }
    // Abort waits for every record under way but doesn't serve their reports: do it before.
    producer.purge(PurgeConfig::default().queue());
    let deadline = Instant::now() + ABORT_AT_MOST;
    while producer.in_flight_count() > 0 && Instant::now() < deadline {
        producer.poll(Duration::from_millis(1));
    }
    let start = Instant::now();
    // CRASH: Kafka aborts by its time-out what was not aborted; nothing was visible.
    let result = producer.abort_transaction(ABORT_AT_MOST);
    drain(producer);
    if start.elapsed() > MAY_HAVE_RETRIED {
        // As with a commit; and an abort makes a new epoch where a refused record left a gap.
        wait_for_statistics(producer);
    }
    let (refused, failed) = with_deliveries(producer, |deliveries| {
        (deliveries.refused, deliveries.failed)
    });
    if refused.is_some_and(|(_, code)| fault(code) == Fault::Fenced) {
        return Attempt::Ended(PublishOutcome::Fenced);
    }
    if let Err(error) = result {
        let ended = ended_badly(&error, "abort");
        // Kafka has no transaction to abort if it refused to open one: the refusal is the news.
        return Attempt::Ended(
            match (ended, refusal(records, progress_topic, refused, whole)) {
                (PublishOutcome::Unknown(text), Some(cause)) => {
                    PublishOutcome::Unknown(format!("{cause}; {text}"))
                }
                (ended, _) => ended,
            },
        );
    }
    let told = match (&failure, &whole, failed) {
        (Failure::Stuck(text), ..) => (*text).to_owned(),
        (_, Some((_, text)), _) => text.clone(),
        (_, _, Some(code)) => code.to_string(),
        _ => "not every record was acknowledged".to_owned(),
    };
    // A late EndTxn could end the next transaction: the refusal is seen again after a take-over.
    if let Some(reason) = watch.dirt() {
        let reason = format!("{told}; dirty producer: {reason}");
        return Attempt::Ended(PublishOutcome::Unknown(reason));
    }
    let is_gap = matches!(
        &whole,
        Some((RDKafkaErrorCode::OutOfOrderSequenceNumber, _))
    );
    match refusal(records, progress_topic, refused, whole) {
        Some(refusal) => Attempt::Ended(PublishOutcome::NotCommitted(refusal)),
        None if is_gap => Attempt::SequenceGap(told),
        None => Attempt::Ended(PublishOutcome::Unknown(told)),
    }
}

/// Waits for counts taken after now; without them nothing is known to be clean. A request is sent
/// again only after it timed out, was not sent whole, or lost its connection, and each of these is
/// counted before that. The caller has drained the queue, so no older counts wait in it.
pub(crate) fn wait_for_statistics(producer: &BaseProducer<Context>) {
    let watch = &producer.context().watch;
    let count = watch.statistics_count();
    let deadline = Instant::now() + Duration::from_secs(3);
    while watch.statistics_count() == count {
        if Instant::now() > deadline {
            return watch.soil("no statistics came");
        }
        producer.poll(Duration::from_millis(10));
    }
}

/// Whose fault a failed transaction is; `None` where that can't be told (an expired producer id, a
/// sequence out of order): then the producer is not used again.
fn refusal(
    records: &Records,
    progress_topic: &str,
    refused: Option<(usize, RDKafkaErrorCode)>,
    whole: Option<(RDKafkaErrorCode, String)>,
) -> Option<Refusal> {
    use RDKafkaErrorCode as C;
    let words = |code, topic: &str| match is_denied(code) {
        true => denied("publish", &format!("WRITE on topic {topic}")),
        false => in_words(code, "publish"),
    };
    if let Some((index, code)) = refused {
        let record = records.get(index);
        let reason = words(
            code,
            record.map_or(progress_topic, |record| &record.destination.topic),
        );
        let Some(record) = record else {
            return match fault(code) {
                Fault::Record | Fault::Topic | Fault::Configuration => {
                    Some(Refusal::Progress(format!("{progress_topic}: {reason}")))
                }
                _ => outage(code, reason),
            };
        };
        let topic = record.destination.topic.to_string();
        return match fault(code) {
            Fault::Record => Some(Refusal::Record { index, reason }),
            Fault::Topic | Fault::Configuration => Some(Refusal::Topic { topic, reason }),
            _ => outage(code, reason),
        };
    }
    let (code, text) = whole?;
    match code {
        // Of the whole transaction Kafka doesn't say which topic; its text may.
        C::TopicAuthorizationFailed => {
            let topic = match topics_of(records).as_str() {
                "" => progress_topic.to_owned(),
                topics => {
                    let topics = topics.replace(", ", ", topic ");
                    format!("{progress_topic}, topic {topics} (Kafka does not say on which)")
                }
            };
            let reason = format!("{} ({text})", words(code, &topic));
            Some(of_topics(records, reason))
        }
        C::UnknownTopicOrPartition => Some(of_topics(
            records,
            format!("{} ({text})", in_words(code, "publish")),
        )),
        C::TransactionalIdAuthorizationFailed | C::ClusterAuthorizationFailed => Some(
            Refusal::Progress(format!("{} ({text})", in_words(code, "publish"))),
        ),
        _ => outage(code, text),
    }
}

/// Kafka's own words for "not now", after which the same producer may go on.
fn outage(code: RDKafkaErrorCode, reason: String) -> Option<Refusal> {
    use RDKafkaErrorCode as C;
    matches!(
        code,
        C::NotEnoughReplicas
            | C::NotEnoughReplicasAfterAppend
            | C::LeaderNotAvailable
            | C::NotLeaderForPartition
            | C::BrokerNotAvailable
            | C::ReplicaNotAvailable
            | C::ISRInsufficient
            | C::KafkaStorageError
            | C::MessageTimedOut
            | C::QueueFull
    )
    .then_some(Refusal::Outage(reason))
}

fn topics_of(records: &Records) -> String {
    let mut topics: Vec<&str> = records.destinations().iter().map(|to| &*to.topic).collect();
    topics.sort_unstable();
    topics.dedup();
    topics.join(", ")
}

/// A transaction was refused for one of its topics; without records only progress is left to blame.
fn of_topics(records: &Records, reason: String) -> Refusal {
    match topics_of(records) {
        topics if topics.is_empty() => Refusal::Progress(reason),
        topic => Refusal::Topic { topic, reason },
    }
}

/// An error of begin, commit or abort: fenced, or an end that isn't known.
fn ended_badly(error: &KafkaError, doing: &str) -> PublishOutcome {
    let (code, text) = match error {
        KafkaError::Transaction(inner) => (Some(inner.code()), inner.string()),
        other => (other.rdkafka_error_code(), other.to_string()),
    };
    if code.is_some_and(|code| fault(code) == Fault::Fenced) {
        return PublishOutcome::Fenced;
    }
    PublishOutcome::Unknown(format!("{doing}: {text}"))
}

fn with_deliveries<T>(
    producer: &BaseProducer<Context>,
    ask: impl FnOnce(&mut Deliveries) -> T,
) -> T {
    let mut deliveries = producer
        .context()
        .deliveries
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    ask(&mut deliveries)
}
