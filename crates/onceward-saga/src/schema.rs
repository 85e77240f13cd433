//! This library's tables.

use onceward::schema::{SchemaBackend, run_line};
use onceward::{Backend, Clock, Micros, Result};
use sqlx::migrate::Migrator;
use sqlx::{Pool, Postgres, Sqlite};

static POSTGRES: Migrator = sqlx::migrate!("./migrations/postgres");
static SQLITE: Migrator = sqlx::migrate!("./migrations/sqlite");

/// Bookkeeping table of this line of migrations.
const BOOKKEEPING: &str = "_onceward_saga_migrations";

/// What sagas need to know of a database.
pub trait SagaBackend: SchemaBackend {
    /// Its migrations.
    fn saga_migrations() -> &'static Migrator;

    /// The one clock timers go by: Postgres' own, because the hosts of two runners disagree; for
    /// SQLite this host's, because there is no other.
    fn timer_now(
        conn: &mut Self::Connection,
        clock: &dyn Clock,
    ) -> impl Future<Output = Result<Micros, sqlx::Error>> + Send;
}

impl SagaBackend for Postgres {
    fn saga_migrations() -> &'static Migrator {
        &POSTGRES
    }
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
    fn saga_migrations() -> &'static Migrator {
        &SQLITE
    }
    async fn timer_now(
        _conn: &mut Self::Connection,
        clock: &dyn Clock,
    ) -> Result<Micros, sqlx::Error> {
        Ok(clock.now())
    }
}

/// Brings the saga tables up to date. May run again and concurrently. A coordinator needs them for
/// its sagas and timers, a participant for its steps.
///
/// # Errors
/// [`onceward::Error::Migration`] and [`onceward::Error::Database`].
pub async fn migrate<B: SagaBackend>(pool: &Pool<B>) -> Result<()> {
    run_line(pool, B::saga_migrations(), BOOKKEEPING).await
}

/// Refuses a database without the saga tables.
///
/// # Errors
/// [`onceward::Error::Schema`].
pub async fn check<B: Backend>(pool: &Pool<B>) -> Result<()> {
    match sqlx::query("select 1 from saga_instance where version < 0")
        .execute(pool)
        .await
    {
        Ok(_) => Ok(()),
        Err(sqlx::Error::Database(_)) => Err(onceward::Error::Schema {
            what: "the saga tables are missing".to_owned(),
        }),
        Err(source) => Err(onceward::Error::database("saga schema check")(source)),
    }
}
