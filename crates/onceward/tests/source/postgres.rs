//! What only Postgres can do to a cursor.

use onceward::source::{Loss, PostgresWake, SourceError, SourceStore, Wake, Woken};
use onceward::{Cursor, schema};
use onceward_testkit::postgres::{Postgres as Server, PostgresOptions};
use sqlx::{Executor, Pool, Postgres};
use std::time::Duration;

use super::support::*;

#[tokio::test]
async fn a_transaction_open_throughout_holds_nobody_up_and_loses_nothing() {
    let db = Postgres::database().await;
    let mut follower = Follower::start(&db).await;
    let mut open = db.begin().await;
    append(&mut open, "late", "first of all").await;
    for round in 0..20 {
        db.append("k", &round.to_string()).await;
        let fresh = follower.drain().await;
        assert_eq!(fresh.len(), 1, "nobody waits for the open one");
    }
    append(&mut open, "late", "last of all").await;
    open.commit().await.unwrap();
    let late: Vec<String> = follower.drain().await.iter().map(payload).collect();
    assert_eq!(late, ["first of all", "last of all"]);
    assert_eq!(follower.seen.len(), 22);
    assert_eq!(follower.drain().await.len(), 0);
}

/// Ids known to run for long are cut out of the ranges; they must come back when they end.
#[tokio::test]
async fn long_running_transactions_beside_others_come_whole_when_they_end() {
    let db = Postgres::database().await;
    let mut follower = Follower::start(&db).await;
    db.append("k", "0").await;
    follower.drain().await;
    let mut open = Vec::new();
    for n in 0..6 {
        let mut tx = db.begin().await;
        append(&mut tx, &format!("late {n}"), "a").await;
        open.push(tx);
        // Completed ids above it, so that it stands in the snapshot as running.
        db.execute("select pg_current_xact_id()").await;
    }
    let known = std::time::Instant::now();
    while known.elapsed() < Duration::from_millis(150) {
        assert_eq!(follower.step(100).await.unwrap(), 0);
    }
    for (n, mut tx) in open.into_iter().enumerate() {
        assert_eq!(follower.step(100).await.unwrap(), 0);
        append(&mut tx, &format!("late {n}"), "b").await;
        match n {
            2 => tx.rollback().await.unwrap(),
            _ => tx.commit().await.unwrap(),
        }
        if n == 3 {
            db.append("k", "1").await;
        }
        let expected = match n {
            2 => 0,
            3 => 3,
            _ => 2,
        };
        assert_eq!(follower.drain().await.len(), expected, "transaction {n}");
    }
    assert_eq!(follower.drain().await.len(), 0);
    assert_eq!(db.count("select count(*) from outbox").await, 12);
}

#[tokio::test]
async fn low_numbers_that_commit_late_come_late_and_once() {
    let db = Postgres::database().await;
    let mut follower = Follower::start(&db).await;
    let mut first = db.begin().await;
    append(&mut first, "a", "1").await;
    let mut second = db.begin().await;
    append(&mut second, "b", "2").await;
    db.append("c", "3").await;
    assert_eq!(follower.drain().await.len(), 1);
    second.commit().await.unwrap();
    db.append("c", "4").await;
    assert_eq!(follower.drain().await.len(), 2);
    first.commit().await.unwrap();
    db.append("c", "5").await;
    assert_eq!(follower.drain().await.len(), 2);
    assert_eq!(follower.payloads(), ["3", "2", "4", "1", "5"]);
}

#[tokio::test]
async fn an_early_xid_that_gets_the_lock_late_stays_behind_in_its_key() {
    let db = Postgres::database().await;
    db.execute("create table lock_me (id int primary key)")
        .await;
    db.execute("insert into lock_me values (1)").await;
    let mut follower = Follower::start(&db).await;
    // Takes its xid first...
    let mut early = db.begin().await;
    early.execute("select pg_current_xact_id()").await.unwrap();
    // ...but the row lock, and so the outbox number, second.
    let mut late = db.begin().await;
    late.execute("select * from lock_me for update")
        .await
        .unwrap();
    append(&mut late, "k", "first").await;
    late.commit().await.unwrap();
    early
        .execute("select * from lock_me for update")
        .await
        .unwrap();
    append(&mut early, "k", "second").await;
    early.commit().await.unwrap();
    let order = db
        .count("select count(*) from outbox a join outbox b on a.seq < b.seq and a.tx_id > b.tx_id")
        .await;
    assert_eq!(order, 1, "the two orders differ");
    follower.drain().await;
    assert_eq!(follower.payloads(), ["first", "second"]);
}

