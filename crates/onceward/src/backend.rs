//! The databases an outbox runs on, and how one text of SQL serves both.
//!
//! `sqlx` has no trait that says "this database can bind an `i64`, read a `String` and execute a
//! statement"; every generic function would have to repeat a page of bounds. [`Backend`] carries
//! those bounds as *implied* ones, so that a service writes
//! `async fn place<B: Backend>(tx: &mut Tx<'_, B>, …)` with plain `sqlx` inside. A service with
//! one database needs none of it and passes its own `sqlx::Transaction<'_, Postgres>`.

use sqlx::{
    ColumnIndex, Connection, Database, Decode, Encode, Executor, IntoArguments, Pool, Postgres,
    Sqlite, Transaction, Type,
};
use uuid::Uuid;

use imply::Imply;

/// A transaction of `sqlx`: what every writing function of this library takes.
pub type Tx<'c, B> = Transaction<'c, B>;

/// `trait X: Imply<T, Is: Bound>` makes `T: Bound` follow from `Self: X`.
#[doc(hidden)]
pub mod imply {
    pub trait ImplyInner<T: ?Sized> {
        type Is: ?Sized;
    }
    impl<S: ?Sized, T: ?Sized> ImplyInner<T> for S {
        type Is = T;
    }
    pub trait Imply<T: ?Sized>: ImplyInner<T, Is = T> {}
    impl<S: ?Sized, T: ?Sized> Imply<T> for S {}
}

/// `T` is an owned column type of this database: it can be bound, be null and be read.
///
/// Implemented for everything that qualifies; a newtype with `#[derive(sqlx::Type)]` does.
pub trait Column<T>:
    Database
    + Imply<T, Is: for<'q> Encode<'q, Self> + for<'r> Decode<'r, Self> + Type<Self>>
    + Imply<Option<T>, Is: for<'q> Encode<'q, Self>>
{
}
impl<B: Database, T> Column<T> for B
where
    T: for<'q> Encode<'q, B> + for<'r> Decode<'r, B> + Type<B>,
    Option<T>: for<'q> Encode<'q, B>,
{
}

/// `T` can be bound as `&T` and `Option<&T>`.
pub trait ColumnRef<T: ?Sized + 'static>:
    Database
    + Imply<T, Is: Type<Self>>
    + for<'a> Imply<&'a T, Is: Encode<'a, Self>>
    + for<'a> Imply<Option<&'a T>, Is: Encode<'a, Self>>
{
}
impl<B: Database, T: ?Sized + 'static> ColumnRef<T> for B
where
    T: Type<B>,
    for<'a> &'a T: Encode<'a, B>,
    for<'a> Option<&'a T>: Encode<'a, B>,
{
}

/// The column types both databases share, so that [`Backend`] reads as a list.
///
/// Portable declarations: `BIGINT` for integers and microseconds, `BOOLEAN`, `TEXT`, `BYTEA` for
/// bytes (SQLite accepts the name), `UUID` where the value is bound as [`Uuid`].
pub trait Columns:
    Database<
        Arguments: IntoArguments<Self>,
        QueryResult: QueryResult,
        Connection: sqlx::migrate::Migrate,
    > + Column<i64>
    + Column<i32>
    + Column<bool>
    + Column<f64>
    + Column<String>
    + Column<Vec<u8>>
    + Column<Uuid>
    + ColumnRef<str>
    + ColumnRef<[u8]>
{
}
impl Columns for Postgres {}
impl Columns for Sqlite {}

/// A database the outbox runs on. Sealed: [`Postgres`] and [`Sqlite`].
pub trait Backend:
    sealed::Sealed
    + Columns
    + for<'n> Imply<&'n str, Is: ColumnIndex<<Self as Database>::Row>>
    + Imply<usize, Is: ColumnIndex<<Self as Database>::Row>>
    + for<'c> Imply<&'c mut <Self as Database>::Connection, Is: Executor<'c, Database = Self>>
    + for<'p> Imply<&'p Pool<Self>, Is: Executor<'p, Database = Self>>
{
    /// Opens a transaction that is going to write: SQLite takes the write lock at once, because a
    /// transaction that reads first and writes later can fail with `SQLITE_BUSY` half-way.
    const BEGIN: &'static str;
}

mod sealed {
    use std::sync::Arc;

    use sqlx::pool::PoolOptions;
    use sqlx::postgres::PgConnectOptions;
    use sqlx::sqlite::SqliteConnectOptions;
    use sqlx::{Connection, Database, Pool, Postgres, Sqlite};

    use crate::db::gate::CommitGate;

    /// What the unit of work needs to know of a database; none of a user's business.
    pub trait Sealed: Database {
        /// Units of work share transactions, because there is only one writer anyway.
        const GROUP_COMMIT: bool;
        /// A statement that fails in a transaction that has failed, if COMMIT does not tell.
        const BEFORE_COMMIT: Option<&'static str>;
        /// Whether `sqlx`'s migrator keeps others out while it runs.
        const MIGRATOR_LOCKS: bool;
        /// Whether a statement of many parameters had better not number them all: SQLite takes `$7` for a
        /// name, and finds a parameter's name by walking through those before it.
        const PLAIN_PARAMETERS: bool;
        /// Whether this failure of COMMIT is certain to have committed nothing.
        fn refuses_commit(error: &sqlx::Error) -> bool;
        /// Why no connection comes about, if that can be said better than the error says it.
        fn connect_trouble(
            options: &<Self::Connection as Connection>::Options,
            error: &sqlx::Error,
        ) -> Option<String>;
        /// A pool of one connection whose commits go through the gate.
        fn gated_pool(
            options: <Self::Connection as Connection>::Options,
            gate: &Arc<CommitGate>,
        ) -> Pool<Self>;
    }

