//! Nothing is skipped, nothing comes twice, keys keep their order.

use std::collections::{BTreeMap, HashSet};

use super::support::*;
use onceward::source::FetchLimits;

conformance!(
    an_empty_outbox_gives_an_empty_batch_and_moves_nothing,
    a_rolled_back_row_is_never_fetched,
    a_batch_is_paged_and_resumed_in_mid_page_by_another_relay,
    a_batch_stops_at_its_bytes_but_always_has_a_row,
    a_prefix_of_a_batch_can_be_passed_alone,
    eight_writers_on_the_same_keys_lose_and_double_nothing,
    the_backlog_counts_what_is_not_passed,
);

async fn an_empty_outbox_gives_an_empty_batch_and_moves_nothing<B: Fixture>() {
    let db = B::database().await;
    let mut follower = Follower::start(&db).await;
    let batch = follower.fetch(10).await.unwrap();
    assert_eq!((batch.rows.len(), batch.more), (0, false));
    assert_eq!(batch.next(), follower.store.genesis());
}

async fn a_rolled_back_row_is_never_fetched<B: Fixture>() {
    let db = B::database().await;
    let mut follower = Follower::start(&db).await;
    for round in 0..5 {
        let mut tx = db.begin().await;
        append(&mut tx, "k", "rolled back").await;
        tx.rollback().await.unwrap();
        db.append("k", &format!("kept {round}")).await;
        follower.drain().await;
    }
    let expected: Vec<String> = (0..5).map(|round| format!("kept {round}")).collect();
    assert_eq!(follower.payloads(), expected);
}

async fn a_batch_is_paged_and_resumed_in_mid_page_by_another_relay<B: Fixture>() {
    let db = B::database().await;
    let mut follower = Follower::start(&db).await;
    db.append_many("k", 50).await;
    follower.step(7).await.unwrap();
    // Rows that come while the batch is paged belong to the next one.
    db.append_many("k", 20).await;
    loop {
        // Each page by a relay that knows only what was stored.
        follower.store = db.store().await;
        if follower.step(7).await.unwrap() == 0 {
            break;
        }
        if follower.seen.len() == 35 {
            db.append_many("k", 3).await;
        }
    }
    let expected: Vec<String> = (0..50)
        .chain(0..20)
        .chain(0..3)
        .map(|n: i32| n.to_string())
        .collect();
    assert_eq!(follower.payloads(), expected);
    let distinct: HashSet<_> = follower.seen.iter().map(|row| row.message_id).collect();
    assert_eq!(distinct.len(), 73);
}

async fn a_batch_stops_at_its_bytes_but_always_has_a_row<B: Fixture>() {
    let db = B::database().await;
    let mut follower = Follower::start(&db).await;
    for size in [10, 400, 300, 5_000, 10] {
        db.append("k", &"x".repeat(size)).await;
    }
    let limits = FetchLimits {
        max_rows: 100,
        max_bytes: 1_000,
    };
    let mut sizes = Vec::new();
    loop {
        let cursor = follower.progress.cursor.clone();
        let last = follower.progress.last;
        let batch = follower.store.fetch(&cursor, last, limits).await.unwrap();
        if batch.rows.is_empty() {
            break;
        }
        sizes.push(
            batch
                .rows
                .iter()
                .map(|row| row.payload().len())
                .collect::<Vec<_>>(),
        );
        follower.pass(&batch, batch.rows.len());
    }
    assert_eq!(follower.seen.len(), 5);
    let first: usize = sizes[0].iter().sum();
    assert!(sizes[0].len() >= 2 && first <= 1_300, "{sizes:?}");
    assert!(sizes.iter().any(|batch| batch == &[5_000]), "{sizes:?}");
}

async fn a_prefix_of_a_batch_can_be_passed_alone<B: Fixture>() {
    let db = B::database().await;
    let mut follower = Follower::start(&db).await;
    db.append_many("k", 10).await;
    // As after a refused record: the rows before it, it alone, the rest.
    for prefix in [0, 4, 1, 0, 5] {
        let batch = follower.fetch(100).await.unwrap();
        follower.pass(&batch, prefix);
        if prefix == 0 {
            follower.progress.cursor = batch.cursor_after(0);
        }
    }
    let expected: Vec<String> = (0..10).map(|n: i32| n.to_string()).collect();
    assert_eq!(follower.payloads(), expected);
    assert_eq!(follower.step(100).await.unwrap(), 0);
}

async fn eight_writers_on_the_same_keys_lose_and_double_nothing<B: Fixture>() {
    const WRITERS: usize = 8;
    const ROUNDS: usize = 60;
    let db = B::database().await;
    db.execute("create table aggregate (key bigint primary key, version bigint not null)")
        .await;
    db.execute("insert into aggregate values (0, 0), (1, 0), (2, 0)")
        .await;
    let mut follower = Follower::start(&db).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let pool = db.pool.clone();
        writers.spawn(async move {
            for round in 0..ROUNDS {
                let key = i64::try_from((writer + round) % 3).unwrap();
                let mut tx = pool.begin_with(B::BEGIN).await.unwrap();
                // Every other writer takes its xid long before the row lock.
                if writer % 2 == 0 {
                    append(&mut tx, &format!("alone-{writer}"), &round.to_string()).await;
                    tokio::task::yield_now().await;
                }
                // The aggregate's lock comes before the append.
                let version: i64 = sqlx::query_scalar(
                    "update aggregate set version = version + 1 where key = $1 returning version",
                )
                .bind(key)
                .fetch_one(&mut *tx)
                .await
                .unwrap();
                append(&mut tx, &format!("key-{key}"), &version.to_string()).await;
                if round % 7 == 3 {
                    tx.rollback().await.unwrap();
                } else {
                    tx.commit().await.unwrap();
                }
            }
        });
    }
    let mut round = 0_u32;
    while !writers.is_empty() {
        follower.step(1 + round % 9).await.unwrap();
        round += 1;
        while let Some(ended) = writers.try_join_next() {
            ended.unwrap();
        }
    }
    follower.drain().await;
    let committed = db.count("select count(*) from outbox").await;
    assert_eq!(i64::try_from(follower.seen.len()).unwrap(), committed);
    let distinct: HashSet<_> = follower.seen.iter().map(|row| row.message_id).collect();
    assert_eq!(distinct.len(), follower.seen.len(), "no row comes twice");
    let mut by_key: BTreeMap<_, Vec<i64>> = BTreeMap::new();
    for row in &follower.seen {
        let number = payload(row).parse().unwrap();
        by_key
            .entry(row.message_key().map(str::to_owned))
            .or_default()
            .push(number);
    }
    for (key, numbers) in by_key {
        assert!(numbers.is_sorted_by(|a, b| a < b), "{key:?}: {numbers:?}");
    }
}

async fn the_backlog_counts_what_is_not_passed<B: Fixture>() {
    let db = B::database().await;
    let mut follower = Follower::start(&db).await;
    db.append_many("k", 30).await;
    follower.step(10).await.unwrap();
    let cursor = follower.progress.cursor.clone();
    let all = follower.store.backlog(&cursor, 1_000).await.unwrap();
    assert_eq!((all.rows, all.capped), (20, false));
    assert!(all.oldest.is_some());
    let some = follower.store.backlog(&cursor, 5).await.unwrap();
    assert_eq!((some.rows, some.capped), (5, true));
    follower.drain().await;
    let cursor = follower.progress.cursor.clone();
    let none = follower.store.backlog(&cursor, 5).await.unwrap();
    assert_eq!((none.rows, none.oldest), (0, None));
}
