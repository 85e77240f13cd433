//! Crashes, zombies, duplicates, poison, and the loud stops.

use std::time::Duration;

use onceward::consumer::{Retention, dead_letter};

use super::memory::{Log, at};
use super::on_both_databases;
use super::support::{Running, TestBackend, World, until};

on_both_databases!(
    each_effect_happens_once_however_often_the_consumer_dies,
    a_rebalance_in_the_middle_of_a_batch_doubles_nothing,
    of_two_owners_of_a_partition_the_older_one_writes_nothing,
    records_read_again_are_skipped_by_their_id,
    untrusted_records_end_as_dead_letters,
    a_stopped_partition_says_why_and_does_not_stop_the_others,
    an_idle_partition_moves_on_behind_its_markers,
    old_inbox_rows_are_purged_and_the_floor_holds,
);

fn many(log: &Log, numbers: std::ops::Range<i64>) {
    for n in numbers {
        log.ping(i32::try_from(n % 3).unwrap(), &format!("key{}", n % 7), n);
    }
}

async fn each_effect_happens_once_however_often_the_consumer_dies<B: TestBackend>() {
    let world = World::<B>::new(3).await;
    let mut options = world.options();
    options.max_batch_records = 10;
    many(&world.log, 0..600);
    let mut done = 0;
    while done < 600 {
        let running = world.start_with(options.clone());
        let before = done;
        until("progress", async || world.effects().await.len() > before).await;
        running.kill().await;
        done = world.effects().await.len();
    }
    world.all_once(0..600).await;
}

async fn a_rebalance_in_the_middle_of_a_batch_doubles_nothing<B: TestBackend>() {
    let world = World::<B>::new(3).await;
    let mut options = world.options();
    options.max_batch_records = 10;
    let running = world.start_with(options);
    for round in 0..20 {
        many(&world.log, round * 50..(round + 1) * 50);
        world.log.rebalance();
    }
    world.all_once(0..1_000).await;
    running.stop().await;
}

async fn of_two_owners_of_a_partition_the_older_one_writes_nothing<B: TestBackend>() {
    let world = World::<B>::new(3).await;
    let mut options = world.options();
    options.max_batch_records = 5;
    let older = world.start_with(options.clone());
    many(&world.log, 0..100);
    world.all_once(0..100).await;
    // Both believe that they own everything; the log gives every record to both.
    let newer = world.start_with(options);
    newer.until("assignment", |s| s.partitions.len() == 3).await;
    many(&world.log, 100..400);
    world.all_once(0..400).await;
    let fenced = |running: &Running| running.handle.status().fenced_last_minute;
    until("fencing", async || fenced(&older) + fenced(&newer) > 0).await;
    // They go on fighting, and still nothing is doubled.
    many(&world.log, 400..900);
    world.all_once(0..900).await;
    older.stop().await;
    newer.stop().await;
}

async fn records_read_again_are_skipped_by_their_id<B: TestBackend>() {
    let world = World::<B>::new(3).await;
    many(&world.log, 0..100);
    // The same id again, at other coordinates, and twice in one batch.
    world.log.ping(0, "other", 5);
    world.log.ping(0, "other", 200);
    world.log.ping(1, "other", 200);
    let running = world.start();
    world.all_once((0..100).chain([200])).await;
    running
        .until("lag 0", |s| s.partitions.len() == 3 && s.lag() == 0)
        .await;
    running.stop().await;
    // Somebody sets the offsets back: everything is read again, nothing takes effect again.
    world
        .execute("update consumer_offset set next_offset = 0, leader_epoch = -1")
        .await;
    let running = world.start();
    world.log.ping(0, "last", 300);
    world.all_once((0..100).chain([200, 300])).await;
    running.stop().await;
}

async fn untrusted_records_end_as_dead_letters<B: TestBackend>() {
    let world = World::<B>::new(1).await;
    let log = &world.log;
    let typed = ("ce_type", &b"ping.v1"[..]);
    let huge = vec![b'x'; 10 << 20];
    let long_key = vec![b'k'; 20_000];
    log.append(0, None, b"", &[]);
    log.append(0, None, b"{", &[typed]);
    log.append(0, None, b"{\"n\":\"not a number\"}", &[typed]);
    log.append(0, None, b"{}", &[("ce_type", b"ping.v9")]);
    log.append(0, None, b"{}", &[("ce_type", b"\xff\xfe")]);
    log.append(
        0,
        None,
        b"{}",
        &[("ce_id", b"a\0b"), ("ce_source", b"s"), typed],
    );
    log.append(0, None, b"\xff\xff", &[typed, ("x", b"\0\xff")]);
    log.append(0, Some(b"\0\xff"), &huge, &[typed]);
    log.append(
        0,
        Some(&long_key),
        b"{}",
        &[("ce_id", &long_key), ("ce_source", b"s"), typed],
    );
    // Queues behind the long key.
    log.append(0, Some(&long_key), b"{}", &[typed]);
    log.ping(0, "good", 1);
    let running = world.start();
    world.all_once([1]).await;
    world
        .count_reaches(1, "select count(*) from inbox_waiting")
        .await;
    let letters = dead_letter::list(world.db.pool(), None, false, 100)
        .await
        .unwrap();
    assert_eq!(letters.len(), 9);
    assert_eq!(letters[7].payload.len(), 10 << 20);
    // The view shows keys that are not text, too.
    assert_eq!(
        world
            .count("select count(message_key) from inbox_view")
            .await,
        4
    );
    running.stop().await;
}

