//! Group commit on SQLite: bad members among good ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use onceward::{Db, Tx, Write, WriteError, sqlite_options};
use sqlx::{ConnectOptions, Sqlite};

use super::{LIMIT, ids, insert, on_sqlite, write};

type SqliteTx = Tx<'static, Sqlite>;
type Outcome = Write<(), sqlx::Error>;

/// Queues `bad` between 20 good members behind a member that gives them time to queue, so that all
/// are of one group; returns what became of the bad one. The good ones must commit exactly once.
async fn among_good_ones(
    db: &Db<Sqlite>,
    bad: impl FnOnce(&Db<Sqlite>) -> Outcome,
) -> Result<(), WriteError<sqlx::Error>> {
    let first = db.write(async |tx: &mut SqliteTx| {
        tokio::time::sleep(Duration::from_millis(10)).await;
        insert(tx, 0).await
    });
    let good = |id: i64| db.write(async move |tx: &mut SqliteTx| insert(tx, id).await);
    let before: Vec<Outcome> = (1..=10).map(good).collect();
    let bad = bad(db);
    let after: Vec<Outcome> = (11..=20).map(good).collect();
    first.await.unwrap();
    for outcome in before.into_iter().chain(after) {
        outcome.await.unwrap();
    }
    let became = bad.await;
    assert_eq!(ids(db).await, (0..=20).collect::<Vec<i64>>());
    became
}

#[tokio::test]
async fn members_share_a_transaction_and_are_answered_after_its_commit() {
    let (_dir, _url, db) = on_sqlite().await;
    let pool = db.pool().clone();
    let first = db.write(async |tx: &mut SqliteTx| {
        tokio::time::sleep(Duration::from_millis(10)).await;
        insert(tx, 1).await
    });
    let second = db.write(async move |tx: &mut SqliteTx| {
        let count = "select count(*) from thing";
        let inside: i64 = sqlx::query_scalar(count).fetch_one(&mut **tx).await?;
        let outside: i64 = sqlx::query_scalar(count).fetch_one(&pool).await?;
        Ok::<_, sqlx::Error>((inside, outside))
    });
    let (first, second) = tokio::join!(first, second);
    first.unwrap();
    assert_eq!(
        second.unwrap(),
        (1, 0),
        "the first is not committed when the second runs"
    );
}

#[tokio::test]
async fn a_failing_member_leaves_the_others_alone() {
    let (_dir, _url, db) = on_sqlite().await;
    let became = among_good_ones(&db, |db| {
        db.write(async |tx: &mut SqliteTx| {
            insert(tx, 99).await?;
            insert(tx, 1).await // a duplicate
        })
    })
    .await;
    assert!(
        matches!(became, Err(WriteError::Refused(sqlx::Error::Database(_)))),
        "{became:?}"
    );
}

#[tokio::test]
async fn a_panicking_member_leaves_the_others_alone() {
    let (_dir, _url, db) = on_sqlite().await;
    let became = among_good_ones(&db, |db| {
        db.write(async |tx: &mut SqliteTx| {
            insert(tx, 99).await?;
            panic!("on purpose")
        })
    })
    .await;
    let Err(WriteError::Panicked { message }) = became else {
        panic!("{became:?}")
    };
    assert_eq!(message, "on purpose");
}

#[tokio::test]
async fn a_member_that_hangs_is_cancelled_and_leaves_the_others_alone() {
    let (_dir, _url, db) = on_sqlite().await;
    let became = among_good_ones(&db, |db| {
        db.write(async |tx: &mut SqliteTx| {
            insert(tx, 99).await?;
            std::future::pending().await
        })
    })
    .await;
    assert!(
        matches!(became, Err(WriteError::TimedOut { limit }) if limit == LIMIT),
        "{became:?}"
    );
}

#[tokio::test]
async fn a_member_whose_conflict_clause_rolls_everything_back_takes_nobody_along() {
    let (_dir, _url, db) = on_sqlite().await;
    let became = among_good_ones(&db, |db| {
        db.write(async |tx: &mut SqliteTx| {
            sqlx::query("insert or rollback into thing (id) values (0)")
                .execute(&mut **tx)
                .await
                .map(drop)
        })
    })
    .await;
    assert!(
        matches!(became, Err(WriteError::Refused(sqlx::Error::Database(_)))),
        "{became:?}"
    );
}

