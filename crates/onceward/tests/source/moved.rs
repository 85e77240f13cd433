//! Databases in another place: adopted if every row came along, reset if not.

use onceward::ProgressRecord;
use onceward::source::{EpochPlan, Loss, ResetTo, SourceError, SourceStore};
use onceward_testkit::postgres::Postgres as Server;
use sqlx::{Pool, Postgres};

use super::support::*;

conformance!(
    an_adoption_goes_on_where_it_stood_and_shuts_the_old_place_out,
    an_adoption_can_be_run_again_after_a_crash,
    an_adoption_is_refused_where_rows_are_missing,
    an_epoch_that_lived_on_is_not_taken_for_an_unfinished_reset,
);

fn written(plan: EpochPlan) -> ProgressRecord {
    match plan {
        EpochPlan::Write(record) => record,
        EpochPlan::Written(_) => panic!("nothing was written yet"),
    }
}

/// What a relay does in the new epoch.
async fn go_on<B: Fixture>(follower: &mut Follower<B>, record: ProgressRecord) {
    follower
        .store
        .take_over(follower.epoch, &record, place(9))
        .await
        .unwrap();
    (follower.progress, follower.offset) = (record, 9);
    follower.seen.clear();
    follower.drain().await;
}

async fn published<B: Fixture>() -> (TestDb<B>, Follower<B>) {
    let db = B::database().await;
    let mut follower = Follower::start(&db).await;
    db.append_many("k", 3).await;
    follower.drain().await;
    follower.mirror().await;
    db.append("k", "3").await;
    follower.drain().await;
    db.append("k", "4").await;
    (db, follower)
}

async fn an_adoption_goes_on_where_it_stood_and_shuts_the_old_place_out<B: Fixture>() {
    let (db, mut follower) = published::<B>().await;
    let (kafka, at) = (follower.progress.clone(), place(follower.offset));
    let plan = follower.store.plan_adoption(follower.epoch, &kafka, at);
    let record = written(plan.await.unwrap());
    assert_eq!(
        (record.epoch, record.position, record.passed, record.last),
        (2, 4, 4, kafka.last)
    );
    // The old place: its relay reads the new epoch.
    let error = follower
        .store
        .take_over(follower.epoch, &record, place(9))
        .await
        .unwrap_err();
    let expected = Loss::EpochMismatch {
        database: 1,
        kafka: 2,
    };
    assert_eq!(loss(error), expected);

    let finished = follower
        .store
        .finish_epoch(follower.epoch, &record, place(9));
    finished.await.unwrap();
    go_on(&mut follower, record).await;
    assert_eq!(follower.payloads(), ["4"]);
    db.append("k", "5").await;
    follower.drain().await;
    assert_eq!(follower.payloads(), ["4", "5"]);
    // And the old epoch's progress is refused here.
    let error = follower
        .store
        .take_over(follower.epoch, &kafka, at)
        .await
        .unwrap_err();
    assert!(matches!(loss(error), Loss::EpochMismatch { .. }));
}

async fn an_adoption_can_be_run_again_after_a_crash<B: Fixture>() {
    let (_db, mut follower) = published::<B>().await;
    let (kafka, at) = (follower.progress.clone(), place(follower.offset));
    let plan = follower.store.plan_adoption(follower.epoch, &kafka, at);
    let record = written(plan.await.unwrap());
    // CRASH: written to Kafka, not to the database.
    let again = follower
        .store
        .plan_adoption(follower.epoch, &record, place(9));
    assert_eq!(again.await.unwrap(), EpochPlan::Written(record.clone()));
    // A reset that is run instead finishes it as well.
    let reset = follower.store.plan_reset(ResetTo::Mirror, Some(&record));
    assert_eq!(reset.await.unwrap(), EpochPlan::Written(record.clone()));
    let finished = follower
        .store
        .finish_epoch(follower.epoch, &record, place(9));
    finished.await.unwrap();
    go_on(&mut follower, record).await;
    assert_eq!(follower.payloads(), ["4"]);

    // An unfinished reset is no adoption.
    let kafka = follower.progress.clone();
    let reset = follower.store.plan_reset(ResetTo::Start, Some(&kafka));
    let record = written(reset.await.unwrap());
    let adoption = follower
        .store
        .plan_adoption(follower.epoch, &record, place(10));
    let error = loss(adoption.await.unwrap_err());
    assert!(matches!(error, Loss::EpochMismatch { .. }), "{error}");
}

