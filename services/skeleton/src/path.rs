//! Parts of a request's path, refused by problem documents.

use axum::extract::{FromRequestParts, Path};
use axum::http::StatusCode;
use axum::http::request::Parts;
use uuid::Uuid;

use crate::ApiError;
use crate::body::text_fault;

/// Longest part of a path, in characters.
const MAX_CHARS: usize = 100;

/// The one variable part of the path, as an id.
#[derive(Debug, Clone, Copy)]
pub struct PathId(pub Uuid);

/// The one variable part of the path, as a text: 1 to 100 characters, without control characters.
#[derive(Debug, Clone)]
pub struct PathText(pub String);

async fn part<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<String, ApiError> {
    let part = Path::<String>::from_request_parts(parts, state).await;
    // What can't be decoded as UTF-8.
    part.map(|Path(part)| part)
        .map_err(|refusal| ApiError::field(StatusCode::BAD_REQUEST, "path", refusal.body_text()))
}

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let id = part(parts, state).await?.parse();
        id.map(Self)
            .map_err(|_| ApiError::field(StatusCode::BAD_REQUEST, "id", "must be a UUID"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PathText {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let text = part(parts, state).await?;
        match text_fault(&text, MAX_CHARS) {
            Some(fault) => Err(ApiError::field(StatusCode::BAD_REQUEST, "path", fault)),
            None => Ok(Self(text)),
        }
    }
}
