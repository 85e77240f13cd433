//! Errors as clients see them: `application/problem+json` (RFC 9457).

use std::borrow::Cow;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use onceward::WriteError;
use onceward_http::{FieldError, Problem};

/// An error that becomes a problem document.
#[derive(Debug)]
pub struct ApiError {
    problem: Problem,
    /// For the log only; never shown to the client.
    cause: Option<anyhow::Error>,
}

impl ApiError {
    /// An error with this status; `detail` is shown to the client.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Problem::new(status, detail).into()
    }

    /// 422: well-formed, but these fields are not acceptable.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        Problem::of_fields(StatusCode::UNPROCESSABLE_ENTITY, errors).into()
    }

    /// An error that blames one field, or `body`.
    pub fn field(
        status: StatusCode,
        field: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        Problem::of_field(status, field, detail).into()
    }

    /// 404.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("{what} not found"))
    }

    /// 500; the cause is logged and not shown.
    pub fn internal(cause: impl Into<anyhow::Error>) -> Self {
        let problem = Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the service could not do this; the error is logged",
        );
        Self {
            problem,
            cause: Some(cause.into()),
        }
    }

    /// 503: try again after a second. The cause is logged and not shown.
    pub fn unavailable(detail: impl Into<String>, cause: impl Into<anyhow::Error>) -> Self {
        Self {
            problem: Problem::try_again(detail),
            cause: Some(cause.into()),
        }
    }

    /// The status it is answered with.
    pub fn status(&self) -> StatusCode {
        self.problem.status()
    }
    /// The fields it blames.
    pub fn fields(&self) -> &[FieldError] {
        self.problem.errors()
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self {
            problem,
            cause: None,
        }
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.problem.detail())
    }
}

impl std::error::Error for ApiError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_ref().map(|c| &**c as _)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if let Some(cause) = &self.cause {
            tracing::error!(status = self.status().as_u16(), error = %format!("{cause:#}"), "request failed");
        }
        self.problem.into_response()
    }
}

const NO_DATABASE: &str = "the database is not available, try again";

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        if onceward::is_transient(&error) {
            Self::unavailable(NO_DATABASE, error)
        } else {
            Self::internal(error)
        }
    }
}

impl From<onceward::Error> for ApiError {
    fn from(error: onceward::Error) -> Self {
        match error {
            onceward::Error::PayloadTooLarge { .. } => {
                Self::field(StatusCode::PAYLOAD_TOO_LARGE, "body", error.to_string())
            }
            onceward::Error::Database { ref source, .. } if onceward::is_transient(source) => {
                Self::unavailable(NO_DATABASE, error)
            }
            other => Self::internal(other),
        }
    }
}

impl From<WriteError<ApiError>> for ApiError {
    fn from(error: WriteError<ApiError>) -> Self {
        match error {
            WriteError::Refused(refusal) => refusal,
            WriteError::CommitUnknown(cause) => Self::unavailable(
                "it is not known whether this was saved; repeat the request with the same \
                 Idempotency-Key",
                cause,
            ),
            // Our own fault: trying again does not help.
            WriteError::Panicked { .. } | WriteError::Nested => Self::internal(error),
            other => Self::unavailable("nothing was saved, try again", other),
        }
    }
}
