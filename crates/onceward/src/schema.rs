//! The library's tables: made by [`migrate`], looked at by [`check`].
//!
//! [`migrate`] may run at every start of a service, in several processes at once; or let an operator run
//! `onceward schema migrate` and only [`check`] in the service.
//!
//! # Upgrades
//!
//! Migrations go forward only, and programs of one version and the next work on one database side by
//! side:
//!
//! * A migration **adds** (tables, indexes, columns that may be null or have a default), so that a program
//!   that has never heard of it goes on. It is fine to meet one.
//! * What is no longer used is taken away by a later migration, whose file name ends with the number of
//!   the migration a program must know to live without it: `0012_drop_owner_needs_0010.sql`. A program
//!   that does not know migration 10 refuses that database, in one line.
//! * A database that lacks a migration is refused as well: migrate first, then start the new program.
//!
//! The lines of your own tables ([`Line`]) follow the same rules.

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
    ///
    /// # Errors
    /// [`Error::Migration`], [`Error::Database`], and those of [`Self::check`].
    pub async fn migrate<B: SchemaBackend>(&self, pool: &Pool<B>) -> Result<()> {
        run_line(pool, B::of_line(self), self.bookkeeping).await
    }

    /// Refuses a database that lacks a migration of this line, or has one that takes away what this
    /// program needs. A newer one that only adds is fine.
    ///
    /// # Errors
    /// [`Error::Schema`], [`Error::SchemaTooNew`], [`Error::Database`].
    pub async fn check<B: SchemaBackend>(&self, pool: &Pool<B>) -> Result<()> {
        let mut conn = pool.acquire().await.map_err(Error::database("connect"))?;
        check_line::<B>(&mut conn, B::of_line(self), self.bookkeeping).await
    }
}

/// Refuses a database that is not the source `name`, lacks one of the library's migrations, or has one
/// that takes away what this program needs. For a service at its start; the relay does the same on
/// each connection.
///
/// # Errors
/// [`Error::OtherSource`], [`Error::Schema`], [`Error::SchemaTooNew`], [`Error::Database`].
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
    let statement =
        format!("select version, description from {bookkeeping} where success order by version");
    let applied: Vec<(i64, String)> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .fetch_all(conn)
        .await
        .map_err(|error| match error {
            sqlx::Error::Database(reason) if is_missing_table(&*reason) => Error::Schema {
                what: format!("this database has not been migrated ({bookkeeping} is missing)"),
            },
            other => Error::database("schema check")(other),
        })?;
    let known: Vec<i64> = migrations.iter().map(|m| m.version).collect();
    compare(&known, &applied, bookkeeping)
}

/// Whether a program that knows the migrations `known` can work where `applied` ran.
fn compare(known: &[i64], applied: &[(i64, String)], bookkeeping: &str) -> Result<()> {
    let newest = known.iter().max().copied().unwrap_or_default();
    let newer = applied.iter().filter(|(v, _)| !known.contains(v));
    for (version, description) in newer {
        if needs(description).is_some_and(|needed| needed > newest) {
            return Err(Error::SchemaTooNew {
                migration: format!("{version:04} {description} of {bookkeeping}"),
                newest,
            });
        }
    }
    let is_missing = |version: &&i64| !applied.iter().any(|(v, _)| v == *version);
    let missing: Vec<i64> = known.iter().filter(is_missing).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Schema {
        what: format!("this database is too old: {bookkeeping} lacks migrations {missing:?}"),
    })
}

/// `drop owner needs 0010`: what a program must know to live without what was taken away. `None` for
/// a migration that only adds.
fn needs(description: &str) -> Option<i64> {
    description.rsplit_once("needs ")?.1.trim().parse().ok()
}

/// Brings the library's tables up to date and makes this database the source `name`.
///
/// May run again and concurrently; refuses a database that already is another source, or that a newer
/// program has taken something away from (see [the module](self)).
///
/// # Errors
/// [`Error::OtherSource`], [`Error::SchemaTooNew`], [`Error::Migration`], [`Error::Database`].
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
    // A newer program may have been here; `check_line` says whether that is fine.
    line.set_ignore_missing(true);
    let mut outcome = if B::MIGRATOR_LOCKS {
        line.run_direct(None, &mut conn, false)
            .await
            .map_err(Error::Migration)
    } else {
        run_locked::<B>(&line, &mut conn).await
    };
    if outcome.is_ok() {
        outcome = check_line::<B>(&mut conn, migrations, bookkeeping).await;
    }
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

#[cfg(test)]
mod tests {
    use super::{compare, needs};
    use crate::Error;

    fn applied(names: &[(i64, &str)]) -> Vec<(i64, String)> {
        names.iter().map(|(v, n)| (*v, (*n).to_owned())).collect()
    }

    #[test]
    fn a_newer_migration_that_only_adds_is_fine() {
        let found = applied(&[(1, "outbox"), (2, "inbox"), (3, "add owner")]);
        compare(&[1, 2], &found, "_t").unwrap();
    }

    #[test]
    fn a_newer_migration_that_takes_away_is_fine_for_those_who_know_what_came_instead() {
        let found = applied(&[(1, "outbox"), (2, "inbox"), (3, "drop old needs 0002")]);
        compare(&[1, 2], &found, "_t").unwrap();
        let refused = compare(&[1], &found, "_t").unwrap_err();
        assert!(
            matches!(refused, Error::SchemaTooNew { newest: 1, .. }),
            "{refused}"
        );
        assert_eq!(needs("drop old needs 0002"), Some(2));
        assert_eq!(needs("say what it needs"), None);
    }

    #[test]
    fn a_database_that_lacks_a_migration_is_refused() {
        let refused = compare(&[1, 2], &applied(&[(1, "outbox")]), "_t").unwrap_err();
        assert!(
            refused.to_string().contains("lacks migrations [2]"),
            "{refused}"
        );
    }
}
