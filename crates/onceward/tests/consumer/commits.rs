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