    impl Sealed for Postgres {
        const GROUP_COMMIT: bool = false;
        const BEFORE_COMMIT: Option<&'static str> = Some("select 1");
        const MIGRATOR_LOCKS: bool = true;
        const PLAIN_PARAMETERS: bool = false;
        /// The server's own word that it rolled back and lives on. FATAL and PANIC (it is being
        /// shut down, it can't write its log) end the session, and the commit record may have
        /// been written first.
        fn refuses_commit(error: &sqlx::Error) -> bool {
            let said = error
                .as_database_error()
                .and_then(|e| e.try_downcast_ref::<sqlx::postgres::PgDatabaseError>());
            said.is_some_and(|said| {
                said.severity() == sqlx::postgres::PgSeverity::Error
                    && !said.code().starts_with("57")
                    && !said.code().starts_with("08")
            })
        }
        fn connect_trouble(options: &PgConnectOptions, error: &sqlx::Error) -> Option<String> {
            Some(crate::db::connect_trouble(options, error))
        }
        fn gated_pool(
            options: <Self::Connection as Connection>::Options,
            _gate: &Arc<CommitGate>,
        ) -> Pool<Self> {
            PoolOptions::new()
                .max_connections(1)
                .connect_lazy_with(options)
        }
    }

    impl Sealed for Sqlite {
        const GROUP_COMMIT: bool = true;
        const BEFORE_COMMIT: Option<&'static str> = None;
        const MIGRATOR_LOCKS: bool = false;
        const PLAIN_PARAMETERS: bool = true;
        /// BUSY, FULL and CONSTRAINT (deferred foreign keys). Not IOERR: after a failed fsync the
        /// commit may be in the log all the same, and a crash before the next write recovers it.
        fn refuses_commit(error: &sqlx::Error) -> bool {
            let code = error.as_database_error().and_then(|e| e.code());
            let code = code.and_then(|code| code.parse::<u32>().ok());
            matches!(code.map(|code| code & 0xff), Some(5 | 13 | 19))
        }
        fn connect_trouble(_: &SqliteConnectOptions, _: &sqlx::Error) -> Option<String> {
            None
        }
        fn gated_pool(
            options: <Self::Connection as Connection>::Options,
            gate: &Arc<CommitGate>,
        ) -> Pool<Self> {
            let gate = Arc::clone(gate);
            // What a savepoint may undo is kept in memory, a unit of work that changes more than SQLite's two
            // megabytes of pages does not write them twice, and the pages that every commit changes are copied
            // out of the log every 16 MB, not every 4: half of a consumer's time went there.
            let options = options
                .pragma("temp_store", "memory")
                .pragma("cache_size", "-16384")
                .pragma("wal_autocheckpoint", "4000");
            PoolOptions::new()
                .max_connections(1)
                .test_before_acquire(false)
                .after_connect(move |conn, _| {
                    let gate = Arc::clone(&gate);
                    Box::pin(async move { gate.install(conn).await })
                })
                .connect_lazy_with(options)
        }
    }
}

impl Backend for Postgres {
    const BEGIN: &'static str = "BEGIN";
}
impl Backend for Sqlite {
    const BEGIN: &'static str = "BEGIN IMMEDIATE";
}

/// `rows_affected` without naming the database.
pub trait QueryResult: std::fmt::Debug {
    /// Rows inserted, updated or deleted by the statement.
    fn rows_affected(&self) -> u64;
}
impl QueryResult for sqlx::postgres::PgQueryResult {
    fn rows_affected(&self) -> u64 {
        self.rows_affected()
    }
}
impl QueryResult for sqlx::sqlite::SqliteQueryResult {
    fn rows_affected(&self) -> u64 {
        self.rows_affected()
    }
}

/// Anything that is, or holds, a connection: a transaction, a pooled connection, a plain one.
///
/// [`crate::Outbox::append`] takes it and refuses a connection without an open transaction.
pub trait OutboxConnection<B: Backend>: Send {
    /// The connection inside.
    fn connection(&mut self) -> &mut B::Connection;
}
impl<B: Backend> OutboxConnection<B> for Transaction<'_, B> {
    fn connection(&mut self) -> &mut B::Connection {
        self
    }
}
impl<B: Backend> OutboxConnection<B> for sqlx::pool::PoolConnection<B> {
    fn connection(&mut self) -> &mut B::Connection {
        self
    }
}
impl OutboxConnection<Postgres> for sqlx::PgConnection {
    fn connection(&mut self) -> &mut Self {
        self
    }
}
impl OutboxConnection<Sqlite> for sqlx::SqliteConnection {
    fn connection(&mut self) -> &mut Self {
        self
    }
}

/// Whether the connection has a transaction open.
pub(crate) fn in_transaction<B: Backend>(conn: &B::Connection) -> bool {
    conn.is_in_transaction()
}
