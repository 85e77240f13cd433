//! Loud stops: what happened, and what a person can do.

use onceward::error_chain;
use onceward::publisher::BrokerError;
use onceward::source::SourceError;

/// Why a source needs a person.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    pub(crate) reason: String,
    pub(crate) way_out: String,
}

const RESET: &str = "find out what happened to the database or to Kafka; then `onceward source \
                     check`, and `onceward source reset` starts a new epoch from what the database holds; then \
                     restart the relay";

impl Stop {
    pub(super) fn new(reason: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            way_out: way_out.into(),
        }
    }

    pub(super) fn bug(what: &str) -> Self {
        Self::new(
            format!("bug: {what}"),
            "restart the relay, and report this line",
        )
    }

    pub(super) fn mirror_missing(topic: &str, passed: i64) -> Self {
        Self::new(
            format!(
                "{topic} tells of {passed} rows passed, but the database has no mirror of any: it \
                 was restored or swapped"
            ),
            RESET,
        )
    }

    pub(super) fn repartitioned(topic: &str, before: i32, now: i32) -> Self {
        Self::new(
            format!("keyed topic {topic} has {now} partitions, it had {before}: keys would move"),
            format!(
                "let every consumer of {topic} drain it, then start the relay once with \
                 --accept-repartitioned {topic}"
            ),
        )
    }

    pub(super) fn broker(error: &BrokerError) -> Self {
        let way_out = match error {
            BrokerError::HangingTransaction { .. } => {
                "abort it with kafka-transactions.sh abort; the source then goes on by itself"
            }
            BrokerError::Unreadable { .. } => {
                "run a relay at least as new as the one that wrote it"
            }
            BrokerError::Configuration(_) | BrokerError::Unavailable(_) | BrokerError::Fenced => {
                "mend what `outbox-relay check` shows; the source goes on by itself"
            }
        };
        Self::new(error.to_string(), way_out)
    }

    pub(super) fn source(error: &SourceError) -> Self {
        match error {
            SourceError::Lost(loss) => Self::new(
                loss.to_string(),
                format!("{}; then restart the relay", loss.way_out()),
            ),
            other => Self::new(
                error_chain(other),
                "mend what `outbox-relay check` shows, then restart the relay",
            ),
        }
    }
}
