//! Watches a client's connections. librdkafka resends requests by itself after a disconnect or a
//! time-out, an EndTxn too; the first one may still be on its way and would then end the *next*
//! transaction of the same epoch (KAFKA-17754). So whatever looks like one makes the producer dirty.
//!
//! Three independent signals, because each can miss one: librdkafka suppresses identical log and
//! error events for 30 s, statistics come late, and neither says anything of a resend as such. The
//! third is time: a resend waits for [`RETRY_BACKOFF_MS`] first, so a transaction that was ended faster
//! was ended by one request; one that took longer waits for the next statistics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use onceward::breach;
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use serde::Deserialize;

use crate::trouble::{Trouble, explain};

/// `retry.backoff.ms` of producers; librdkafka's jitter is 20 %.
pub(crate) const RETRY_BACKOFF_MS: u64 = 500;
/// An end of a transaction that took this long may have been sent twice.
pub(crate) const MAY_HAVE_RETRIED: Duration = Duration::from_millis(RETRY_BACKOFF_MS * 6 / 10);

/// What has been seen on a producer's connections since it was made.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    dirty: AtomicBool,
    first: Mutex<Option<String>>,
    /// The last event that may tell why a connection does not come about.
    told: Mutex<Option<(Option<RDKafkaErrorCode>, String)>>,
    counters: Mutex<BTreeMap<String, Counters>>,
    statistics: AtomicU64,
}

/// Counters of one connection that only grow when something went wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
struct Counters {
    #[serde(default)]
    txerrs: u64,
    #[serde(default)]
    rxerrs: u64,
    #[serde(default)]
    rxcorriderrs: u64,
    #[serde(default)]
    req_timeouts: u64,
    #[serde(default)]
    disconnects: u64,
}

#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    brokers: BTreeMap<String, Counters>,
}

impl Watch {
    /// Why this producer must begin no further transaction.
    pub(crate) fn dirt(&self) -> Option<String> {
        if !self.dirty.load(Ordering::Acquire) || breach::is_broken(breach::DIRTY_PRODUCER_ENDS) {
            return None;
        }
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        Some(first.clone().unwrap_or_default())
    }

    /// Makes it dirty; the first reason stays.
    pub(crate) fn soil(&self, reason: &str) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            tracing::debug!(reason, "producer is dirty");
            *first = Some(reason.to_owned());
        }
        self.dirty.store(true, Ordering::Release);
    }

    /// Forgets what was seen, but for the counts it goes on from.
    pub(crate) fn cleanse(&self) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        *first = None;
        self.dirty.store(false, Ordering::Release);
    }

    /// Why no connection comes about: a refused password shows up only here, the call that waits
    /// for the connection just times out. May connect to the broker to find out more.
    pub(crate) fn trouble(&self, config: &ClientConfig) -> Option<Trouble> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (code, text) = told.clone()?;
        drop(told);
        explain(config, code, &text)
    }

    fn note(&self, code: Option<RDKafkaErrorCode>, text: &str) {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some((code, text.to_owned()));
    }

    /// The error callback.
    pub(crate) fn on_error(&self, error: &KafkaError, reason: &str) {
        tracing::debug!(error = %error, reason, "Kafka client");
        let Some(code) = error.rdkafka_error_code() else {
            return self.soil(reason);
        };
        use RDKafkaErrorCode as C;
        // It follows upon an event that tells more.
        if code != C::AllBrokersDown {
            self.note(Some(code), reason);
        }
        let is_transport = matches!(
            code,
            C::BrokerTransportFailure
                | C::OperationTimedOut
                | C::TimedOutQueue
                | C::RequestTimedOut
                | C::NetworkException
                | C::SSL
                | C::Authentication
        );
        // A connection that was never made has carried nothing. What fails a transaction (fenced,
        // refused) is told by the transaction's own calls.
        if is_transport && !never_connected(reason) {
            self.soil(reason);
        }
    }

    /// The log callback: `FAIL` is a lost connection, `REQTMOUT` a request without an answer.
    pub(crate) fn on_log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        tracing::debug!(target: "librdkafka", ?level, facility, "{text}");
        if facility == "FAIL" {
            let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            // An event tells more: it has a code.
            let is_event = matches!(&*told, Some((Some(_), _)));
            drop(told);
            if !is_event {
                self.note(None, text);
            }
        }
        if (facility == "FAIL" && !never_connected(text)) || facility == "REQTMOUT" {
            self.soil(text);
        }
    }

    /// How many statistics came so far. The one that comes next tells of all that happened until now.
    pub(crate) fn statistics_count(&self) -> u64 {
        self.statistics.load(Ordering::Acquire)
    }

    /// The statistics callback. `in_use`: whether a transaction is open or ended a moment ago; an
    /// idle connection that the broker closes carries nothing.
    pub(crate) fn on_statistics(&self, json: &[u8], in_use: bool) {
        self.statistics.fetch_add(1, Ordering::AcqRel);
        let Ok(now) = serde_json::from_slice::<Statistics>(json) else {
            return self.soil("unreadable statistics");
        };
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, counted) in now.brokers {
            let before = counters.insert(name.clone(), counted).unwrap_or_default();
            if in_use && before != counted {
                self.soil(&format!(
                    "{name}: a request failed or timed out, says the count"
                ));
            }
        }
    }
}

