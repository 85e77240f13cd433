//! What can go wrong with a saga.

use onceward::consumer::HandlerError;

use crate::SagaId;

/// The one error type of this library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SagaError {
    /// A statement, or the outbox, failed.
    #[error("saga storage failed")]
    Storage(#[from] onceward::Error),
    /// A message is about a saga this database does not have.
    #[error("there is no saga {0}")]
    UnknownSaga(SagaId),
    /// A saga was begun by a definition this process does not have.
    #[error("no definition {name} version {version} in this process: run one that has it")]
    UnknownDefinition {
        /// Name of the definition.
        name: String,
        /// Its version.
        version: i32,
    },
    /// The input does not fit the saga's state or definition.
    #[error("saga {saga_id} can't take this")]
    Illegal {
        /// The saga.
        saga_id: SagaId,
        /// Why.
        #[source]
        source: Illegal,
    },
    /// The stored log can't be read back: damaged, or written by a newer version.
    #[error(
        "the log of saga {saga_id} can't be read at event {seq}: damaged, or written by a newer version"
    )]
    CorruptLog {
        /// The saga.
        saga_id: SagaId,
        /// Number of the event.
        seq: i64,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A value can't be written as JSON.
    #[error("{what} can't be written as JSON")]
    Encode {
        /// Which value.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl SagaError {
    /// In one sentence, for an operator: of an illegal wish, why it is one.
    pub fn told(&self) -> String {
        match self {
            Self::Illegal { source, .. } => source.to_string(),
            other => other.to_string(),
        }
    }

    pub(crate) fn database(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Storage(onceward::Error::database(doing)(source))
    }
}

impl From<SagaError> for HandlerError {
    fn from(error: SagaError) -> Self {
        match error {
            SagaError::Storage(error) => error.into(),
            other => Self::Reject(Box::new(other)),
        }
    }
}

/// An input that is no arrow of the state machine. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Illegal {
    /// The definition has no such step.
    #[error("the definition has no step {step:?}")]
    UnknownStep {
        /// Its name.
        step: String,
    },
    /// The step has no use for this message type.
    #[error("step {step:?} does not expect a {message_type}")]
    UnexpectedType {
        /// The step.
        step: String,
        /// Type of the message.
        message_type: String,
    },
    /// An answer to something that was never asked.
    #[error("step {step:?} was answered but never asked: {message_type}, attempt {attempt}")]
    NeverAsked {
        /// The step.
        step: String,
        /// Type of the message.
        message_type: String,
        /// Its attempt.
        attempt: i32,
    },
    /// A participant took back what it had said.
    #[error("step {step:?} is {status}, a {message_type} contradicts that")]
    Contradiction {
        /// The step.
        step: String,
        /// Where it stands.
        status: &'static str,
        /// Type of the message.
        message_type: String,
    },
    /// An operator came too late.
    #[error("the saga has ended, it is {status}: nothing can be done to it any more")]
    Ended {
        /// Where it stands.
        status: &'static str,
    },
    /// An operator named a step that nobody waits for.
    #[error("step {step:?} is {status}: nothing of it is waited for")]
    NotAwaited {
        /// The step.
        step: String,
        /// Where it stands.
        status: &'static str,
    },
    /// An operator must say which step.
    #[error("the saga waits for more than one step: name one of {}", steps.join(", "))]
    WhichStep {
        /// Those it waits for.
        steps: Vec<String>,
    },
    /// A saga that is being undone can't be called done.
    #[error("the saga is {status}, only a running one can be completed by force")]
    NotRunning {
        /// Where it stands.
        status: &'static str,
    },
    /// A saga behind its pivot can't be undone.
    #[error("step {step:?} is past the point of no return: the saga can only go forward")]
    NoWayBack {
        /// The pivot, or a step behind it.
        step: String,
    },
    /// The definition's builder could not make a message of the saga's data.
    #[error("{what} can't be built")]
    Build {
        /// Which message.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}
