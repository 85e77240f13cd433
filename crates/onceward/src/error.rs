//! The one error type of the library's SQL side.

use crate::{InvalidName, SourceName};

/// Any error of a user's own making, as handlers and units of work return it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// An error and its causes in one line, outermost first: `append failed: connection reset`.
pub fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

/// What went wrong in outbox, inbox, unit of work or migration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A statement failed; `doing` names the operation.
    #[error("{doing} failed")]
    Database {
        /// The operation, as a noun: "outbox insert".
        doing: &'static str,
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// `append` was called on a connection that has no transaction open: the message would be
    /// published even if the domain change is not made.
    #[error("append needs an open transaction; begin one, or use db.write")]
    NoTransaction,
    /// The payload is over the limit.
    #[error("{message_type} payload is {size} bytes, the limit is {limit}")]
    PayloadTooLarge {
        /// Type of the message.
        message_type: String,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The key is over the limit.
    #[error("{message_type} has a key of {size} bytes, the limit is {limit}")]
    KeyTooLong {
        /// Type of the message.
        message_type: String,
        /// Size of the key in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The message would go to a topic that Kafka can't have.
    #[error(
        "{message_type} would go to topic {topic:?}, a name Kafka does not allow: use 1 to 249 letters, \
         digits, dots, underscores and hyphens"
    )]
    InvalidTopic {
        /// Type of the message.
        message_type: String,
        /// The name.
        topic: String,
    },
    /// A message can't be written as JSON.
    #[error("{message_type} can't be written as JSON")]
    Encode {
        /// Type of the message.
        message_type: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A user's own header takes a name that is ours.
    #[error("header {name:?} is reserved")]
    ReservedHeader {
        /// The name.
        name: String,
    },
    /// A name is not fit for topics and ids.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// The database URL has another scheme.
    #[error("database URL must start with sqlite: or postgres:, found {scheme:?}")]
    UnknownUrl {
        /// What stood before the colon.
        scheme: String,
    },
    /// The database URL sets what its driver does not know, and would ignore.
    #[error("the database URL has a setting {name:?} that the driver does not know")]
    UnknownUrlSetting {
        /// Its name.
        name: String,
    },
    /// No connection comes about. It says where, and what to mend.
    #[error("{0}")]
    Connect(String),
    /// The migration failed.
    #[error("schema migration failed")]
    Migration(#[source] sqlx::migrate::MigrateError),
    /// The database has no Onceward tables or older ones.
    #[error("{what}; run `onceward schema migrate URL --source NAME`")]
    Schema {
        /// What is missing.
        what: String,
    },
    /// A newer program has taken something away from the database that this one needs.
    #[error(
        "this database is too new: migration {migration}, this program knows up to {newest:04}; \
         upgrade this program"
    )]
    SchemaTooNew {
        /// The migration that took it away.
        migration: String,
        /// The newest migration this program knows.
        newest: i64,
    },
    /// The database already belongs to another source.
    #[error("this database is source {found}, not {expected}")]
    OtherSource {
        /// The name stored in the database.
        found: String,
        /// The name that was asked for.
        expected: SourceName,
    },
    /// A statement touched another number of rows than it must.
    #[error("{doing} touched {actual} rows, expected {expected}")]
    RowCount {
        /// The operation.
        doing: &'static str,
        /// Rows it must touch.
        expected: u64,
        /// Rows it touched.
        actual: u64,
    },
    /// A stored value can't be read back: damaged, or written by a newer version.
    #[error("stored {what} can't be read: {reason}")]
    Corrupt {
        /// Which value.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

impl Error {
    /// For `map_err`: names the operation that failed.
    pub fn database(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { doing, source }
    }
}

/// Shorthand for this library's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;
