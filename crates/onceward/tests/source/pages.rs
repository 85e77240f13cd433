//! Cursors in the midst of a batch that is paged: they are compared and counted right, and at the cost of
//! what lies between them, not of the batch.

use std::time::Duration;

use onceward::Tx;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sqlx::Postgres;

use super::support::*;

/// Any mirror leads to any progress behind it, and the backlog is what is committed and not passed,
/// whatever runs beside.
#[tokio::test]
async fn cursors_anywhere_in_pages_are_compared_and_counted_right() {
    let db = Postgres::database().await;
    let mut follower = Follower::start(&db).await;
    let mut random = StdRng::seed_from_u64(22);
    let mut open: Vec<Tx<'static, Postgres>> = Vec::new();
    let (mut paged, mut waiting) = (0, 0);
    for step in 0..600 {
        match random.random_range(0..10) {
            0 if open.len() < 4 => open.push(db.begin().await),
            1..=3 if !open.is_empty() => {
                let at = random.random_range(0..open.len());
                for _ in 0..random.random_range(1..6) {
                    append(&mut open[at], "k", "late").await;
                }
            }
            4 if !open.is_empty() => {
                let tx = open.swap_remove(random.random_range(0..open.len()));
                match random.random_bool(0.8) {
                    true => tx.commit().await.unwrap(),
                    false => tx.rollback().await.unwrap(),
                }
            }
            5..=6 => db.append_many("k", random.random_range(1..9)).await,
            7 => follower.mirror().await,
            _ => {
                follower.step(random.random_range(1..4)).await.unwrap();
            }
        }
        let onceward::Cursor::Postgres(cursor) = &follower.progress.cursor else {
            panic!("another cursor");
        };
        paged += u32::from(cursor.page.is_some());
        let at = place(follower.offset);
        let verified = follower.store.verify_between(&follower.progress, at).await;
        verified.unwrap_or_else(|error| panic!("step {step}: {error}"));
        let cursor = follower.progress.cursor.clone();
        let counted = follower.store.backlog(&cursor, 100_000).await.unwrap();
        let committed = db.count("select count(*) from outbox").await;
        let expected = committed - follower.progress.passed;
        assert_eq!(counted.rows, expected, "step {step}");
        waiting += u32::from(expected > 0);
    }
    assert!(paged > 100 && waiting > 100, "{paged} {waiting}");
}

/// Else a backlog of millions can't be taken over: the lease runs out meanwhile.
#[tokio::test]
async fn comparing_and_counting_cost_what_lies_between_not_the_batch() {
    const ROWS: usize = 6_000;
    let db = Postgres::database().await;
    let mut follower = Follower::start(&db).await;
    db.append_many("k", ROWS).await;
    while follower.seen.len() < ROWS - 1_000 {
        follower.mirror().await;
        follower.step(200).await.unwrap();
    }
    let before = read(&db, &mut follower).await;
    let (progress, at) = (follower.progress.clone(), place(follower.offset));
    follower.store.verify_between(&progress, at).await.unwrap();
    let counted = follower.store.backlog(&progress.cursor, 100).await.unwrap();
    assert!(counted.capped);
    let cost = read(&db, &mut follower).await - before;
    // 200 rows between the two, a hundred counted.
    assert!((300..1_000).contains(&cost), "{cost} entries of indexes");
    // As after a restart in the midst of a batch.
    let before = before + cost;
    follower.store = db.store().await;
    assert_eq!(follower.step(200).await.unwrap(), 200);
    let cost = read(&db, &mut follower).await - before;
    assert!((200..1_000).contains(&cost), "{cost} entries of indexes");
}

/// Index entries of the outbox read so far, by all.
async fn read(db: &TestDb<Postgres>, follower: &mut Follower<Postgres>) -> i64 {
    // A session tells its counts at most once a second, when a transaction ends.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    follower.store.identity().await.unwrap();
    db.count("select sum(idx_tup_read)::bigint from pg_stat_user_indexes where relname = 'outbox'")
        .await
}

/// A take-over that takes long, as the first look at a large batch may, must not cost the lease it works under.
#[tokio::test]
async fn the_lease_is_renewed_beside_a_take_over_that_compares_for_long() {
    let db = Postgres::database().await;
    let mut follower = Follower::start(&db).await;
    db.append_many("k", 10).await;
    follower.step(5).await.unwrap();
    let mut renewer = db.store().await;
    let mut lock = db.begin().await;
    sqlx::query("lock table outbox in access exclusive mode")
        .execute(&mut *lock)
        .await
        .unwrap();
    let (epoch, at) = (follower.epoch, place(follower.offset));
    let beside = async {
        let waits = "select count(*) from pg_locks where not granted \
                     and relation = 'outbox'::regclass";
        while db.count(waits).await == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let renewed = tokio::time::timeout(Duration::from_secs(2), renewer.renew(epoch)).await;
        lock.rollback().await.unwrap();
        renewed
    };
    let taking = follower.store.take_over(epoch, &follower.progress, at);
    let (taken, renewed) = tokio::join!(taking, beside);
    renewed.expect("it waits for the take-over").unwrap();
    taken.unwrap();
}