#[tokio::test]
async fn late_rows_join_a_paged_batch_in_their_order() {
    let db = Postgres::database().await;
    let mut follower = Follower::start(&db).await;
    db.append_many("before", 30).await;
    let mut late = db.begin().await;
    for n in 0..9 {
        append(&mut late, "late", &n.to_string()).await;
    }
    db.append_many("k", 40).await;
    follower.drain().await;
    assert_eq!(follower.seen.len(), 70);
    db.append_many("after", 12).await;
    late.commit().await.unwrap();
    let mut tail = Vec::new();
    while follower.step(4).await.unwrap() > 0 {
        let Cursor::Postgres(cursor) = &follower.progress.cursor else {
            panic!()
        };
        tail.push(cursor.page.is_some());
    }
    assert_eq!(
        tail.iter().filter(|paged| **paged).count(),
        5,
        "21 rows in pages of 4"
    );
    let keys: Vec<_> = follower.seen[70..]
        .iter()
        .map(|r| r.message_key().unwrap().to_owned())
        .collect();
    assert_eq!(keys[..9], vec!["late"; 9]);
    assert_eq!(keys[9..], vec!["after"; 12]);
}

/// Trap 1 of the design: Postgres really hands out an id again.
#[tokio::test]
async fn an_xid_given_out_again_after_a_crash_is_not_taken_for_passed() {
    // Nothing but commits flushes the WAL, so that rolled-back ids leave no durable trace.
    let quiet = [
        ("autovacuum", "off"),
        ("wal_writer_delay", "10s"),
        ("wal_level", "minimal"),
        ("max_wal_senders", "0"),
    ];
    let mut server = Server::start_with(PostgresOptions {
        settings: quiet.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..PostgresOptions::default()
    })
    .unwrap();
    let url = server.create_database().unwrap();
    let mut db = reopen(&url).await;
    schema::migrate(&db.pool, &name()).await.unwrap();
    let mut follower = Follower::start(&db).await;
    let mut expected = Vec::new();
    // The server may flush by itself at a bad moment: then the trap is set again.
    for attempt in 0..10 {
        db.append("k", "published").await;
        let mut burnt = Vec::new();
        for _ in 0..20 {
            let mut tx = db.begin().await;
            let xid: String = sqlx::query_scalar("select pg_current_xact_id()::text")
                .fetch_one(&mut *tx)
                .await
                .unwrap();
            burnt.push(xid);
            tx.rollback().await.unwrap();
        }
        // The snapshot taken now covers all of them.
        assert_eq!(follower.drain().await.len(), 1);
        server.stop_immediate().unwrap();
        server.start_again().unwrap();
        db = reopen(&url).await;
        for n in 0..40 {
            db.append("k", &format!("{attempt}.{n}")).await;
        }
        expected.push("published".to_owned());
        expected.extend((0..40).map(|n| format!("{attempt}.{n}")));

        follower.store.reconnect().await.unwrap();
        let at = place(follower.offset);
        let verified = follower.store.verify_between(&follower.progress, at).await;
        verified.unwrap();
        follower.drain().await;
        assert_eq!(follower.payloads(), expected);

        let committed: Vec<String> = sqlx::query_scalar("select tx_id::text from outbox")
            .fetch_all(&db.pool)
            .await
            .unwrap();
        if committed.iter().any(|xid| burnt.contains(xid)) {
            return;
        }
    }
    panic!("no xid was reused: the trap was never set");
}