#[tokio::test]
async fn a_member_that_goes_on_after_its_transaction_is_gone_writes_nothing() {
    let (_dir, _url, db) = on_sqlite().await;
    let runs = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&runs);
    let became = among_good_ones(&db, |db| {
        db.write(async move |tx: &mut SqliteTx| {
            counter.fetch_add(1, Ordering::SeqCst);
            let lost = sqlx::query("insert or rollback into thing (id) values (0)")
                .execute(&mut **tx)
                .await;
            assert!(lost.is_err());
            // Without a transaction this would commit at once, and again in the rerun.
            let _refused = insert(tx, 99).await;
            Ok(())
        })
    })
    .await;
    assert!(
        matches!(became, Err(WriteError::NotCommitted(_))),
        "{became:?}"
    );
    assert_eq!(
        runs.load(Ordering::SeqCst),
        2,
        "once in the group, once alone"
    );
}

#[tokio::test]
async fn a_member_that_commits_by_itself_is_rolled_back() {
    let (_dir, _url, db) = on_sqlite().await;
    let became = among_good_ones(&db, |db| {
        db.write(async |tx: &mut SqliteTx| {
            insert(tx, 99).await?;
            let _refused = sqlx::raw_sql("commit").execute(&mut **tx).await;
            Ok(())
        })
    })
    .await;
    assert!(
        matches!(became, Err(WriteError::NotCommitted(_))),
        "{became:?}"
    );
}

#[tokio::test]
async fn a_member_that_fills_the_disk_leaves_the_others_alone() {
    let (_dir, _url, db) = on_sqlite().await;
    let became = among_good_ones(&db, |db| {
        db.write(async |tx: &mut SqliteTx| {
            let pages: i64 = sqlx::query_scalar("pragma page_count")
                .fetch_one(&mut **tx)
                .await?;
            let full = format!("pragma max_page_count = {}", pages + 2);
            sqlx::raw_sql(sqlx::AssertSqlSafe(full))
                .execute(&mut **tx)
                .await?;
            insert(tx, 99).await?;
            sqlx::raw_sql("create table big as select randomblob(1000000) as b")
                .execute(&mut **tx)
                .await
                .map(drop)
        })
    })
    .await;
    let Err(WriteError::Refused(sqlx::Error::Database(error))) = became else {
        panic!("{became:?}")
    };
    assert_eq!(error.code().as_deref(), Some("13"), "SQLITE_FULL");
}

#[tokio::test]
async fn a_member_that_fails_only_at_commit_is_found_and_the_others_commit() {
    let (_dir, _url, db) = on_sqlite().await;
    let became = among_good_ones(&db, |db| {
        db.write(async |tx: &mut SqliteTx| {
            sqlx::query("insert into thing (id, parent) values (99, 98)")
                .execute(&mut **tx)
                .await
                .map(drop)
        })
    })
    .await;
    assert!(
        matches!(became, Err(WriteError::NotCommitted(_))),
        "{became:?}"
    );
}

#[tokio::test]
async fn another_process_can_write_while_the_writer_is_busy() {
    let (_dir, url, db) = on_sqlite().await;
    let hammer = tokio::spawn({
        let db = db.clone();
        async move {
            for round in 0_i64.. {
                let writes: Vec<Outcome> = (0..20)
                    .map(|i| {
                        let id = 1_000 + round * 20 + i;
                        db.write(async move |tx: &mut SqliteTx| insert(tx, id).await)
                    })
                    .collect();
                for written in writes {
                    written.await.unwrap();
                }
            }
        }
    });
    // Its own connection takes part in the file locks like another process.
    let mut outsider = sqlite_options(&url).unwrap().connect().await.unwrap();
    for id in 0..20 {
        let begun = Instant::now();
        sqlx::query("insert into thing (id) values ($1)")
            .bind(id)
            .execute(&mut outsider)
            .await
            .unwrap();
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
    }
    hammer.abort();
}

#[tokio::test]
async fn what_was_handed_over_is_finished_at_close_and_later_writes_are_refused() {
    let (_dir, _url, db) = on_sqlite().await;
    let handed_over: Vec<Outcome> = (0..50)
        .map(|id| db.write(async move |tx: &mut SqliteTx| insert(tx, id).await))
        .collect();
    db.close().await;
    for outcome in handed_over {
        outcome.await.unwrap();
    }
    assert!(matches!(write(&db, 99).await, Err(WriteError::Closed)));
}
