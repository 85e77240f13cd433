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
