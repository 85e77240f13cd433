//! Errors as clients see them: `application/problem+json` (RFC 9457).

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Content type of a [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What is wrong with one field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FieldError {
    /// Name of the field as the client wrote it; `body` for the body as a whole.
    #[cfg_attr(feature = "openapi", schema(value_type = String, example = "quantity"))]
    pub field: Cow<'static, str>,
    /// What is wrong, in words for the client.
    #[cfg_attr(feature = "openapi", schema(example = "must be from 1 to 10000"))]
    pub detail: String,
}

/// Why a request was not answered as asked (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// Always `about:blank`: the status says what kind of problem it is.
    #[cfg_attr(feature = "openapi", schema(example = "about:blank"))]
    r#type: &'static str,
    /// The status in words.
    #[cfg_attr(feature = "openapi", schema(example = "Unprocessable Entity"))]
    title: &'static str,
    /// The status once more, for those who see only the body.
    #[cfg_attr(
        feature = "openapi",
        schema(example = 422, minimum = 400, maximum = 599)
    )]
    status: u16,
    /// What happened and what to do about it.
    #[cfg_attr(
        feature = "openapi",
        schema(example = "quantity: must be from 1 to 10000")
    )]
    detail: String,
    /// Every field at fault, at most 20; absent if no field is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "openapi", schema(required = false, max_items = 20))]
    errors: Vec<FieldError>,
    #[serde(skip)]
    retry_after_seconds: Option<u32>,
}

impl Problem {
    /// A problem with this status; `detail` is shown to the client.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_seconds: None,
        }
    }

    /// 503: trying again after a second is worth it.
    pub fn try_again(detail: impl Into<String>) -> Self {
        Self {
            retry_after_seconds: Some(1),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        }
    }

    /// A problem of these fields; they are its detail as well.
    pub fn of_fields(status: StatusCode, errors: Vec<FieldError>) -> Self {
        let detail = errors
            .iter()
            .map(|e| format!("{}: {}", e.field, e.detail))
            .collect::<Vec<_>>()
            .join("; ");
        Self {
            errors,
            ..Self::new(status, detail)
        }
    }

    /// A problem of one field, or of `body`.
    pub fn of_field(
        status: StatusCode,
        field: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
    ) -> Self {
        let error = FieldError {
            field: field.into(),
            detail: detail.into(),
        };
        Self::of_fields(status, vec![error])
    }

    /// The status it is answered with.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
    /// What happened.
    pub fn detail(&self) -> &str {
        &self.detail
    }
    /// The fields at fault.
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response =
            (self.status(), [(header::CONTENT_TYPE, PROBLEM_JSON)], body).into_response();
        if let Some(seconds) = self.retry_after_seconds {
            let seconds = HeaderValue::from(seconds);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}