/// Ids are compared as numbers: as text 999 would be above 1000.
#[tokio::test]
async fn rows_whose_xids_gain_a_digit_come_once() {
    let server = Server::start().unwrap();
    let url = server.create_database().unwrap();
    let db = reopen(&url).await;
    schema::migrate(&db.pool, &name()).await.unwrap();
    let mut follower = Follower::start(&db).await;
    let mut xid = 0;
    while xid < 994 {
        let text: String = db_text(&db, "select pg_current_xact_id()::text").await;
        xid = text.parse().unwrap();
    }
    for n in 0..10 {
        db.append("k", &n.to_string()).await;
    }
    let crossed = "select count(*) from outbox where tx_id >= '1000'::xid8 \
                   and exists (select from outbox where tx_id < '1000'::xid8)";
    assert!(db.count(crossed).await > 0, "no digit was gained");
    follower.drain().await;
    for n in 10..20 {
        db.append("k", &n.to_string()).await;
    }
    follower.drain().await;
    let expected: Vec<String> = (0..20).map(|n: i32| n.to_string()).collect();
    assert_eq!(follower.payloads(), expected);
}

/// A standby's snapshot omits running transactions, so rows would be skipped.
#[tokio::test]
async fn a_standby_is_refused_on_each_connection_and_in_each_fetch() {
    let mut server = Server::start().unwrap();
    let url = server.create_database().unwrap();
    let db = reopen(&url).await;
    schema::migrate(&db.pool, &name()).await.unwrap();
    let mut follower = Follower::start(&db).await;
    db.append("k", "1").await;
    follower.drain().await;
    db.pool.close().await;
    server.stop().unwrap();
    std::fs::write(server.folder().join("data/standby.signal"), "").unwrap();
    server.start_again().unwrap();
    for refused in [
        SourceStore::<Postgres>::open(&url, &name())
            .await
            .map(|_| ()),
        follower.store.reconnect().await,
        follower.fetch(10).await.map(|_| ()),
    ] {
        assert!(
            matches!(refused, Err(SourceError::NotPrimary)),
            "{refused:?}"
        );
    }
}

async fn db_text(db: &TestDb<Postgres>, sql: &'static str) -> String {
    sqlx::query_scalar(sql).fetch_one(&db.pool).await.unwrap()
}