async fn a_stopped_partition_says_why_and_does_not_stop_the_others<B: TestBackend>() {
    let world = World::<B>::new(3).await;
    many(&world.log, 0..30);
    let running = world.start();
    world.all_once(0..30).await;
    running.stop().await;
    let stopped = async |why: &str, count: usize| {
        let running = world.start();
        running.until(why, |s| s.partitions.len() == 3).await;
        let status = running.handle.status();
        let reasons: Vec<_> = status.stopped().filter_map(|p| p.stopped.clone()).collect();
        assert_eq!(reasons.len(), count, "{reasons:?}");
        assert!(
            reasons.iter().all(|reason| reason.contains(why)),
            "{reasons:?}"
        );
        running
    };
    // The topic was made anew.
    world.log.change(|state| state.topic_id = "id-2".into());
    stopped("made anew", 3).await.stop().await;
    world.log.change(|state| state.topic_id = "id-1".into());
    // Retention has passed the offset of one partition; the others read on.
    world
        .execute("update consumer_offset set next_offset = 4 where partition = 2")
        .await;
    world.log.change(|state| state.log_start = 5);
    many(&world.log, 30..32);
    let running = stopped("gone from the log", 1).await;
    world.all_once(0..32).await;
    world
        .count_reaches(
            1,
            "select count(*) from consumer_offset where stopped is not null",
        )
        .await;
    running.stop().await;
    world.log.change(|state| state.log_start = 0);
    // Another log, shorter than what was read.
    world
        .execute("update consumer_offset set next_offset = 999 where partition = 2")
        .await;
    stopped("beyond the end", 1).await.stop().await;
    world
        .execute("update consumer_offset set next_offset = 10 where partition = 2")
        .await;
    // Another database has read in this group.
    let other = "onceward:00000000-0000-0000-0000-000000000001".to_owned();
    world.log.change(|state| state.metadata.insert(1, other));
    stopped("belongs to database", 1).await.stop().await;
    world.log.change(|state| state.metadata.clear());
    stopped("", 0).await.stop().await;
    world
        .count_reaches(
            0,
            "select count(*) from consumer_offset where stopped is not null",
        )
        .await;
}

async fn an_idle_partition_moves_on_behind_its_markers<B: TestBackend>() {
    let world = World::<B>::new(1).await;
    world.log.ping(0, "a", 1);
    world.log.append_marker(0);
    world.log.append_marker(0);
    let running = world.start();
    world
        .count_reaches(
            3,
            "select cast(coalesce(max(next_offset), 0) as bigint) from consumer_offset",
        )
        .await;
    world.log.ping(0, "a", 2);
    world.all_once(1..=2).await;
    running.stop().await;
}

async fn old_inbox_rows_are_purged_and_the_floor_holds<B: TestBackend>() {
    let world = World::<B>::new(1).await;
    let mut options = world.options();
    options.retention = Duration::from_secs(3_600);
    options.janitor_interval = Duration::from_millis(50);
    world.faults.set(3, super::support::Fault::Reject);
    for n in 0..10 {
        world.log.ping(0, &format!("key{n}"), n);
    }
    let running = world.start_with(options.clone());
    world.count_reaches(10, "select count(*) from inbox").await;
    world
        .execute("update inbox set received_at = received_at - 7200000000 where record_offset < 8")
        .await;
    // 0 to 7 are old; 3 is dead and stays.
    world.count_reaches(3, "select count(*) from inbox").await;
    world
        .count_reaches(8, "select floor_offset from consumer_offset")
        .await;
    world
        .count_reaches(1, "select count(*) from inbox where state = 'dead'")
        .await;
    running.stop().await;
    // Without time retention nothing is purged.
    world
        .log
        .change(|state| state.retention = Retention::Unlimited);
    world.execute("update inbox set received_at = 0").await;
    let running = world.start_with(options.clone());
    for n in 10..12 {
        world.log.ping(0, "later", n);
    }
    world.count_reaches(5, "select count(*) from inbox").await;
    running.stop().await;
    // An offset below the floor would let effects happen again.
    world
        .execute("update consumer_offset set next_offset = 2")
        .await;
    let running = world.start_with(options);
    running
        .until("stop", |s| s.stopped().any(|p| p.at == at(0)))
        .await;
    running.stop().await;
}
