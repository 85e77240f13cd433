//! This library's tables.

use onceward::schema::{Line, SchemaBackend};
use onceward::{Clock, Micros, Result};
use sqlx::migrate::Migrator;
use sqlx::{Pool, Postgres, Sqlite};

static POSTGRES: Migrator = sqlx::migrate!("./migrations/postgres");
static SQLITE: Migrator = sqlx::migrate!("./migrations/sqlite");

/// The saga tables: a coordinator needs them for its sagas and timers, a participant for its steps.
pub const LINE: Line = Line {
    bookkeeping: "_onceward_saga_migrations",
    postgres: &POSTGRES,
    sqlite: &SQLITE,
};

/// What sagas need to know of a database.
pub trait SagaBackend: SchemaBackend {
    /// Timers fired at the same time: on Postgres as many as a [`onceward::Db`] has connections to
    /// write on, on SQLite as many as one group commits together.
    const TIMERS_AT_ONCE: usize;

    /// The one clock timers go by: Postgres' own, because the hosts of two runners disagree; for
    /// SQLite this host's, because there is no other.
    fn timer_now(
        conn: &mut Self::Connection,
        clock: &dyn Clock,
    ) -> impl Future<Output = Result<Micros, sqlx::Error>> + Send;
}

impl SagaBackend for Postgres {
    const TIMERS_AT_ONCE: usize = 8;

    async fn timer_now(
        conn: &mut Self::Connection,
        _clock: &dyn Clock,
    ) -> Result<Micros, sqlx::Error> {
        // clock_timestamp(), not now(): that one stands still within a transaction, and a timer
        // that waited for the saga's lock would look too early.
        sqlx::query_scalar("select (extract(epoch from clock_timestamp()) * 1000000)::bigint")
            .fetch_one(conn)
            .await
    }
}

impl SagaBackend for Sqlite {
    const TIMERS_AT_ONCE: usize = 1_000;

    async fn timer_now(
        _conn: &mut Self::Connection,
        clock: &dyn Clock,
    ) -> Result<Micros, sqlx::Error> {
        Ok(clock.now())
    }
}

/// Brings the saga tables up to date. May run again and concurrently.
///
/// # Errors
/// [`onceward::Error::Migration`] and [`onceward::Error::Database`].
pub async fn migrate<B: SchemaBackend>(pool: &Pool<B>) -> Result<()> {
    LINE.migrate(pool).await
}

/// Refuses a database whose saga tables are not those this library knows.
///
/// # Errors
/// [`onceward::Error::Schema`].
pub async fn check<B: SchemaBackend>(pool: &Pool<B>) -> Result<()> {
    LINE.check(pool).await
}