/// Asks a failing connection what it fails of: refused passwords and certificates come as events to a
/// client that listens, while the calls of an admin client just time out. `None` if nothing is wrong,
/// or nothing but that no broker answers. Blocks up to 3 s, and 2 s more to look at a certificate.
pub(crate) fn why_unreachable(config: &ClientConfig) -> Option<Trouble> {
    let mut listening = config.clone();
    listening
        .set("group.id", "onceward")
        .set("log.connection.close", "true")
        .set_log_level(RDKafkaLogLevel::Info);
    let consumer: BaseConsumer<Listener> =
        listening.create_with_context(Listener::default()).ok()?;
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut perhaps = None;
    while Instant::now() < deadline {
        if consumer
            .fetch_metadata(None, Duration::from_millis(100))
            .is_ok()
        {
            return None;
        }
        let _ = consumer.poll(Duration::from_millis(50));
        match consumer.client().context().0.trouble(config) {
            Some(refused @ Trouble::Refused(_)) => return Some(refused),
            other => perhaps = other.or(perhaps),
        }
    }
    perhaps
}

#[derive(Default)]
struct Listener(Watch);

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.0.on_log(level, facility, text);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        self.0.on_error(&error, reason);
    }
}
impl ConsumerContext for Listener {}

/// librdkafka ends every such line with the state the connection was in.
fn never_connected(text: &str) -> bool {
    ["CONNECT", "TRY_CONNECT", "INIT", "DOWN"]
        .iter()
        .any(|state| text.contains(&format!("in state {state}")))
}

#[cfg(test)]
mod tests {
    use rdkafka::config::RDKafkaLogLevel;

    use super::Watch;

    const LOST: &str = "127.0.0.1:9092/1: Disconnected (after 1500ms in state UP)";
    const REFUSED: &str = "127.0.0.1:9092/1: Connect to ipv4#127.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)";

    #[test]
    fn a_lost_connection_is_dirt_and_one_that_was_never_made_is_not() {
        let watch = Watch::default();
        watch.on_log(RDKafkaLogLevel::Info, "FAIL", REFUSED);
        assert_eq!(watch.dirt(), None);
        watch.on_log(RDKafkaLogLevel::Info, "FAIL", LOST);
        assert_eq!(watch.dirt().as_deref(), Some(LOST));
    }

    #[test]
    fn a_disconnect_whose_log_line_was_suppressed_shows_in_the_counts() {
        let watch = Watch::default();
        let counted = |n: u32| format!(r#"{{"brokers":{{"b/1":{{"disconnects":{n}}}}}}}"#);
        watch.on_statistics(counted(2).as_bytes(), false);
        assert_eq!(watch.dirt(), None, "nothing was under way");
        watch.on_statistics(counted(3).as_bytes(), true);
        assert!(watch.dirt().is_some());
    }
}