async fn an_adoption_is_refused_where_rows_are_missing<B: Fixture>() {
    let (db, mut follower) = published::<B>().await;
    let (kafka, at) = (follower.progress.clone(), place(follower.offset));
    let mut elsewhere = at;
    elsewhere.cluster_id = "another";
    let plan = follower
        .store
        .plan_adoption(follower.epoch, &kafka, elsewhere);
    let error = loss(plan.await.unwrap_err());
    assert!(matches!(error, Loss::OtherKafka { .. }), "{error}");
    db.execute("delete from outbox where seq = 4").await;
    let plan = follower.store.plan_adoption(follower.epoch, &kafka, at);
    let error = loss(plan.await.unwrap_err());
    let gone = Loss::RowCount {
        expected: 1,
        found: 0,
    };
    assert_eq!(error, gone);
    assert!(error.way_out().contains("onceward source reset"));
    db.execute("delete from outbox_progress").await;
    let plan = follower.store.plan_adoption(follower.epoch, &kafka, at);
    let error = loss(plan.await.unwrap_err());
    assert_eq!(error, Loss::MirrorMissing { passed: 4 });
}

async fn an_epoch_that_lived_on_is_not_taken_for_an_unfinished_reset<B: Fixture>() {
    let (_db, mut follower) = published::<B>().await;
    // A backup of epoch 1 is restored; meanwhile epoch 2 began and published.
    let mut kafka = follower.progress.clone();
    (kafka.epoch, kafka.passed, kafka.position) = (2, 7, 11);
    let plan = follower.store.plan_reset(ResetTo::Mirror, Some(&kafka));
    let record = written(plan.await.unwrap());
    assert_eq!((record.epoch, record.passed, record.position), (3, 0, 11));
    let mirror = follower.store.mirror().await.unwrap().unwrap();
    assert_eq!(record.cursor, mirror.cursor);
}

/// Uses up transaction ids, so that those of one server are high.
async fn burn(pool: &Pool<Postgres>) {
    const BURN: &str = "do $$ begin for i in 1..2000 loop \
         perform pg_current_xact_id(); commit; end loop; end $$";
    sqlx::raw_sql(BURN).execute(pool).await.unwrap();
}

/// What dump and load do to the tables of a source: rows keep the transaction ids of the old server.
async fn load(from: &TestDb<Postgres>, server: &Server) -> TestDb<Postgres> {
    let url = server.create_database().unwrap();
    let pool = Pool::connect(&url).await.unwrap();
    onceward::schema::migrate(&pool, &name()).await.unwrap();
    sqlx::query("delete from outbox_source")
        .execute(&pool)
        .await
        .unwrap();
    for (dump, load) in [
        (
            "select coalesce(json_agg(t), '[]')::text from outbox_source t",
            "insert into outbox_source select * from json_populate_recordset(null::outbox_source, \
             $1::json)",
        ),
        (
            "select coalesce(json_agg(t), '[]')::text from outbox_progress t",
            "insert into outbox_progress select * from \
             json_populate_recordset(null::outbox_progress, $1::json)",
        ),
        (
            "select coalesce(json_agg(t), '[]')::text from outbox t",
            "insert into outbox overriding system value select * from \
             json_populate_recordset(null::outbox, $1::json)",
        ),
    ] {
        let rows: String = sqlx::query_scalar(dump)
            .fetch_one(&from.pool)
            .await
            .unwrap();
        sqlx::query(load).bind(rows).execute(&pool).await.unwrap();
    }
    sqlx::query("select setval(pg_get_serial_sequence('outbox', 'seq'), max(seq)) from outbox")
        .execute(&pool)
        .await
        .unwrap();
    TestDb {
        url,
        pool,
        folder: None,
    }
}

