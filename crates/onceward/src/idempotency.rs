//! `Idempotency-Key`: a request that comes twice is carried out once, and both get one answer.
//!
//! The claim is the first statement of the unit of work, and the answer is stored in the same
//! transaction. So a rollback frees the key, a twin that comes later reads the stored answer, and
//! a twin that comes meanwhile waits: on Postgres in the unique index, on SQLite in the queue of
//! writers. Store only answers that are worth repeating: refusals roll back.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::{Backend, Error, Micros, QueryResult, Result, Tx};

/// How long answers are kept, in microseconds: 24 hours.
pub const KEEP_ANSWERS_MICROS: Micros = 24 * 60 * 60 * 1_000_000;

/// Longest part of a request's identity that is stored as it is, in bytes: Postgres refuses long index
/// entries.
const MAX_INDEXED_BYTES: usize = 500;

fn indexed(part: &str) -> String {
    if part.len() <= MAX_INDEXED_BYTES {
        part.to_owned()
    } else {
        format!("sha256:{:x}", Sha256::digest(part))
    }
}

/// A request with an `Idempotency-Key`. The key is scoped to method, path and user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    method: String,
    path: String,
    user_id: String,
    key: String,
    body_hash: Vec<u8>,
}

/// What the claim found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Nobody has done this: do it, then [`Request::store`] the answer in the same transaction.
    First,
    /// It was done; this was the answer.
    Answered(StoredAnswer),
    /// The key was used with another body.
    OtherBody,
}

/// An answer as it was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredAnswer {
    /// HTTP status.
    pub status: u16,
    /// The headers worth repeating.
    pub headers: BTreeMap<String, String>,
    /// The body, byte for byte.
    pub body: Vec<u8>,
}

impl Request {
    /// A request; of the body, and of a long path, user or key, only the SHA-256 is kept.
    pub fn new(method: &str, path: &str, user_id: &str, key: &str, body: &[u8]) -> Self {
        Self {
            method: indexed(method),
            path: indexed(path),
            user_id: indexed(user_id),
            key: indexed(key),
            body_hash: Sha256::digest(body).to_vec(),
        }
    }

    /// Claims the key in this transaction. Must be its first statement: a twin waits here until
    /// this transaction ends, and must not hold locks meanwhile.
    ///
    /// # Errors
    /// [`Error::Database`]; [`Error::Corrupt`] if the stored answer can't be read.
    pub async fn claim<B: Backend>(&self, tx: &mut Tx<'_, B>, now: Micros) -> Result<Claim> {
        let inserted = sqlx::query(
            "insert into idempotency_key (method, path, user_id, key, body_hash, created_at) \
             values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
        )
        .bind(&*self.method)
        .bind(&*self.path)
        .bind(&*self.user_id)
        .bind(&*self.key)
        .bind(&*self.body_hash)
        .bind(now)
        .execute(&mut **tx)
        .await
        .map_err(Error::database("idempotency claim"))?
        .rows_affected();
        if inserted == 1 {
            return Ok(Claim::First);
        }
        type Row = (Vec<u8>, Option<i32>, Option<String>, Option<Vec<u8>>);
        let (body_hash, status, headers, body): Row = sqlx::query_as(
            "select body_hash, status, headers, body from idempotency_key \
             where method = $1 and path = $2 and user_id = $3 and key = $4",
        )
        .bind(&*self.method)
        .bind(&*self.path)
        .bind(&*self.user_id)
        .bind(&*self.key)
        .fetch_one(&mut **tx)
        .await
        .map_err(Error::database("idempotency lookup"))?;
        if body_hash != self.body_hash {
            return Ok(Claim::OtherBody);
        }
        let corrupt = |reason: String| Error::Corrupt {
            what: "idempotent answer",
            reason,
        };
        let status = status.ok_or_else(|| corrupt("the claim was committed unanswered".into()))?;
        let headers = serde_json::from_str(headers.as_deref().unwrap_or("{}"))
            .map_err(|e| corrupt(e.to_string()))?;
        Ok(Claim::Answered(StoredAnswer {
            status: u16::try_from(status).map_err(|e| corrupt(e.to_string()))?,
            headers,
            body: body.unwrap_or_default(),
        }))
    }

    /// Stores the answer beside the claim.
    ///
    /// # Errors
    /// [`Error::RowCount`] without a claim of this request before it, [`Error::Database`].
    // CRASH: before COMMIT = no claim, no answer, no effect; after it = all three, and the retry
    // of a client that did not hear the answer gets it.
    pub async fn store<B: Backend>(&self, tx: &mut Tx<'_, B>, answer: &StoredAnswer) -> Result<()> {
        let headers = serde_json::to_string(&answer.headers).map_err(|source| Error::Encode {
            message_type: "idempotent answer",
            source,
        })?;
        let actual = sqlx::query(
            "update idempotency_key set status = $5, headers = $6, body = $7 \
             where method = $1 and path = $2 and user_id = $3 and key = $4",
        )
        .bind(&*self.method)
        .bind(&*self.path)
        .bind(&*self.user_id)
        .bind(&*self.key)
        .bind(i32::from(answer.status))
        .bind(headers)
        .bind(&*answer.body)
        .execute(&mut **tx)
        .await
        .map_err(Error::database("idempotent answer"))?
        .rows_affected();
        if actual != 1 {
            return Err(Error::RowCount {
                doing: "idempotent answer",
                expected: 1,
                actual,
            });
        }
        Ok(())
    }
}

/// Forgets at most `max_rows` answers given before `before`; returns how many.
///
/// # Errors
/// [`Error::Database`].
pub async fn purge<B: Backend>(tx: &mut Tx<'_, B>, before: Micros, max_rows: i64) -> Result<u64> {
    // Served by the index idempotency_key_age.
    let purged = sqlx::query(
        "delete from idempotency_key where (method, path, user_id, key) in \
         (select method, path, user_id, key from idempotency_key where created_at < $1 \
          order by created_at limit $2)",
    )
    .bind(before)
    .bind(max_rows)
    .execute(&mut **tx)
    .await
    .map_err(Error::database("idempotency purge"))?
    .rows_affected();
    Ok(purged)
}
