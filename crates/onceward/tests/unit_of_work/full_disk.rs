//! A SQLite file on a disk that is full for a while.

use onceward::schema::migrate;
use onceward::{Backend, Db, OpenOptions, SourceName, WriteError};
use onceward_testkit::disk::SmallDisk;
use sqlx::Sqlite;

use super::{ids, write};

/// Of a row that has no room.
const BIG: &str = "insert into big values (randomblob(3000000))";

/// Two ways to write: units of work of the library, and transactions of one's own on its pool.
#[tokio::test]
async fn writes_fail_while_the_disk_is_full_and_go_on_behind_it() {
    if !SmallDisk::is_allowed() {
        eprintln!("not run: only root can mount a disk");
        return;
    }
    let disk = SmallDisk::mount(8).unwrap();
    let url = format!("sqlite://{}/test.db?mode=rwc", disk.path().display());
    let db = Db::<Sqlite>::open(&url, OpenOptions::default())
        .await
        .unwrap();
    migrate(db.pool(), &SourceName::new("test").unwrap())
        .await
        .unwrap();
    sqlx::query("create table thing (id bigint primary key, parent bigint)")
        .execute(db.pool())
        .await
        .unwrap();
    sqlx::query("create table big (bytes blob)")
        .execute(db.pool())
        .await
        .unwrap();
    write(&db, 1).await.unwrap();

    disk.fill().unwrap();
    // More than the pool has connections: not one may be spoiled.
    for _ in 0..10 {
        let refused = db
            .write(async |tx| sqlx::query(BIG).execute(&mut **tx).await.map(drop))
            .await;
        assert!(
            matches!(
                &refused,
                Err(WriteError::Refused(_) | WriteError::NotCommitted(_))
            ),
            "{refused:?}"
        );
        let mut tx = db.pool().begin_with(Sqlite::BEGIN).await.unwrap();
        let written = sqlx::query(BIG).execute(&mut *tx).await;
        let ended = match written {
            Ok(_) => tx.commit().await,
            Err(error) => Err(error),
        };
        assert!(ended.unwrap_err().to_string().contains("full"));
    }
    disk.free().unwrap();

    write(&db, 2).await.unwrap();
    let mut tx = db.pool().begin_with(Sqlite::BEGIN).await.unwrap();
    sqlx::query("insert into thing values (3, null)")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(ids(&db).await, [1, 2, 3]);
}