/// Five rows, three of them published, two of those mirrored; then moved to another server, which is
/// younger (its ids are lower) or older.
async fn moved(younger: bool) -> (Server, TestDb<Postgres>, Follower<Postgres>) {
    let db = Postgres::database().await;
    let server = Server::start().unwrap();
    if younger {
        burn(&db.pool).await;
    } else {
        let pool = Pool::connect(&server.url("postgres")).await.unwrap();
        burn(&pool).await;
        burn(&pool).await;
    }
    let mut follower = Follower::start(&db).await;
    for payload in ["0", "1"] {
        db.append("k", payload).await;
    }
    follower.drain().await;
    follower.mirror().await;
    db.append("k", "2").await;
    follower.drain().await;
    for payload in ["3", "4"] {
        db.append("k", payload).await;
    }
    let at = load(&db, &server).await;
    expire_lease(&at).await;
    let error = SourceStore::<Postgres>::open(&at.url, &name())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("onceward source adopt"),
        "{error}"
    );
    assert!(matches!(loss(error), Loss::OtherCluster { .. }));
    follower.store = SourceStore::open_moved(&at.url, &name()).await.unwrap();
    follower.epoch = owned(follower.store.claim("b", true).await.unwrap());
    (server, at, follower)
}

async fn finish(db: &TestDb<Postgres>, follower: &mut Follower<Postgres>, record: ProgressRecord) {
    let finished = follower
        .store
        .finish_epoch(follower.epoch, &record, place(9));
    finished.await.unwrap();
    // From here on it is as good as any: it opens, and its numbers are its server's.
    follower.store = db.store().await;
    go_on(follower, record).await;
    db.append("k", "later").await;
    follower.drain().await;
    follower.mirror().await;
    let published = "select count(*) from outbox_view where published";
    assert_eq!(db.count(published).await, 6);
    let at = place(follower.offset);
    let taken = follower
        .store
        .take_over(follower.epoch, &follower.progress, at);
    taken.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_rows_loaded_into_another_server_are_adopted_without_loss_or_double() {
    for younger in [true, false] {
        let (_server, db, mut follower) = moved(younger).await;
        let (kafka, at) = (follower.progress.clone(), place(follower.offset));
        let plan = follower.store.plan_adoption(follower.epoch, &kafka, at);
        let record = written(plan.await.unwrap());
        // CRASH: and run again.
        let again = follower
            .store
            .plan_adoption(follower.epoch, &record, place(9));
        assert_eq!(again.await.unwrap(), EpochPlan::Written(record.clone()));
        finish(&db, &mut follower, record).await;
        assert_eq!(
            follower.payloads(),
            ["3", "4", "later"],
            "younger: {younger}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_rows_written_before_the_adoption_are_never_taken_for_published() {
    let (_server, db, mut follower) = moved(true).await;
    db.append("k", "too early").await;
    let (kafka, at) = (follower.progress.clone(), place(follower.offset));
    let plan = follower.store.plan_adoption(follower.epoch, &kafka, at);
    let error = plan.await.unwrap_err();
    let SourceError::Lost(lost) = error else {
        panic!("{error}")
    };
    assert!(
        matches!(lost, Loss::RowCount { .. } | Loss::HiddenRows { rows: 1 }),
        "{lost}"
    );
    let plan = follower.store.plan_reset(ResetTo::Mirror, Some(&kafka));
    let record = written(plan.await.unwrap());
    let finished = follower
        .store
        .finish_epoch(follower.epoch, &record, place(9));
    finished.await.unwrap();
    go_on(&mut follower, record).await;
    let seen = follower.payloads();
    assert!(
        seen.ends_with(&["3".into(), "4".into(), "too early".into()]),
        "{seen:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgres_a_restore_into_another_server_is_cured_by_a_reset() {
    for (to, younger, expected) in [
        (ResetTo::Mirror, true, vec!["2", "3", "4", "later"]),
        (ResetTo::Mirror, false, vec!["2", "3", "4", "later"]),
        (ResetTo::Start, true, vec!["0", "1", "2", "3", "4", "later"]),
        (ResetTo::End, true, vec!["later"]),
    ] {
        let (_server, db, mut follower) = moved(younger).await;
        let kafka = follower.progress.clone();
        let plan = follower.store.plan_reset(to, Some(&kafka));
        let record = written(plan.await.unwrap());
        let again = follower.store.plan_reset(to, Some(&record));
        assert_eq!(again.await.unwrap(), EpochPlan::Written(record.clone()));
        finish(&db, &mut follower, record).await;
        assert_eq!(follower.payloads(), expected, "{to:?}, younger: {younger}");
    }
}
