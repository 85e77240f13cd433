//! Connections that end: at COMMIT, with and without its being carried out, and in mid-batch.

use onceward::Db;
use onceward::consumer::dead_letter;
use onceward_testkit::cutter::{Cut, Cutter};
use sqlx::Postgres;

use super::support::{Fault, TestBackend, World, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_commit_has_no_answer_is_read_on_from_the_stored_offset() {
    let (direct, _) = <Postgres as TestBackend>::open().await;
    let options = direct.pool().connect_options();
    let url = format!(
        "postgres://{}@{}:{}/{}",
        options.get_username(),
        options.get_host(),
        options.get_port(),
        options.get_database().unwrap()
    );
    let cutter = Cutter::start(&url).unwrap();
    let db = Db::<Postgres>::open(&cutter.url(&url), Default::default())
        .await
        .unwrap();
    let world = World::on(db, None, 3).await;
    // The very first claim is cut, too.
    cutter.cut_next(Cut::After);
    let mut options = world.options();
    options.max_batch_records = 10;
    let running = world.start_with(options);
    until("cut claim", async || cutter.has_cut()).await;
    let mut sent = 0;
    for cut in [Cut::Before, Cut::After].into_iter().cycle().take(6) {
        cutter.cut_next(cut);
        for n in sent..sent + 50 {
            let partition = i32::try_from(n % 3).unwrap();
            world.log.ping(partition, &format!("key{}", n % 7), n);
        }
        sent += 50;
        world.all_once(0..sent).await;
        assert!(cutter.has_cut());
    }
    running
        .until("end of trouble", |s| s.trouble.is_none() && s.lag() == 0)
        .await;
    let used = "select count(*) from inbox where state <> 'handled'";
    assert_eq!(world.count(used).await, 0, "no attempt was used");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_end_and_victims_in_mid_batch_use_no_attempt() {
    let world = World::<Postgres>::new(1).await;
    let mut options = world.options();
    options.retry.max_attempts = 2;
    // More often than there are attempts.
    world.faults.set(3, Fault::SessionEnded(3));
    world.faults.set(7, Fault::Victim(3));
    for n in 0..10 {
        world.log.ping(0, &format!("key{n}"), n);
    }
    let running = world.start_with(options);
    world.all_once(0..10).await;
    let handled = "select count(*) from inbox where state = 'handled'";
    assert_eq!(world.count(handled).await, 10);
    running.stop().await;
}

/// Holds what a handler of [`Fault::Deadlock`] asks for second, and again and again asks for what that has
/// locked first. It has more patience, so the handler is the victim.
async fn rival(pool: sqlx::PgPool) {
    let mut connection = pool.acquire().await.unwrap();
    let mut ask = async |text: &'static str| {
        let asked = sqlx::query(text).execute(&mut *connection).await;
        asked.unwrap();
    };
    ask("set deadlock_timeout = '1h'").await;
    ask("select pg_advisory_lock(2)").await;
    loop {
        ask("select pg_advisory_lock(1)").await;
        ask("select pg_advisory_unlock(1)").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_ends_in_a_deadlock_each_time_holds_its_key_up_and_no_other() {
    let world = World::<Postgres>::new(1).await;
    let rival = tokio::spawn(rival(world.db.pool().clone()));
    let running = world.start();
    world.log.ping(0, "before", 0);
    world.all_once([0]).await;
    // Less often than would be its fault: no attempt is used.
    world.faults.set(1, Fault::Deadlock(3));
    for n in 1..6 {
        world.log.ping(0, &format!("key{n}"), n);
    }
    world.all_once(0..6).await;
    let others = "select count(*) from inbox where state <> 'handled'";
    assert_eq!(world.count(others).await, 0);
    // Each time, amid others: it is found, and what is behind it goes on.
    world.faults.set(8, Fault::Deadlock(u32::MAX));
    for n in 6..12 {
        world.log.ping(0, &format!("key{n}"), n);
    }
    world.log.ping(0, "key8", 12);
    let goes_on = [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11];
    world.all_once(goes_on).await;
    let letters = dead_letter::list(world.db.pool(), None, false, 10);
    let letters = letters.await.unwrap();
    assert_eq!(letters.len(), 1, "{letters:?}");
    let reason = &letters[0].reason;
    assert!(reason.contains("deadlock 10 times, alone"), "{reason}");
    world
        .count_reaches(1, "select count(*) from inbox_waiting")
        .await;

    // With the rival gone it can be handled, and then what waits behind it.
    rival.abort();
    world.faults.clear(8);
    let asked = dead_letter::request_replay(world.db.pool(), &letters[0].id, "test", 0);
    asked.await.unwrap();
    world.all_once(0..13).await;
    assert_eq!(world.effects_of("key8").await, [8, 12]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_breaks_the_transaction_alone_in_its_batch_does_not_run_for_ever() {
    let world = World::<Postgres>::new(1).await;
    world.faults.set(1, Fault::SwallowedError);
    world.log.ping(0, "broken", 1);
    let running = world.start();
    until("dead letter", async || {
        let letters = dead_letter::list(world.db.pool(), None, false, 10);
        letters.await.unwrap().len() == 1
    })
    .await;
    world.log.ping(0, "good", 2);
    world.all_once([2]).await;
    running.stop().await;
}
