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
    /// The migrations of `line` for this database.
    fn of_line(line: &Line) -> &'static Migrator;
}
impl SchemaBackend for Postgres {
    fn outbox_migrations() -> &'static Migrator {
        &POSTGRES
    }
    fn of_line(line: &Line) -> &'static Migrator {
        line.postgres
    }
}
impl SchemaBackend for Sqlite {
    fn outbox_migrations() -> &'static Migrator {
        &SQLITE
    }
    fn of_line(line: &Line) -> &'static Migrator {
        line.sqlite
    }
}

/// One line of migrations with its own bookkeeping, for both databases.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// Its bookkeeping table; each line has its own.
    pub bookkeeping: &'static str,
    /// The migrations for Postgres.
    pub postgres: &'static Migrator,
    /// The migrations for SQLite.
    pub sqlite: &'static Migrator,
}

impl Line {
    /// A line whose SQL both databases understand.
    pub const fn portable(bookkeeping: &'static str, migrations: &'static Migrator) -> Self {
        Self {
            bookkeeping,
            postgres: migrations,
            sqlite: migrations,
        }
    }

    /// Brings this line up to date. May run again.
    pub async fn migrate<B: SchemaBackend>(&self, pool: &Pool<B>) -> Result<()> {
        run_line(pool, B::of_line(self), self.bookkeeping).await
    }

    /// Refuses a database that lacks a migration of this line, or has one that this program does
    /// not know.
    pub async fn check<B: SchemaBackend>(&self, pool: &Pool<B>) -> Result<()> {
        let mut conn = pool.acquire().await.map_err(Error::database("connect"))?;
        check_line::<B>(&mut conn, B::of_line(self), self.bookkeeping).await
    }
}

/// Refuses a database that is not the source `name` or lacks one of the library's migrations. For
/// a service at its start; the relay does the same on each connection.
pub async fn check<B: SchemaBackend>(pool: &Pool<B>, name: &SourceName) -> Result<()> {
    let mut conn = pool.acquire().await.map_err(Error::database("connect"))?;
    check_connection::<B>(&mut conn, name).await
}

/// [`check`] on one connection.
pub(crate) async fn check_connection<B: SchemaBackend>(
    conn: &mut B::Connection,
    name: &SourceName,
) -> Result<()> {
    check_line::<B>(conn, B::outbox_migrations(), BOOKKEEPING).await?;
    let stored: Option<String> = sqlx::query_scalar("select name from outbox_source where id = 1")
        .fetch_optional(conn)
        .await
        .map_err(Error::database("source lookup"))?;
    match stored {
        Some(stored) if stored == name.as_str() => Ok(()),
        Some(found) => Err(Error::OtherSource {
            found,
            expected: name.clone(),
        }),
        None => Err(Error::Schema {
            what: "this database has not been made a source".into(),
        }),
    }
}

async fn check_line<B: Backend>(
    conn: &mut B::Connection,
    migrations: &Migrator,
    bookkeeping: &'static str,
) -> Result<()> {
    let statement = format!("select version from {bookkeeping} where success order by version");
    let applied: Vec<i64> = sqlx::query_scalar(sqlx::AssertSqlSafe(statement))
        .fetch_all(conn)
        .await
        .map_err(|error| match error {
            sqlx::Error::Database(reason) if is_missing_table(&*reason) => Error::Schema {
                what: format!("this database has not been migrated ({bookkeeping} is missing)"),
            },
            other => Error::database("schema check")(other),
        })?;
    let known: Vec<i64> = migrations.iter().map(|m| m.version).collect();
    if applied == known {
        return Ok(());
    }
    Err(Error::Schema {
        what: format!(
            "{bookkeeping} says that migrations {applied:?} were applied, this program needs {known:?}"
        ),
    })
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
    let outcome = if B::MIGRATOR_LOCKS {
        line.run_direct(None, &mut conn, false)
            .await
            .map_err(Error::Migration)
    } else {
        run_locked::<B>(&line, &mut conn).await
    };
    let closed = sqlx::Connection::close(conn)
        .await
        .map_err(Error::database("disconnect"));
    outcome.and(closed)
}

/// Runs a line inside one transaction that holds the database's write lock: two processes that
/// migrate at the same time would both find it undone. The migrations' own transactions become
/// savepoints, so the line is done as a whole or not at all.
async fn run_locked<B: Backend>(line: &Migrator, conn: &mut B::Connection) -> Result<()> {
    let mut tx = sqlx::Connection::begin_with(conn, B::BEGIN)
        .await
        .map_err(Error::database("schema lock"))?;
    let outcome = line.run_direct(None, &mut *tx, false).await;
    // CRASH: died before the commit = nothing of the line is done; after it = all of it is.
    match outcome {
        Ok(()) => tx.commit().await.map_err(Error::database("schema commit")),
        Err(error) => {
            tx.rollback()
                .await
                .map_err(Error::database("schema rollback"))?;
            Err(Error::Migration(error))
        }
    }
}

fn is_missing_table(reason: &dyn sqlx::error::DatabaseError) -> bool {
    // Postgres: undefined_table. SQLite has no code of its own for it.
    reason.code().as_deref() == Some("42P01") || reason.message().starts_with("no such table")
}