#[tokio::test]
async fn rows_with_another_servers_xids_stop_the_source() {
    let db = Postgres::database().await;
    let mut follower = Follower::start(&db).await;
    db.append("k", "ours").await;
    follower.drain().await;
    // As a restored dump would leave it.
    db.execute(
        "insert into outbox (tx_id, message_id, aggregate_type, aggregate_id, message_type, topic, \
         payload, headers, occurred_at) select '999999999'::xid8, gen_random_uuid(), aggregate_type, \
         aggregate_id, message_type, topic, payload, headers, occurred_at from outbox",
    )
    .await;
    // Looked for on each new connection, and once a second.
    follower.store.reconnect().await.unwrap();
    let error = loss(follower.fetch(10).await.unwrap_err());
    assert!(
        matches!(error, Loss::ForeignTransactionId { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_database_behind_its_cursor_stops_the_source() {
    let db = Postgres::database().await;
    let mut follower = Follower::start(&db).await;
    let Cursor::Postgres(cursor) = &mut follower.progress.cursor else {
        panic!()
    };
    cursor.done = "4000000000:4000000000:".into();
    let error = loss(follower.fetch(10).await.unwrap_err());
    assert!(matches!(error, Loss::Behind { .. }), "{error}");
}

/// A copy of the database taken while rows went on being published, then put in its place.
#[tokio::test]
async fn a_database_restored_from_a_copy_stops_even_after_it_has_overtaken_the_cursor() {
    let db = Postgres::database().await;
    let mut follower = Follower::start(&db).await;
    db.append_many("k", 5).await;
    follower.drain().await;
    follower.mirror().await;
    follower.store = {
        let copy = format!("{}_copy", db.url);
        let (base, copied) = (database_of(&db.url), database_of(&copy));
        follower.store.close().await.unwrap();
        db.pool.close().await;
        let admin = Pool::<Postgres>::connect(&shared_url()).await.unwrap();
        admin_run(&admin, format!("create database {copied} template {base}")).await;
        let live = reopen(&db.url).await;
        live.append_many("k", 3).await;
        let mut store = live.store().await;
        let batch = store
            .fetch(
                &follower.progress.cursor,
                follower.progress.last,
                limits(10),
            )
            .await
            .unwrap();
        follower.offset += 1;
        assert_eq!(batch.rows.len(), 3);
        let (cursor, rows) = (batch.next(), batch.rows);
        for row in &rows {
            follower.progress.passed += 1;
            follower.progress.id_sum.add(row.message_id);
            let (seq, message_id) = (row.seq, row.message_id);
            follower.progress.last = Some(onceward::LastRow { seq, message_id });
        }
        follower.progress.cursor = cursor;
        store.close().await.unwrap();
        live.pool.close().await;
        admin_run(&admin, format!("drop database {base} with (force)")).await;
        admin_run(&admin, format!("create database {base} template {copied}")).await;
        let restored = reopen(&db.url).await;
        restored.append_many("k", 10).await;
        restored.store().await
    };
    // The restored database is past the cursor by number and by xid, and still it is noticed.
    let error = loss(follower.fetch(100).await.unwrap_err());
    assert!(matches!(error, Loss::LastRowReplaced { .. }), "{error}");
    let at = place(follower.offset);
    let error = loss(
        follower
            .store
            .verify_between(&follower.progress, at)
            .await
            .unwrap_err(),
    );
    assert!(
        matches!(
            error,
            Loss::LastRowReplaced { .. } | Loss::RowCount { .. } | Loss::RowIds
        ),
        "{error}"
    );
}

fn shared_url() -> String {
    onceward_testkit::postgres::shared()
        .unwrap()
        .url("postgres")
}
fn database_of(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}
async fn admin_run(admin: &Pool<Postgres>, sql: String) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(admin)
        .await
        .unwrap();
}
async fn reopen(url: &str) -> TestDb<Postgres> {
    TestDb {
        url: url.to_owned(),
        pool: Pool::connect(url).await.unwrap(),
        folder: None,
    }
}

#[tokio::test]
async fn an_outbox_moved_to_another_cluster_is_refused() {
    let db = Postgres::database().await;
    Follower::start(&db).await.store.close().await.unwrap();
    db.execute("update outbox_source set system_identifier = '1'")
        .await;
    let error = SourceStore::<Postgres>::open(&db.url, &name())
        .await
        .unwrap_err();
    assert!(matches!(loss(error), Loss::OtherCluster { .. }));
}

#[tokio::test]
async fn commits_that_are_not_durable_are_a_finding() {
    let db = Postgres::database().await;
    assert_eq!(db.store().await.check().await.unwrap(), []);
    let base = database_of(&db.url);
    admin_run(
        &db.pool,
        format!("alter database {base} set synchronous_commit = off"),
    )
    .await;
    let findings = db.store().await.check().await.unwrap();
    assert!(
        findings
            .iter()
            .any(|f| f.to_string().contains("synchronous_commit")),
        "{findings:?}"
    );
}

#[tokio::test]
async fn a_hint_ends_the_wait_and_lengthens_the_polls() {
    let db = Postgres::database().await;
    let mut store = db.store().await;
    let mut wake: PostgresWake = store.wake().await.unwrap();
    while wake.wait(Duration::from_millis(1)).await == Woken::Hint {}
    assert_eq!(
        wake.idle_poll(),
        Duration::from_millis(25),
        "no hint heard yet"
    );
    db.execute("notify onceward_outbox").await;
    assert_eq!(wake.wait(Duration::from_secs(10)).await, Woken::Hint);
    assert_eq!(wake.idle_poll(), Duration::from_millis(250));
    assert_eq!(wake.wait(Duration::from_millis(10)).await, Woken::Timeout);
    // The listener's connection is lost: short polls until it is back.
    db.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where query ilike 'listen%'",
    )
    .await;
    assert_eq!(wake.wait(Duration::from_secs(10)).await, Woken::Hint);
    assert_eq!(wake.idle_poll(), Duration::from_millis(25));
    assert_eq!(
        wake.wait(Duration::from_secs(10)).await,
        Woken::Hint,
        "listening again"
    );
}

#[tokio::test]
async fn a_relay_frozen_inside_a_write_does_not_hold_its_successor_up_for_ever() {
    let db = Postgres::database().await;
    Follower::start(&db).await;
    expire_lease(&db).await;
    // As a relay's session is set up: the server ends it, and the row lock is free.
    let mut frozen = db.begin().await;
    frozen
        .execute("set local idle_in_transaction_session_timeout = '1s'")
        .await
        .unwrap();
    frozen
        .execute("update outbox_source set relay_epoch = relay_epoch")
        .await
        .unwrap();
    let mut successor = db.store().await;
    owned(successor.claim("b", true).await.unwrap());
    assert!(frozen.commit().await.is_err());
}
