//! The library's tables: migration and version check.

use sqlx::migrate::Migrator;
use sqlx::{Pool, Postgres, Sqlite};

use crate::{Backend, Clock, Error, IdGen, Result, SourceName, SystemClock, UuidV7};

static POSTGRES: Migrator = sqlx::migrate!("./migrations/postgres");
static SQLITE: Migrator = sqlx::migrate!("./migrations/sqlite");

/// Bookkeeping table of this line of migrations; each line has its own, else they refuse each
/// other's versions.
const BOOKKEEPING: &str = "_onceward_migrations";

/// The library's migrations for one database.
pub trait SchemaBackend: Backend {
    /// Its migrations.
    fn outbox_migrations() -> &'static Migrator;
}
impl SchemaBackend for Postgres {
    fn outbox_migrations() -> &'static Migrator {
        &POSTGRES
    }
}
impl SchemaBackend for Sqlite {
    fn outbox_migrations() -> &'static Migrator {
        &SQLITE
    }
}

/// Brings the library's tables up to date and makes this database the source `name`.
///
/// May run again and concurrently; refuses a database that already is another source.
pub async fn migrate<B: SchemaBackend>(pool: &Pool<B>, name: &SourceName) -> Result<()> {
    run_line(pool, B::outbox_migrations(), BOOKKEEPING).await?;
    let (clock, ids) = (SystemClock, UuidV7);
    sqlx::query(
        "insert into outbox_source (id, name, source_id, created_at) values (1, $1, $2, $3) \
         on conflict (id) do nothing",
    )
    .bind(name.as_str())
    .bind(ids.next())
    .bind(clock.now())
    .execute(pool)
    .await
    .map_err(Error::database("source registration"))?;
    let found: String = sqlx::query_scalar("select name from outbox_source where id = 1")
        .fetch_one(pool)
        .await
        .map_err(Error::database("source lookup"))?;
    if found != name.as_str() {
        return Err(Error::OtherSource {
            found,
            expected: name.clone(),
        });
    }
    Ok(())
}

/// Runs one line of migrations with its own bookkeeping table, on a connection of its own that is
/// closed afterwards: a failed run would leave Postgres' advisory lock on a pooled session, and
/// the next run would wait for it for ever.
pub async fn run_line<B: Backend>(
    pool: &Pool<B>,
    migrations: &Migrator,
    bookkeeping: &'static str,
) -> Result<()> {
    let mut conn = pool
        .acquire()
        .await
        .map_err(Error::database("connect"))?
        .detach();
    let mut line = Migrator {
        migrations: migrations.migrations.clone(),
        ..Migrator::DEFAULT
    };
    line.dangerous_set_table_name(bookkeeping);
    let outcome = line
        .run_direct(None, &mut conn, false)
        .await
        .map_err(Error::Migration);
    let closed = sqlx::Connection::close(conn)
        .await
        .map_err(Error::database("disconnect"));
    outcome.and(closed)
}
