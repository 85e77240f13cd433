//! COMMITs without an answer, and other ends of a connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use onceward::idempotency::Claim;
use onceward::{Db, Tx, WriteError};
use onceward_testkit::cutter::{Cut, Cutter};
use sqlx::Postgres;

use super::idempotency::once;
use super::{ids, insert, on_postgres, options, write};

/// A request whose COMMIT has no answer, and its retry with the same `Idempotency-Key`: how often the
/// work was done, and how often its closure ran.
async fn cut_and_retried(cut: Cut) -> (Vec<i64>, i64) {
    let (url, direct) = on_postgres().await;
    let cutter = Cutter::start(&url).unwrap();
    let db = Db::<Postgres>::open(&cutter.url(&url), options())
        .await
        .unwrap();
    let next = Arc::new(AtomicI64::new(1));
    cutter.cut_next(cut);
    let became = once(&db, b"body", &next, false).await;
    assert!(
        matches!(became, Err(WriteError::CommitUnknown(_))),
        "{became:?}"
    );
    assert!(cutter.has_cut());
    let again = once(&db, b"body", &next, false).await.unwrap();
    let done = ids(&direct).await;
    let Claim::Answered(answer) = again else {
        panic!("{again:?}");
    };
    assert_eq!(answer.body, done[0].to_string().into_bytes());
    (done, next.load(Ordering::SeqCst) - 1)
}

#[tokio::test]
async fn a_commit_that_was_carried_out_unheard_is_answered_from_its_key_on_retry() {
    assert_eq!(cut_and_retried(Cut::After).await, (vec![1], 1));
}

#[tokio::test]
async fn a_commit_that_was_lost_on_its_way_is_made_on_retry() {
    assert_eq!(cut_and_retried(Cut::Before).await, (vec![2], 2));
}

#[tokio::test]
async fn a_session_that_ends_before_commit_has_committed_nothing() {
    let (_url, db) = on_postgres().await;
    let became = db
        .write(async |tx: &mut Tx<'static, Postgres>| {
            insert(tx, 1).await?;
            // A closure that swallows the end of its session.
            let _ended = sqlx::query("select pg_terminate_backend(pg_backend_pid())")
                .execute(&mut **tx)
                .await;
            Ok::<_, sqlx::Error>(())
        })
        .await;
    assert!(
        matches!(became, Err(WriteError::NotCommitted(_))),
        "{became:?}"
    );
    write(&db, 2).await.unwrap();
    assert_eq!(ids(&db).await, [2]);
}

#[derive(Debug, thiserror::Error)]
#[error("the service could not do it")]
struct ServiceError(#[from] onceward::Error);

#[tokio::test]
async fn a_victim_runs_again_whatever_its_error_is_wrapped_in() {
    let (_url, db) = on_postgres().await;
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    db.write_with(
        onceward::is_victim,
        async move |tx: &mut Tx<'static, Postgres>| {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            insert(tx, 1)
                .await
                .map_err(onceward::Error::database("insert"))?;
            if run < 2 {
                sqlx::query("do $$ begin raise exception 'no' using errcode = '40P01'; end $$")
                    .execute(&mut **tx)
                    .await
                    .map_err(onceward::Error::database("update"))?;
            }
            Ok::<_, ServiceError>(())
        },
    )
    .await
    .unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 3);
    assert_eq!(ids(&db).await, [1]);
}
