//! What can go wrong at a source, and what each error asks of the relay.

use std::path::PathBuf;

use crate::{MessageId, SourceId};

/// An operation on a source failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The database refused, or is not reachable.
    #[error("{doing} failed")]
    Database {
        /// The operation, as a noun.
        doing: &'static str,
        /// What the database said.
        #[source]
        source: sqlx::Error,
    },
    /// Not a source, another source, an old schema, or a stored value that can't be read.
    #[error(transparent)]
    Setup(#[from] crate::Error),
    /// A newer relay claimed this source: drop all work, and never write with this epoch again.
    #[error("another relay owns this source now")]
    Fenced,
    /// The server is a standby: its snapshots omit running transactions, so rows would be skipped.
    #[error("the server is a standby; connect to the primary")]
    NotPrimary,
    /// What the database holds and what was published don't fit together.
    #[error("{0}; {remedy}", remedy = .0.way_out())]
    Lost(#[from] Loss),
}

/// What the relay does about a [`SourceError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Wait a moment, [`super::SourceStore::reconnect`], verify, go on.
    Reconnect,
    /// Drop all work and wait as a standby.
    StandBy,
    /// Stop this source and alarm: only a person can mend it.
    Halt,
}

impl SourceError {
    /// For `map_err`: names the operation that failed.
    pub(crate) fn database(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Database { doing, source }
    }

    /// What to do about it; the one place where that is decided.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Database { .. } | Self::NotPrimary => Remedy::Reconnect,
            Self::Setup(crate::Error::Database { .. } | crate::Error::Connect(_)) => {
                Remedy::Reconnect
            }
            Self::Fenced => Remedy::StandBy,
            Self::Setup(_) | Self::Lost(_) => Remedy::Halt,
        }
    }
}

/// Rows were lost, replaced, or their ids reused: a restored backup, an asynchronous failover, a
/// swapped file. Going on would skip or double messages silently.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Loss {
    /// The last row passed is not in the outbox.
    #[error("outbox row {seq} (message {message_id}) was published but is gone")]
    LastRowGone {
        /// Its sequence number.
        seq: i64,
        /// Its message id.
        message_id: MessageId,
    },
    /// The last row passed has another message id.
    #[error("outbox row {seq} was published as message {expected} but now is {found}")]
    LastRowReplaced {
        /// Its sequence number.
        seq: i64,
        /// As published.
        expected: MessageId,
        /// As found.
        found: MessageId,
    },
    /// The database's transaction counter is lower than the cursor's.
    #[error("the database is behind the published progress: cursor {cursor}, database {found}")]
    Behind {
        /// The cursor.
        cursor: String,
        /// Where the database is.
        found: String,
    },
    /// Between mirror and Kafka lie more or fewer rows than were published.
    #[error("{expected} rows were published since the mirror was written, {found} are there")]
    RowCount {
        /// Rows passed according to Kafka.
        expected: i64,
        /// Rows found.
        found: i64,
    },
    /// Between mirror and Kafka lie other rows than were published.
    #[error("the rows since the mirror was written are not those that were published")]
    RowIds,
    /// The file under the path is another one than the one that is open.
    #[error("{} is not the file that was opened", path.display())]
    FileReplaced {
        /// The path.
        path: PathBuf,
    },
    /// The outbox was made in another Postgres cluster or database.
    #[error("this outbox belongs to {expected}, the server is {found}")]
    OtherCluster {
        /// System identifier and database name at migration.
        expected: String,
        /// Those of this server.
        found: String,
    },
    /// A row carries a transaction id that this server has not given out yet.
    #[error("outbox rows carry transaction ids of another server (at or above {xmax})")]
    ForeignTransactionId {
        /// This server's next transaction id.
        xmax: u64,
    },
    /// Kafka holds the progress of another outbox under this source's name.
    #[error("the progress in Kafka belongs to outbox {found}, this is {expected}")]
    OtherSourceId {
        /// This outbox.
        expected: SourceId,
        /// The one in Kafka.
        found: SourceId,
    },
    /// Database and Kafka are of different epochs: a reset or a restore is half done.
    #[error("the database is in epoch {database}, the progress in Kafka in epoch {kafka}")]
    EpochMismatch {
        /// `outbox_source.epoch`.
        database: i64,
        /// The progress record's.
        kafka: i64,
    },
    /// The mirror has passed more than Kafka has: the progress topic lost records.
    #[error(
        "the mirror has passed {mirror} rows, Kafka only {kafka}: the progress topic lost data"
    )]
    KafkaBehindMirror {
        /// Rows passed in the mirror.
        mirror: i64,
        /// Rows passed in Kafka.
        kafka: i64,
    },
    /// The progress topic is empty, but this source has published before.
    #[error("the progress topic is empty, but this source has passed {passed} rows")]
    ProgressMissing {
        /// Rows passed in the mirror.
        passed: i64,
    },
    /// Kafka tells of published rows, but the database never heard of any.
    #[error("{passed} rows were published, but the database has no mirror of any")]
    MirrorMissing {
        /// Rows passed in Kafka.
        passed: i64,
    },
    /// Rows came after the last one published, under transaction ids that count as published: most
    /// likely they were written on the new server before the adoption.
    #[error("{rows} rows behind the last one published can't be told from published ones")]
    HiddenRows {
        /// How many.
        rows: i64,
    },
    /// The mirror was written against another Kafka cluster or another topic of the same name.
    #[error("the progress was kept in Kafka cluster {expected}, this is {found}")]
    OtherKafka {
        /// Cluster and topic id in the mirror.
        expected: String,
        /// Those found.
        found: String,
    },
}

impl Loss {
    /// What a person can do about it.
    pub fn way_out(&self) -> &'static str {
        match self {
            Self::FileReplaced { .. } => {
                "restart the relay on the right file; if it was restored, `onceward source reset`"
            }
            Self::EpochMismatch { .. } => {
                "run the interrupted `onceward source reset` or `adopt` again, it finishes what is \
                 left; if this database was moved and its copy adopted, start the relay there"
            }
            Self::OtherCluster { .. } => {
                "if the database was moved with all its rows, `onceward source adopt`; if it was \
                 restored, `onceward source reset`"
            }
            Self::MirrorMissing { .. } | Self::HiddenRows { .. } => {
                "`onceward source reset` goes on from what the database knows"
            }
            Self::OtherSourceId { .. } => {
                "give this outbox a name of its own, or `onceward source reset` to take the name over"
            }
            Self::OtherKafka { .. } | Self::KafkaBehindMirror { .. } => {
                "point the relay at the right Kafka, or `onceward source reset`"
            }
            _ => {
                "compare what is published with what is there (`onceward verify`), then \
                 `onceward source reset`"
            }
        }
    }
}
