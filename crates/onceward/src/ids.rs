//! Names and identities, each its own type, so that one can't be passed for another.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[derive(sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

uuid_id! {
    /// Identity of one message, made once at `append` (UUID v7) and carried as `ce_id`.
    MessageId
}
uuid_id! {
    /// Identity of the whole story: every message caused by one request carries the same.
    CorrelationId
}
uuid_id! {
    /// Identity of one database's outbox, made at migration. A swapped file has another.
    SourceId
}

/// The message that led to this one.
pub type CausationId = MessageId;

macro_rules! text_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks that the name is 1 to 100 characters of `a-z A-Z 0-9 . _ -`: it becomes part
            /// of topic names, transactional ids and group ids.
            pub fn new(name: impl Into<String>) -> Result<Self, InvalidName> {
                let name = name.into();
                let fine = (1..=100).contains(&name.len())
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
                if fine { Ok(Self(name)) } else { Err(InvalidName { what: $what, name }) }
            }
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl std::str::FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                Self::new(text)
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

text_name! {
    /// Name of a source: one database with an outbox. Part of `outbox.progress.<source>` and of
    /// the transactional id, and the `ce_source` of its messages.
    SourceName, "source name"
}
text_name! {
    /// Name of a consumer: what deduplication is scoped to, and its Kafka consumer group.
    ConsumerName, "consumer name"
}

impl SourceName {
    /// The compacted, single-partition topic that holds this source's progress.
    pub fn progress_topic(&self) -> String {
        format!("outbox.progress.{self}")
    }
    /// The transactional id whose producer fences every older relay of this source (KIP-98).
    pub fn transactional_id(&self) -> String {
        format!("outbox-relay.{self}")
    }
}

/// A name that can't be part of a topic name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {name:?} must be 1 to 100 characters of a-z A-Z 0-9 . _ -")]
pub struct InvalidName {
    what: &'static str,
    name: String,
}
