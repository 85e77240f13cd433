//! What differs between the databases, one module each.

use std::future::Future;
use std::time::Duration;

use super::{
    Backlog, Batch, DatabaseKind, FetchLimits, Finding, Identity, JanitorChunk, Mirror, RelayEpoch,
    SourceError,
};
use crate::schema::SchemaBackend;
use crate::{Cursor, IdSum, LastRow, Micros, Tx};

/// Rows between two cursors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Passed {
    /// How many.
    pub count: i64,
    /// Sum of their message ids.
    pub id_sum: IdSum,
}

impl Passed {
    pub(super) fn add(&mut self, id: crate::MessageId) {
        self.count = self.count.saturating_add(1);
        self.id_sum.add(id);
    }
}

/// What a cursor made by [`Dialect::renumbered`] has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassedRows {
    /// Nothing.
    None,
    /// What the mirror has passed.
    Mirrored,
    /// Everything up to the record's last row.
    All,
}

/// Whether the lock file says that the owner is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerSign {
    /// The file is free and the owner of this epoch had held it: it is dead.
    Dead,
    /// Nothing is known: wait for the lease to expire.
    Unknown,
}

/// A database as the relay reads it. Sealed through [`crate::Backend`].
///
/// One implementation per database; the relay reaches it through [`super::SourceStore`].
pub trait Dialect: SchemaBackend {
    /// What a store remembers of its database in memory.
    type Local: Send + Sync;
    /// Tells when rows may have come.
    type Wake: Wake;
    /// A query for this database's clock, in microseconds since the Unix epoch.
    const CLOCK: &'static str;
    /// Opens a transaction that only reads and sees one state throughout.
    const BEGIN_SNAPSHOT: &'static str;
    /// Which database.
    const KIND: DatabaseKind;

    /// Opens a connection of the relay's own with the session settings it needs.
    fn connect(
        url: &str,
        application: &str,
    ) -> impl Future<Output = Result<(Self::Connection, Self::Local), SourceError>> + Send;

    /// Refuses a path under which another file lies by now. Never opens the file.
    fn check_place(local: &Self::Local) -> Result<(), SourceError>;
    /// After a reconnect: keeps what must outlive a connection (the lock file).
    fn adopt_local(kept: &mut Self::Local, fresh: Self::Local);

    /// Refuses a standby, and a replaced file.
    fn check_primary(
        conn: &mut Self::Connection,
        local: &Self::Local,
    ) -> impl Future<Output = Result<(), SourceError>> + Send;

    /// [`Self::check_primary`], and refuses another cluster. Called on each new connection.
    fn check_identity(
        conn: &mut Self::Connection,
        local: &Self::Local,
        identity: &Identity,
    ) -> impl Future<Output = Result<(), SourceError>> + Send;

    /// System identifier and name of the database, where the database has them.
    fn server_identity(
        conn: &mut Self::Connection,
    ) -> impl Future<Output = Result<(Option<String>, Option<String>), SourceError>> + Send;

    /// Whether the rows' transaction ids may be those of another server, so that a cursor says
    /// nothing about rows written from now on: see [`Self::renumber`].
    fn rows_are_foreign(
        conn: &mut Self::Connection,
        identity: &Identity,
        cursor: &Cursor,
    ) -> impl Future<Output = Result<bool, SourceError>> + Send;

    /// The cursor that means `passed` once the rows are renumbered.
    fn renumbered(passed: PassedRows) -> Cursor;

    /// Gives the rows transaction ids that any server has given out long ago, so that `cursor`, one
    /// of [`Self::renumbered`], has passed those that it should. `mirror` is the one in the
    /// database, and `last` the last row that `cursor` has passed. May be repeated. Does nothing
    /// for any other cursor.
    fn renumber(
        tx: &mut Tx<'_, Self>,
        cursor: &Cursor,
        mirror: Option<&Mirror>,
        last: Option<LastRow>,
    ) -> impl Future<Output = Result<(), SourceError>> + Send;

    /// Rows that look as if `cursor` had passed them although they came after `last`: written on
    /// this server, under ids that the other server had given out before.
    fn hidden_rows(
        conn: &mut Self::Connection,
        cursor: &Cursor,
        last: Option<LastRow>,
    ) -> impl Future<Output = Result<i64, SourceError>> + Send;

    /// Takes the lock file, if there is one and it is free. `current` is the epoch in the database.
    fn owner_sign(local: &mut Self::Local, current: RelayEpoch) -> OwnerSign;
    /// Marks the lock file as held by the owner of `epoch`, if this process holds or gets it.
    fn mark_owner(local: &mut Self::Local, epoch: RelayEpoch);
    /// Lets go of the lock file.
    fn unmark_owner(local: &mut Self::Local);

    /// Settings that endanger the guarantees.
    fn findings(
        conn: &mut Self::Connection,
    ) -> impl Future<Output = Result<Vec<Finding>, SourceError>> + Send;

    /// The cursor before the first row.
    fn genesis() -> Cursor;

    /// The cursor behind everything committed so far, and the last row it passes.
    fn end(
        conn: &mut Self::Connection,
    ) -> impl Future<Output = Result<(Cursor, Option<LastRow>), SourceError>> + Send;

    /// See [`super::SourceStore::fetch`].
    fn fetch(
        conn: &mut Self::Connection,
        local: &mut Self::Local,
        from: &Cursor,
        last: Option<LastRow>,
        limits: FetchLimits,
    ) -> impl Future<Output = Result<Batch, SourceError>> + Send;

    /// The rows that `to` has passed and `from` has not.
    fn between(
        tx: &mut Tx<'_, Self>,
        from: &Cursor,
        to: &Cursor,
    ) -> impl Future<Output = Result<Passed, SourceError>> + Send;

    /// Rows not passed by `from`, counted up to `cap`.
    fn backlog(
        conn: &mut Self::Connection,
        from: &Cursor,
        cap: u32,
    ) -> impl Future<Output = Result<Backlog, SourceError>> + Send;

    /// Whether `cursor` has passed the rows of every parked copy of this key (of this message, if
    /// there is no key).
    fn copies_passed(
        conn: &mut Self::Connection,
        cursor: &Cursor,
        topic: &str,
        message_key: Option<&str>,
        message_id: Option<uuid::Uuid>,
    ) -> impl Future<Output = Result<bool, SourceError>> + Send;

    /// Deletes the oldest rows that the mirror has passed, and says how far it came.
    fn purge(
        tx: &mut Tx<'_, Self>,
        mirror: &Mirror,
        older_than: Micros,
        max_rows: u32,
    ) -> impl Future<Output = Result<JanitorChunk, SourceError>> + Send;

    /// Starts to listen for new rows, on a connection of its own.
    fn wake(url: &str) -> impl Future<Output = Result<Self::Wake, SourceError>> + Send;
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// Somebody committed: fetch now.
    Hint,
    /// The time is up: fetch as well, hints are best-effort.
    Timeout,
}

/// Waits for new rows, between polls.
pub trait Wake: Send {
    /// Waits for a hint, at most `timeout`. Never fails: a lost connection means that hints stop
    /// (see [`Self::idle_poll`]) until it is back. May be dropped at any await.
    fn wait(&mut self, timeout: Duration) -> impl Future<Output = Woken> + Send;

    /// How long an idle source may wait between polls: 250 ms while hints are arriving, 25 ms
    /// while they are not.
    fn idle_poll(&self) -> Duration;

    /// Tell it that a poll found rows nobody had hinted at: a writer does not send hints.
    fn found_unhinted(&mut self);
}
