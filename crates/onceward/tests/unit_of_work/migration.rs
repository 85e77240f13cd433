//! Migrations.

use onceward::schema;
use onceward::{SourceName, sqlite_options};
use sqlx::SqlitePool;
use sqlx::{ConnectOptions, Connection};

#[tokio::test]
async fn processes_that_migrate_one_sqlite_file_at_the_same_time_all_succeed() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/shared.db", folder.path().display());
        let options = sqlite_options(&url).unwrap();
        let made = options.clone().create_if_missing(true).connect().await;
        made.unwrap().close().await.unwrap();
        // Each pool has connections of its own, as a process has.
        let migrations = (0..6).map(|_| {
            let options = options.clone();
            async move {
                let pool = SqlitePool::connect_with(options).await.unwrap();
                schema::migrate(&pool, &SourceName::new("shared").unwrap()).await
            }
        });
        for migrated in futures::future::join_all(migrations).await {
            migrated.unwrap();
        }
    }
}

#[tokio::test]
async fn a_database_of_another_time_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/old.db", folder.path().display());
    let options = sqlite_options(&url).unwrap().create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    let name = SourceName::new("old").unwrap();
    let refusal = async || schema::check(&pool, &name).await.unwrap_err().to_string();
    assert_eq!(
        refusal().await,
        "this database has not been migrated (_onceward_migrations is missing); \
         run `onceward schema migrate URL --source NAME`"
    );
    schema::migrate(&pool, &name).await.unwrap();
    sqlx::query("delete from _onceward_migrations where version = 2")
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(
        refusal().await,
        "this database is too old: _onceward_migrations lacks migrations [2]; \
         run `onceward schema migrate URL --source NAME`"
    );
}
