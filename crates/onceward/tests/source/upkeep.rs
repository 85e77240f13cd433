//! The janitor, reset, and what people look at.

use std::time::Duration;

use onceward::source::{EpochPlan, Loss, ResetTo, Wake, Woken};

use super::support::*;

conformance!(
    the_janitor_deletes_what_the_mirror_has_passed_and_keeps_the_last_row,
    the_janitor_leaves_young_rows_alone,
    a_reset_can_be_run_again_after_a_crash,
    a_reset_to_the_mirror_publishes_what_the_database_knows_to_be_unpublished,
    views_show_any_payload,
    a_wait_ends_by_its_time,
);

async fn the_janitor_deletes_what_the_mirror_has_passed_and_keeps_the_last_row<B: Fixture>() {
    let db = B::database().await;
    let mut follower = Follower::start(&db).await;
    db.append_many("k", 10).await;
    follower.drain().await;
    follower.mirror().await;
    db.append_many("k", 5).await;
    follower.drain().await; // passed, but not mirrored
    let first = follower
        .store
        .purge(follower.epoch, i64::MAX, 4)
        .await
        .unwrap();
    assert_eq!((first.deleted, first.highest_seq), (4, 4));
    let mut deleted = first.deleted;
    loop {
        let chunk = follower
            .store
            .purge(follower.epoch, i64::MAX, 4)
            .await
            .unwrap();
        if chunk.deleted == 0 {
            break;
        }
        deleted += chunk.deleted;
    }
    assert_eq!(deleted, 9);
    assert_eq!(db.count("select min(seq) from outbox").await, 10);
    let mirror = follower.store.mirror().await.unwrap().unwrap();
    assert_eq!(mirror.floor_seq, 9);
    // Nothing of it disturbs the checks.
    let at = place(follower.offset);
    follower
        .store
        .take_over(follower.epoch, &follower.progress, at)
        .await
        .unwrap();
    assert_eq!(follower.step(10).await.unwrap(), 0);
}

async fn the_janitor_leaves_young_rows_alone<B: Fixture>() {
    let db = B::database().await;
    let mut follower = Follower::start(&db).await;
    db.append_many("k", 10).await;
    db.execute("update outbox set occurred_at = 5 where seq <= 3")
        .await;
    follower.drain().await;
    follower.mirror().await;
    let chunk = follower.store.purge(follower.epoch, 6, 100).await.unwrap();
    assert_eq!(chunk.deleted, 3);
}

async fn a_reset_can_be_run_again_after_a_crash<B: Fixture>() {
    let db = B::database().await;
    let mut follower = Follower::start(&db).await;
    db.append_many("k", 5).await;
    follower.drain().await;
    db.execute("delete from outbox").await;
    let at = place(follower.offset);
    let kafka = follower.progress.clone();
    loss(
        follower
            .store
            .take_over(follower.epoch, &kafka, at)
            .await
            .unwrap_err(),
    );

    let plan = follower
        .store
        .plan_reset(ResetTo::End, Some(&kafka))
        .await
        .unwrap();
    let EpochPlan::Write(record) = plan else {
        panic!("{plan:?}")
    };
    assert_eq!((record.epoch, record.position, record.passed), (2, 5, 0));
    // CRASH: written to Kafka, not to the database.
    let error = loss(
        follower
            .store
            .take_over(follower.epoch, &record, place(9))
            .await
            .unwrap_err(),
    );
    assert_eq!(
        error,
        Loss::EpochMismatch {
            database: 1,
            kafka: 2
        }
    );
    assert!(error.way_out().contains("again"));
    let plan = follower
        .store
        .plan_reset(ResetTo::End, Some(&record))
        .await
        .unwrap();
    assert_eq!(plan, EpochPlan::Written(record.clone()));
    follower
        .store
        .finish_epoch(follower.epoch, &record, place(9))
        .await
        .unwrap();

    follower
        .store
        .take_over(follower.epoch, &record, place(9))
        .await
        .unwrap();
    (follower.progress, follower.offset) = (record, 9);
    follower.seen.clear();
    assert_eq!(follower.drain().await.len(), 0);
    db.append("k", "after the reset").await;
    follower.drain().await;
    assert_eq!(follower.payloads(), ["after the reset"]);
}

async fn a_reset_to_the_mirror_publishes_what_the_database_knows_to_be_unpublished<B: Fixture>() {
    let db = B::database().await;
    let mut follower = Follower::start(&db).await;
    db.append_many("k", 3).await;
    follower.drain().await;
    follower.mirror().await;
    db.append_many("k", 2).await;
    follower.drain().await;
    let plan = follower
        .store
        .plan_reset(ResetTo::Mirror, Some(&follower.progress))
        .await
        .unwrap();
    let EpochPlan::Write(record) = plan else {
        panic!("{plan:?}")
    };
    follower
        .store
        .finish_epoch(follower.epoch, &record, place(9))
        .await
        .unwrap();
    (follower.progress, follower.offset) = (record, 9);
    follower.seen.clear();
    follower.drain().await;
    assert_eq!(follower.payloads(), ["0", "1"]);
    let start = follower
        .store
        .plan_reset(ResetTo::Start, Some(&follower.progress))
        .await
        .unwrap();
    let EpochPlan::Write(record) = start else {
        panic!("{start:?}")
    };
    assert_eq!((record.epoch, record.cursor), (3, follower.store.genesis()));
}

async fn views_show_any_payload<B: Fixture>() {
    let db = B::database().await;
    let samples: [(&[u8], &str); 8] = [
        (b"{\"a\":1}", "{\"a\":1}"),
        ("größer als 5 €, 😀".as_bytes(), "größer als 5 €, 😀"),
        (b"", ""),
        (b"\xff\xfe", "\\xfffe"),
        (b"a\x00b", "\\x610062"),
        (b"cut \xe2\x82", "\\x63757420e282"),
        (b"\xed\xa0\x80", "\\xeda080"),
        (b"\xc0\xaf", "\\xc0af"),
    ];
    let mut tx = db.begin().await;
    for (bytes, _) in samples {
        append_message(&mut tx, message(Some("k"), bytes)).await;
        sqlx::query(
            "insert into inbox (consumer, ce_source, ce_id, topic, partition, record_offset, \
             message_key, state, received_at) \
             values ('c', '', $1, 't', 0, (select count(*) from inbox), $2, 'handled', 1)",
        )
        .bind(format!("{bytes:?}"))
        .bind(bytes)
        .execute(&mut *tx)
        .await
        .unwrap();
    }
    tx.commit().await.unwrap();
    for query in [
        "select payload from outbox_view order by seq",
        "select message_key from inbox_view order by record_offset",
    ] {
        let shown: Vec<String> = sqlx::query_scalar(query).fetch_all(&db.pool).await.unwrap();
        let expected: Vec<&str> = samples.iter().map(|(_, text)| *text).collect();
        assert_eq!(shown, expected);
    }
    let mut follower = Follower::start(&db).await;
    follower.step(3).await.unwrap();
    follower.mirror().await;
    let published = "select count(*) from outbox_view where published";
    assert_eq!(db.count(published).await, 3, "in mid-page");
    follower.drain().await;
    follower.mirror().await;
    assert_eq!(db.count(published).await, 8);
}

async fn a_wait_ends_by_its_time<B: Fixture>() {
    let db = B::database().await;
    let mut wake = db.store().await.wake().await.unwrap();
    while wake.wait(Duration::from_millis(20)).await == Woken::Hint {}
    assert_eq!(wake.wait(Duration::from_millis(20)).await, Woken::Timeout);
}
