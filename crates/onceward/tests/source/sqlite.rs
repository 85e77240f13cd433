//! What only a file can do.

use std::time::Duration;

use onceward::source::{Claim, Loss, SourceStore, Wake, Woken};
use sqlx::Sqlite;

use super::support::*;

#[tokio::test]
async fn a_commit_of_anybody_wakes() {
    let db = Sqlite::database().await;
    let mut wake = db.store().await.wake().await.unwrap();
    while wake.wait(Duration::from_millis(20)).await == Woken::Hint {}
    assert_eq!(wake.idle_poll(), Duration::from_millis(250));
    let (woken, _) = tokio::join!(wake.wait(Duration::from_secs(10)), db.append("k", "1"));
    assert_eq!(woken, Woken::Hint);
    // A commit between two waits is not missed.
    db.append("k", "2").await;
    assert_eq!(wake.wait(Duration::from_secs(10)).await, Woken::Hint);
}

#[tokio::test]
async fn a_dead_owner_is_replaced_at_once() {
    let db = Sqlite::database().await;
    let mut owner = db.store().await;
    let old = owned(owner.claim("a", true).await.unwrap());
    let mut standby = db.store().await;
    assert!(matches!(
        standby.claim("b", true).await.unwrap(),
        Claim::Held { .. }
    ));
    // The kernel lets go of a dead process's lock, as this does.
    drop(owner);
    let new = owned(standby.claim("b", false).await.unwrap());
    assert!(new > old);
}

#[tokio::test]
async fn an_owner_that_could_not_get_the_lock_file_is_not_taken_for_dead() {
    let db = Sqlite::database().await;
    let mut frozen = db.store().await;
    owned(frozen.claim("a", true).await.unwrap());
    expire_lease(&db).await;
    let mut owner = db.store().await;
    let epoch = owned(owner.claim("b", true).await.unwrap());
    // The frozen one dies; its lock was not the owner's.
    drop(frozen);
    let mut third = db.store().await;
    assert!(matches!(
        third.claim("c", true).await.unwrap(),
        Claim::Held { .. }
    ));
    // From its next renewal on the owner has the lock.
    owner.renew(epoch).await.unwrap();
    assert!(matches!(
        third.claim("c", false).await.unwrap(),
        Claim::Held { .. }
    ));
    drop(owner);
    owned(third.claim("c", false).await.unwrap());
}

#[tokio::test]
async fn a_file_put_in_the_place_of_the_open_one_stops_the_source() {
    let db = Sqlite::database().await;
    let mut follower = Follower::start(&db).await;
    db.append("k", "1").await;
    follower.drain().await;
    let folder = db.folder.as_ref().unwrap().path();
    let copy = folder.join("copy.db");
    std::fs::copy(folder.join("order.db"), &copy).unwrap();
    std::fs::rename(&copy, folder.join("order.db")).unwrap();
    let error = loss(follower.fetch(10).await.unwrap_err());
    assert!(matches!(error, Loss::FileReplaced { .. }), "{error}");
    let error = loss(follower.store.reconnect().await.unwrap_err());
    assert!(matches!(error, Loss::FileReplaced { .. }), "{error}");
}

/// The relay was stopped while an old copy was put back.
#[tokio::test]
async fn a_file_restored_from_a_copy_stops_even_after_it_has_overtaken_the_cursor() {
    let db = Sqlite::database().await;
    let mut follower = Follower::start(&db).await;
    db.append_many("k", 5).await;
    follower.drain().await;
    follower.mirror().await;
    let folder = db.folder.as_ref().unwrap().path();
    let backup = folder.join("backup.db");
    sqlx::query("vacuum into $1")
        .bind(backup.to_str().unwrap())
        .execute(&db.pool)
        .await
        .unwrap();
    db.append_many("k", 3).await;
    follower.drain().await;
    follower.store.close().await.unwrap();
    db.pool.close().await;
    std::fs::rename(&backup, folder.join("order.db")).unwrap();
    for gone in ["order.db-wal", "order.db-shm"] {
        let _ = std::fs::remove_file(folder.join(gone));
    }
    let restored = TestDb {
        url: db.url.clone(),
        pool: sqlite_pool(&db.url).await,
        folder: None,
    };
    restored.append_many("k", 10).await;
    follower.store = restored.store().await;
    let error = loss(follower.fetch(100).await.unwrap_err());
    assert!(
        matches!(error, Loss::LastRowReplaced { seq: 8, .. }),
        "{error}"
    );
    let at = place(follower.offset);
    let error = loss(
        follower
            .store
            .take_over(follower.epoch, &follower.progress, at)
            .await
            .unwrap_err(),
    );
    assert_eq!(error, Loss::RowIds);
}

#[tokio::test]
async fn an_empty_path_is_not_made_a_database() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing.db");
    let url = format!("sqlite://{}", path.display());
    assert!(SourceStore::<Sqlite>::open(&url, &name()).await.is_err());
    assert!(!path.exists());
}
