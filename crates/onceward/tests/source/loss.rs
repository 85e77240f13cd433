//! Lost, replaced and swapped rows stop the source loudly.

use onceward::source::{Loss, Remedy, SourceError, SourceStore};
use onceward::{Error, SourceName};

use super::support::*;

conformance!(
    what_was_published_since_the_mirror_must_be_there,
    the_last_row_passed_must_stay,
    progress_of_another_outbox_or_epoch_is_refused,
    another_kafka_or_a_shorter_topic_is_refused,
    an_emptied_progress_topic_is_refused_after_the_first_start,
    an_unmigrated_or_other_database_is_refused_with_what_to_run,
    the_mirror_only_grows,
);

async fn what_was_published_since_the_mirror_must_be_there<B: Fixture>() {
    let db = B::database().await;
    let mut follower = Follower::start(&db).await;
    db.append_many("k", 20).await;
    follower.step(7).await.unwrap();
    follower.mirror().await;
    follower.step(7).await.unwrap();
    let at = place(follower.offset);
    follower
        .store
        .verify_between(&follower.progress, at)
        .await
        .unwrap();
    follower.drain().await;
    let at = place(follower.offset);
    follower
        .store
        .verify_between(&follower.progress, at)
        .await
        .unwrap();

    // The ids of two rows change places with other ids: same count, another sum.
    let was = db.count("select count(*) from outbox").await;
    let sql = "update outbox set message_id = \
               (select source_id from outbox_source) where seq = 10";
    let mut changed = db.begin().await;
    sqlx::query(sql).execute(&mut *changed).await.unwrap();
    changed.commit().await.unwrap();
    assert_eq!(db.count("select count(*) from outbox").await, was);
    let error = follower
        .store
        .verify_between(&follower.progress, at)
        .await
        .unwrap_err();
    assert_eq!(error.remedy(), Remedy::Halt);
    let found = loss(error);
    // On Postgres an update gives the row no new tx_id, so it is found by its id there too.
    assert_eq!(found, Loss::RowIds);
    assert!(found.way_out().contains("onceward source reset"));

    db.execute("delete from outbox where seq = 10").await;
    let error = loss(
        follower
            .store
            .verify_between(&follower.progress, at)
            .await
            .unwrap_err(),
    );
    assert_eq!(
        error,
        Loss::RowCount {
            expected: 13,
            found: 12
        }
    );
    // And a take-over does not go on either.
    let error = loss(
        follower
            .store
            .take_over(follower.epoch, &follower.progress, at)
            .await
            .unwrap_err(),
    );
    assert_eq!(
        error,
        Loss::RowCount {
            expected: 13,
            found: 12
        }
    );
}

async fn the_last_row_passed_must_stay<B: Fixture>() {
    let db = B::database().await;
    let mut follower = Follower::start(&db).await;
    db.append_many("k", 3).await;
    follower.drain().await;
    db.append_many("k", 3).await;
    let good = follower.fetch(10).await.unwrap();
    assert_eq!(good.rows.len(), 3);
    db.execute(
        "update outbox set message_id = (select source_id from outbox_source) where seq = 3",
    )
    .await;
    let error = loss(follower.fetch(10).await.unwrap_err());
    assert!(
        matches!(error, Loss::LastRowReplaced { seq: 3, .. }),
        "{error}"
    );
    db.execute("delete from outbox where seq = 3").await;
    let error = loss(follower.fetch(10).await.unwrap_err());
    assert!(matches!(error, Loss::LastRowGone { seq: 3, .. }), "{error}");
}

async fn progress_of_another_outbox_or_epoch_is_refused<B: Fixture>() {
    let db = B::database().await;
    let mut follower = Follower::start(&db).await;
    let mut other = follower.progress.clone();
    other.epoch += 1;
    let error = loss(
        follower
            .store
            .take_over(follower.epoch, &other, PLACE)
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
    other = follower.progress.clone();
    other.source_id.0 = uuid::Uuid::nil();
    let error = loss(
        follower
            .store
            .take_over(follower.epoch, &other, PLACE)
            .await
            .unwrap_err(),
    );
    assert!(matches!(error, Loss::OtherSourceId { .. }), "{error}");
}

async fn another_kafka_or_a_shorter_topic_is_refused<B: Fixture>() {
    let db = B::database().await;
    let mut follower = Follower::start(&db).await;
    let genesis = follower.progress.clone();
    db.append_many("k", 3).await;
    follower.drain().await;
    follower.mirror().await;
    let mut elsewhere = place(follower.offset);
    elsewhere.cluster_id = "another";
    let error = loss(
        follower
            .store
            .take_over(follower.epoch, &follower.progress, elsewhere)
            .await
            .unwrap_err(),
    );
    assert!(matches!(error, Loss::OtherKafka { .. }), "{error}");
    let error = loss(
        follower
            .store
            .take_over(follower.epoch, &genesis, place(0))
            .await
            .unwrap_err(),
    );
    assert_eq!(
        error,
        Loss::KafkaBehindMirror {
            mirror: 3,
            kafka: 0
        }
    );
}

async fn an_emptied_progress_topic_is_refused_after_the_first_start<B: Fixture>() {
    let db = B::database().await;
    let mut fresh = db.store().await;
    fresh.progress_may_be_missing().await.unwrap();
    let mut follower = Follower::start(&db).await;
    let error = follower.store.progress_may_be_missing().await.unwrap_err();
    assert_eq!(loss(error), Loss::ProgressMissing { passed: 0 });
}

async fn an_unmigrated_or_other_database_is_refused_with_what_to_run<B: Fixture>() {
    let empty = B::empty().await;
    let error = SourceStore::<B>::open(&empty.url, &name())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("onceward schema migrate"),
        "{error}"
    );
    assert_eq!(error.remedy(), Remedy::Halt);
    let db = B::database().await;
    let payment = SourceName::new("payment").unwrap();
    let error = SourceStore::<B>::open(&db.url, &payment).await.unwrap_err();
    assert!(
        matches!(error, SourceError::Setup(Error::OtherSource { .. })),
        "{error}"
    );
}

async fn the_mirror_only_grows<B: Fixture>() {
    let db = B::database().await;
    let mut follower = Follower::start(&db).await;
    let genesis = follower.progress.clone();
    db.append_many("k", 3).await;
    follower.drain().await;
    follower.mirror().await;
    let grew = follower
        .store
        .write_mirror(follower.epoch, &genesis, place(0))
        .await
        .unwrap();
    assert!(!grew);
    let mirror = follower.store.mirror().await.unwrap().unwrap();
    assert_eq!(
        (mirror.passed, mirror.cursor, mirror.last, mirror.id_sum),
        (
            3,
            follower.progress.cursor,
            follower.progress.last,
            follower.progress.id_sum
        )
    );
}
