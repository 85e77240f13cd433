//! Lists in pages, by cursor: stable while rows are added.

use axum::extract::{FromRequestParts, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use onceward::Backend;
use serde::{Deserialize, Serialize};
use sqlx::Pool;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::ApiError;

/// Rows of a page unless `?limit=` says otherwise.
const DEFAULT_LIMIT: i64 = 50;
/// Most rows of a page.
const MAX_LIMIT: i64 = 500;

/// `?limit=50&before=<id>`: the page of rows older than `before`, newest first. The ids are
/// UUID v7, so their order is the order of making.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Rows wanted, 1 to 500.
    #[param(
        required = false,
        minimum = 1,
        maximum = 500,
        default = 50,
        example = 50
    )]
    pub limit: i64,
    /// Only rows older than this one: `next` of the page before.
    #[param(required = false, value_type = Uuid)]
    pub before: Option<Uuid>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    limit: Option<String>,
    before: Option<String>,
}

impl PageQuery {
    /// The id that those of the page are below. Without `before` the highest UUID there is: every id
    /// is below it but itself, which no generator makes.
    pub fn below(self) -> Uuid {
        self.before.unwrap_or(Uuid::max())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PageQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let bad = |field: &'static str, detail: String| {
            ApiError::field(StatusCode::BAD_REQUEST, field, detail)
        };
        let Query(raw) = Query::<Raw>::from_request_parts(parts, state)
            .await
            .map_err(|e| bad("query", e.body_text()))?;
        let limit = match raw.limit {
            None => DEFAULT_LIMIT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                .ok_or_else(|| bad("limit", format!("must be from 1 to {MAX_LIMIT}")))?,
        };
        let before = raw
            .before
            .map(|text| {
                text.parse()
                    .map_err(|_| bad("before", "must be an id".into()))
            })
            .transpose()?;
        Ok(Self { limit, before })
    }
}

/// One page, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Page<T> {
    /// The rows.
    #[schema(max_items = 500)]
    pub items: Vec<T>,
    /// What to pass as `before` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Uuid, required = false)]
    pub next: Option<Uuid>,
}

impl<T> Page<T> {
    /// Reads a page: `statement` takes `$1`, below which the ids must be, and `$2`, the number of rows.
    /// It says the order, newest first.
    ///
    /// # Errors
    /// The database's, and those of `row`.
    pub async fn read<B: Backend>(
        pool: &Pool<B>,
        statement: &'static str,
        query: PageQuery,
        row: impl Fn(&B::Row) -> Result<T, sqlx::Error>,
        id: impl Fn(&T) -> Uuid,
    ) -> Result<Self, sqlx::Error> {
        let rows = sqlx::query(statement)
            .bind(query.below())
            .bind(query.limit + 1)
            .fetch_all(pool)
            .await?;
        let rows = rows.iter().map(row).collect::<Result<_, _>>()?;
        Ok(Self::of(rows, query, id))
    }

    /// A page of `rows`, which were read with one more than `query.limit`; that one only tells
    /// that there is a next page.
    pub fn of(mut rows: Vec<T>, query: PageQuery, id: impl Fn(&T) -> Uuid) -> Self {
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = if more { rows.last().map(id) } else { None };
        Self { items: rows, next }
    }
}
