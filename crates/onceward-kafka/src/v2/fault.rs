//! What Kafka's error codes mean to this producer, decided in one place.

use std::fmt;

/// An error code as Kafka sends it; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code(pub(super) i16);

/// The kinds of trouble this producer acts on differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The batch is too large for its topic.
    TooLarge,
    /// A record is invalid.
    Record,
    /// A topic may not be written, or not like this.
    Topic,
    /// Only a person can mend it: rights, settings.
    Configuration,
    /// Another broker leads the partition by now.
    Moved,
    /// Another broker coordinates the transactions by now, or none does yet.
    Coordinator,
    /// A newer producer with our transactional id.
    Fenced,
    /// Nobody's fault, and it passes.
    Outage,
    /// The producer's state and Kafka's don't fit: take over anew.
    Lost,
}

impl Code {
    /// The code, or none for 0.
    pub(super) fn of(code: i16) -> Option<Self> {
        (code != 0).then_some(Self(code))
    }

    pub(super) fn kind(self) -> Kind {
        match self.0 {
            10 | 18 => Kind::TooLarge,
            2 | 87 => Kind::Record,
            17 | 29 | 32 | 43 | 44 => Kind::Topic,
            21 | 31 | 33 | 34 | 35 | 50 | 53 | 58 => Kind::Configuration,
            // Unknown here may be known elsewhere: the metadata tell.
            3 | 5 | 6 | 9 | 74 | 75 | 100 => Kind::Moved,
            14..=16 => Kind::Coordinator,
            47 | 90 => Kind::Fenced,
            7 | 8 | 13 | 19 | 20 | 51 | 56 | 89 | 120 => Kind::Outage,
            _ => Kind::Lost,
        }
    }

    /// An earlier step of the same producer is still being carried out: ask again soon.
    pub(super) fn is_concurrent(self) -> bool {
        self.0 == 51
    }

    fn name(self) -> &'static str {
        match self.0 {
            -1 => "UNKNOWN_SERVER_ERROR",
            2 => "CORRUPT_MESSAGE",
            3 => "UNKNOWN_TOPIC_OR_PARTITION",
            5 => "LEADER_NOT_AVAILABLE",
            6 => "NOT_LEADER_OR_FOLLOWER",
            7 => "REQUEST_TIMED_OUT",
            8 => "BROKER_NOT_AVAILABLE",
            9 => "REPLICA_NOT_AVAILABLE",
            10 => "MESSAGE_TOO_LARGE",
            13 => "NETWORK_EXCEPTION",
            14 => "COORDINATOR_LOAD_IN_PROGRESS",
            15 => "COORDINATOR_NOT_AVAILABLE",
            16 => "NOT_COORDINATOR",
            17 => "INVALID_TOPIC_EXCEPTION",
            18 => "RECORD_LIST_TOO_LARGE",
            19 => "NOT_ENOUGH_REPLICAS",
            20 => "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
            21 => "INVALID_REQUIRED_ACKS",
            29 => "TOPIC_AUTHORIZATION_FAILED",
            31 => "CLUSTER_AUTHORIZATION_FAILED",
            32 => "INVALID_TIMESTAMP",
            33 => "UNSUPPORTED_SASL_MECHANISM",
            34 => "ILLEGAL_SASL_STATE",
            35 => "UNSUPPORTED_VERSION",
            43 => "UNSUPPORTED_FOR_MESSAGE_FORMAT",
            44 => "POLICY_VIOLATION",
            45 => "OUT_OF_ORDER_SEQUENCE_NUMBER",
            46 => "DUPLICATE_SEQUENCE_NUMBER",
            47 => "INVALID_PRODUCER_EPOCH",
            48 => "INVALID_TXN_STATE",
            49 => "INVALID_PRODUCER_ID_MAPPING",
            50 => "INVALID_TRANSACTION_TIMEOUT",
            51 => "CONCURRENT_TRANSACTIONS",
            53 => "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
            56 => "KAFKA_STORAGE_ERROR",
            58 => "SASL_AUTHENTICATION_FAILED",
            59 => "UNKNOWN_PRODUCER_ID",
            74 => "FENCED_LEADER_EPOCH",
            75 => "UNKNOWN_LEADER_EPOCH",
            87 => "INVALID_RECORD",
            89 => "THROTTLING_QUOTA_EXCEEDED",
            90 => "PRODUCER_FENCED",
            100 => "UNKNOWN_TOPIC_ID",
            120 => "TRANSACTION_ABORTABLE",
            _ => "error",
        }
    }

    /// In words; `need` is the right that is missing if one is: `WRITE on topic orders`.
    pub(super) fn told(self, need: &str) -> String {
        match self.0 {
            29 | 31 | 53 => format!("not authorized; this user needs the ACL {need}"),
            32 => {
                "Kafka refuses the time of publishing; the clocks of relay and broker differ, or \
                 message.timestamp.before.max.ms or …after.max.ms is too small"
                    .to_owned()
            }
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}
