//! A source as the relay works on it: one database with an outbox.
//!
//! [`SourceStore`] holds a connection of the relay's own. What it offers, in the order of a
//! relay's life: [`SourceStore::open`] → [`SourceStore::claim`] → [`SourceStore::take_over`] →
//! [`SourceStore::fetch`] again and again, [`SourceStore::write_mirror`] and
//! [`SourceStore::renew`] once a second → [`SourceStore::release`]. Every write carries the
//! [`RelayEpoch`] of the claim and is refused as [`SourceError::Fenced`] once another relay has
//! claimed.
//!
//! After a [`Remedy::Reconnect`] error: [`SourceStore::reconnect`], then
//! [`SourceStore::verify_between`] with the last known progress, then go on; the epoch stays.

mod check;
mod dialect;
mod error;
mod janitor;
mod lease;
mod mirror;
mod parking;
mod postgres;
mod reset;
mod row;
pub mod snapshot;
mod sqlite;
mod takeover;

pub use check::{Finding, Severity};
pub use dialect::{Dialect, OwnerSign, Passed, PassedRows, Wake, Woken};
pub use error::{Loss, Remedy, SourceError};
pub use janitor::JanitorChunk;
pub use lease::{Claim, LEASE_RENEW, LEASE_TTL, RelayEpoch};
pub use mirror::{Identity, Mirror, ProgressPlace};
pub use parking::{ParkedKeys, Parking, Request};
pub use postgres::{PostgresLocal, PostgresWake};
pub use reset::{EpochPlan, ResetTo};
pub use row::{Backlog, Batch, FetchLimits, OutboxRow};
pub use sqlite::{SqliteLocal, SqliteWake};

use sqlx::Connection;

use crate::{Cursor, Error, LastRow, SourceName, schema};

/// Which database a URL means. Decided once, where a program starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseKind {
    /// `postgres://…` or `postgresql://…`
    Postgres,
    /// `sqlite:…`
    Sqlite,
}

impl DatabaseKind {
    /// By the URL's scheme.
    pub fn of(url: &str) -> Result<Self, Error> {
        // What is no URL may be a password: not quoted.
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        match scheme {
            "postgres" | "postgresql" => Ok(Self::Postgres),
            "sqlite" => Ok(Self::Sqlite),
            _ => Err(Error::UnknownUrl {
                scheme: scheme.to_owned(),
            }),
        }
    }

    /// `postgres` or `sqlite`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Sqlite => "sqlite",
        }
    }
}

/// One source's database, on a connection of the relay's own (never out of a shared pool).
///
/// Methods take `&mut self`: one at a time. A future dropped half-way rolls back.
pub struct SourceStore<B: Dialect> {
    conn: B::Connection,
    local: B::Local,
    url: String,
    name: SourceName,
}

impl<B: Dialect> std::fmt::Debug for SourceStore<B> {
    // Without the URL: it may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceStore")
            .field("kind", &B::KIND.as_str())
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl<B: Dialect> SourceStore<B> {
    /// Connects, sets the session up, and checks that the schema is this version's, that the
    /// database is the source `name`, that it is a primary, and that it is the cluster it was.
    /// Claims nothing and writes nothing.
    pub async fn open(url: &str, name: &SourceName) -> Result<Self, SourceError> {
        let mut store = Self::connect(url, name).await?;
        store.check_identity().await?;
        Ok(store)
    }

    /// A new connection in place of a broken one, with the same checks. The relay epoch stays
    /// valid; call [`Self::verify_between`] before the next fetch.
    pub async fn reconnect(&mut self) -> Result<(), SourceError> {
        // On SQLite the file must be the one that was open: compared before anything opens it.
        B::check_place(&self.local)?;
        let fresh = Self::connect(&self.url, &self.name).await?;
        let old = std::mem::replace(&mut self.conn, fresh.conn);
        B::adopt_local(&mut self.local, fresh.local);
        if let Err(error) = old.close_hard().await {
            tracing::debug!(source = %self.name, error = %error, "old connection not closed");
        }
        self.check_identity().await
    }

    /// Connects and sets the session up; checks nothing.
    async fn connect(url: &str, name: &SourceName) -> Result<Self, SourceError> {
        let (conn, local) = B::connect(url, &format!("outbox-relay {name}")).await?;
        Ok(Self {
            conn,
            local,
            url: url.to_owned(),
            name: name.clone(),
        })
    }

    async fn check_identity(&mut self) -> Result<(), SourceError> {
        schema::check_connection::<B>(&mut self.conn, &self.name).await?;
        let identity = self.identity().await?;
        B::check_identity(&mut self.conn, &self.local, &identity).await
    }

    /// Name of the source.
    pub fn name(&self) -> &SourceName {
        &self.name
    }

    /// The row that says who this database is and who owns it.
    pub async fn identity(&mut self) -> Result<Identity, SourceError> {
        mirror::read_identity::<B>(&mut self.conn).await
    }

    /// The mirror of the progress; `None` before the first start.
    pub async fn mirror(&mut self) -> Result<Option<Mirror>, SourceError> {
        mirror::read_mirror::<B>(&mut self.conn).await
    }

    /// The cursor before the first row.
    pub fn genesis(&self) -> Cursor {
        B::genesis()
    }

    /// Reads what was committed since `from`, in publishing order: no committed row is ever
    /// skipped, however late it commits, and rows of one key come in the order of their inserts.
    /// `last` is the last row passed; it must still be there with its message id.
    ///
    /// Reads only; holds no transaction open when it returns. An empty batch costs one round trip
    /// and need not be stored.
    pub async fn fetch(
        &mut self,
        from: &Cursor,
        last: Option<LastRow>,
        limits: FetchLimits,
    ) -> Result<Batch, SourceError> {
        B::fetch(&mut self.conn, &mut self.local, from, last, limits).await
    }

    /// Rows not passed by `from`, counted up to `cap`. On Postgres an error after 1 s: a count is worth no more. Given
    /// up half-way it leaves that limit on the connection: [`reconnect`](Self::reconnect).
    pub async fn backlog(&mut self, from: &Cursor, cap: u32) -> Result<Backlog, SourceError> {
        B::backlog(&mut self.conn, from, cap).await
    }

    /// Starts to listen for new rows, on a connection of its own.
    pub async fn wake(&mut self) -> Result<B::Wake, SourceError> {
        B::wake(&self.url).await
    }

    /// Closes the connection in order. The lease stays: [`Self::release`] it first.
    pub async fn close(self) -> Result<(), SourceError> {
        self.conn
            .close()
            .await
            .map_err(SourceError::database("disconnect"))
    }
}
