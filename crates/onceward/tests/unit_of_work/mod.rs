//! `db.write` on both databases.

mod commit;
mod crash;
mod death;
mod full_disk;
mod group;
mod idempotency;
mod migration;
mod plain;

use std::time::Duration;

use onceward::schema::{self, SchemaBackend};
use onceward::{Db, OpenOptions, SourceName, Tx, WriteError, sqlite_options};
use sqlx::{ConnectOptions, Connection, Postgres, Sqlite};
use tempfile::TempDir;

/// Longest time a unit of work may take in these tests.
const LIMIT: Duration = Duration::from_millis(500);

fn options() -> OpenOptions {
    OpenOptions {
        write_time_limit: LIMIT,
    }
}

async fn on_sqlite() -> (TempDir, String, Db<Sqlite>) {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/test.db", dir.path().display());
    let made = sqlite_options(&url).unwrap().create_if_missing(true);
    made.connect().await.unwrap().close().await.unwrap();
    let db = Db::<Sqlite>::open(&url, options()).await.unwrap();
    prepare(&db).await;
    (dir, url, db)
}

async fn on_postgres() -> (String, Db<Postgres>) {
    let url = tokio::task::spawn_blocking(|| {
        onceward_testkit::postgres::shared()
            .unwrap()
            .create_database()
            .unwrap()
    })
    .await
    .unwrap();
    let db = Db::<Postgres>::open(&url, options()).await.unwrap();
    prepare(&db).await;
    (url, db)
}

/// The library's tables, and `thing(id primary key, parent references thing, deferred)`.
async fn prepare<B: SchemaBackend>(db: &Db<B>) {
    let name = SourceName::new("test").unwrap();
    schema::migrate(db.pool(), &name).await.unwrap();
    sqlx::query(
        "create table thing (id bigint primary key, \
         parent bigint references thing deferrable initially deferred)",
    )
    .execute(db.pool())
    .await
    .unwrap();
}

async fn insert<B: SchemaBackend>(tx: &mut Tx<'static, B>, id: i64) -> Result<(), sqlx::Error> {
    sqlx::query("insert into thing (id) values ($1)")
        .bind(id)
        .execute(&mut **tx)
        .await
        .map(drop)
}

/// Inserts one row and answers.
async fn write<B: SchemaBackend>(db: &Db<B>, id: i64) -> Result<(), WriteError<sqlx::Error>> {
    db.write(async move |tx: &mut Tx<'static, B>| insert(tx, id).await)
        .await
}

async fn ids<B: SchemaBackend>(db: &Db<B>) -> Vec<i64> {
    sqlx::query_scalar("select id from thing order by id")
        .fetch_all(db.pool())
        .await
        .unwrap()
}
