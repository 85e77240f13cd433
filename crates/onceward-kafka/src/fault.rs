//! What Kafka's error codes mean to us, decided in one place.

use onceward::publisher::BrokerError;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::ConfigProblems;

/// The kinds of trouble we act on differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A record itself: too large or invalid.
    Record,
    /// A topic is missing or may not be used.
    Topic,
    /// A newer producer with our transactional id.
    Fenced,
    /// Rights, passwords, settings: only a person can mend it.
    Configuration,
    /// Everything else: brokers or network; it may pass.
    Transient,
}

/// Sorts an error code.
pub(crate) fn fault(code: RDKafkaErrorCode) -> Fault {
    use RDKafkaErrorCode as C;
    match code {
        C::MessageSizeTooLarge
        | C::InvalidMessage
        | C::InvalidMessageSize
        | C::MessageBatchTooLarge
        | C::InvalidRecord
        | C::BadMessage => Fault::Record,
        C::UnknownTopic
        | C::UnknownTopicOrPartition
        | C::UnknownPartition
        | C::InvalidTopic
        | C::UnknownTopicId
        | C::TopicAuthorizationFailed => Fault::Topic,
        C::Fenced | C::ProducerFenced | C::InvalidProducerEpoch => Fault::Fenced,
        C::ClusterAuthorizationFailed
        | C::GroupAuthorizationFailed
        | C::TransactionalIdAuthorizationFailed
        | C::Authentication
        | C::SaslAuthenticationFailed
        | C::UnsupportedSASLMechanism
        | C::IllegalSASLState
        | C::SSL
        // Records carry the relay's own clock: no record is to blame for it.
        | C::InvalidTimestamp
        | C::InvalidTransactionTimeout
        | C::InvalidReplicationFactor
        | C::InvalidConfig
        | C::InvalidArgument
        | C::PolicyViolation
        | C::UnsupportedVersion
        | C::UnsupportedFeature
        | C::SecurityDisabled => Fault::Configuration,
        _ => Fault::Transient,
    }
}

/// An error code in words that name the right that is missing, where one is.
pub(crate) fn in_words(code: RDKafkaErrorCode, doing: &str) -> String {
    use RDKafkaErrorCode as C;
    match code {
        C::TopicAuthorizationFailed => format!(
            "{doing}: not authorized; this user needs the topic's ACLs DESCRIBE, READ and WRITE \
             (and CREATE or ALTER where topics are made)"
        ),
        C::TransactionalIdAuthorizationFailed => format!(
            "{doing}: not authorized; this user needs the ACLs WRITE and DESCRIBE on the \
             transactional id"
        ),
        C::GroupAuthorizationFailed => {
            format!("{doing}: not authorized; this user needs the ACL READ on the consumer group")
        }
        C::ClusterAuthorizationFailed => format!(
            "{doing}: not authorized; this user needs a cluster ACL (CREATE to make topics, \
             IDEMPOTENT_WRITE on old brokers)"
        ),
        C::Authentication | C::SaslAuthenticationFailed => {
            format!("{doing}: Kafka refused the user name or password")
        }
        C::SSL => format!("{doing}: TLS handshake failed"),
        C::InvalidTimestamp => format!(
            "{doing}: Kafka refuses the time of publishing; the clocks of relay and broker differ, or \
             message.timestamp.before.max.ms or …after.max.ms is too small"
        ),
        _ => format!("{doing}: {code}"),
    }
}

/// Whether Kafka says that a right is missing.
pub(crate) fn is_denied(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as C;
    matches!(
        code,
        C::TopicAuthorizationFailed
            | C::GroupAuthorizationFailed
            | C::TransactionalIdAuthorizationFailed
            | C::ClusterAuthorizationFailed
    )
}

/// The sentence for a missing right, which the caller knows: `READ on topic order.created`.
pub(crate) fn denied(doing: &str, need: &str) -> String {
    format!("{doing}: not authorized; this user needs the ACL {need}")
}

/// [`broker_error`], naming the right that the request needs if that is what is missing.
pub(crate) fn broker_error_needing(code: RDKafkaErrorCode, doing: &str, need: &str) -> BrokerError {
    if is_denied(code) {
        BrokerError::Configuration(denied(doing, need))
    } else {
        broker_error(code, doing)
    }
}

/// [`kafka_error`], naming the right that the request needs if that is what is missing.
pub(crate) fn kafka_error_needing(error: &KafkaError, doing: &str, need: &str) -> BrokerError {
    let code = match error {
        KafkaError::Transaction(inner) => Some(inner.code()),
        other => other.rdkafka_error_code(),
    };
    match code {
        Some(code) if is_denied(code) => BrokerError::Configuration(denied(doing, need)),
        _ => kafka_error(error, doing),
    }
}

/// A code as the error that stops or delays the relay.
pub(crate) fn broker_error(code: RDKafkaErrorCode, doing: &str) -> BrokerError {
    match fault(code) {
        Fault::Fenced => BrokerError::Fenced,
        Fault::Topic | Fault::Configuration | Fault::Record => {
            BrokerError::Configuration(in_words(code, doing))
        }
        Fault::Transient => BrokerError::Unavailable(in_words(code, doing)),
    }
}

/// The same from the wrapper's error.
pub(crate) fn kafka_error(error: &KafkaError, doing: &str) -> BrokerError {
    match error {
        KafkaError::ClientConfig(_, text, name, _) => {
            // Never the value: it may be a secret.
            BrokerError::Configuration(format!("{doing}: property {name}: {text}"))
        }
        KafkaError::ClientCreation(text) => BrokerError::Configuration(format!("{doing}: {text}")),
        KafkaError::Transaction(inner) => match fault(inner.code()) {
            Fault::Fenced => BrokerError::Fenced,
            Fault::Transient => BrokerError::Unavailable(format!("{doing}: {}", inner.string())),
            _ => BrokerError::Configuration(in_words(inner.code(), doing)),
        },
        other => match other.rdkafka_error_code() {
            Some(code) => broker_error(code, doing),
            None => BrokerError::Unavailable(format!("{doing}: {other}")),
        },
    }
}

/// A configuration that can't be used.
pub(crate) fn config_error(problems: &ConfigProblems) -> BrokerError {
    BrokerError::Configuration(format!("Kafka configuration: {problems}"))
}
