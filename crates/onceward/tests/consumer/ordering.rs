//! Retries, dead letters and the operator's requests, in the order of their key.

use std::time::Duration;

use onceward::consumer::dead_letter::{
    self, DeadLetterId, OrderBreakAcknowledged, request_discard, request_replay,
};
use onceward::consumer::{DeadLetterTopic, list_waiting};
use onceward::{Outbox, SourceName};

use super::memory::at;
use super::on_both_databases;
use super::support::{Fault, Running, TestBackend, World, until};

on_both_databases!(
    a_retried_message_holds_its_key_up_and_nobody_else,
    the_order_of_a_key_survives_restarts_in_the_middle_of_retries,
    a_refused_message_parks_its_key_until_it_is_replayed,
    a_discarded_message_lets_its_key_go_on_without_it,
    used_up_attempts_make_a_dead_letter_and_a_copy_in_its_topic,
    a_statement_that_takes_too_long_uses_up_its_message_s_attempts_alone,
    a_listing_leaves_out_what_strangers_sent,
    too_many_waiting_messages_pause_their_partition,
    requests_about_partitions_that_nobody_holds_hold_no_other_up,
    impossible_options_are_refused_at_the_start,
);

async fn a_retried_message_holds_its_key_up_and_nobody_else<B: TestBackend>() {
    let world = World::<B>::new(1).await;
    world.faults.set(1, Fault::Retry(3));
    for (key, n) in [("a", 1), ("b", 2), ("a", 3), ("b", 4), ("a", 5)] {
        world.log.ping(0, key, n);
    }
    let running = world.start();
    world.all_once(1..=5).await;
    assert_eq!(world.effects_of("a").await, [1, 3, 5]);
    let all = world.effects().await;
    assert_eq!(all[..2], [2, 4], "the other key went on: {all:?}");
    world
        .count_reaches(0, "select count(*) from inbox_waiting")
        .await;
    world
        .count_reaches(5, "select count(*) from inbox where state = 'handled'")
        .await;
    running.stop().await;
}

async fn the_order_of_a_key_survives_restarts_in_the_middle_of_retries<B: TestBackend>() {
    let world = World::<B>::new(2).await;
    world.faults.set(1, Fault::Retry(100));
    let mut options = world.options();
    options.retry.max_attempts = 1_000;
    for n in 1..=20 {
        world.log.ping(0, "a", n);
        world.log.ping(1, "b", 100 + n);
    }
    for round in 0..3 {
        let running = world.start_with(options.clone());
        let tried = async || {
            let waiting = list_waiting(world.db.pool(), Some("group"), 100)
                .await
                .unwrap();
            waiting
                .first()
                .is_some_and(|first| first.attempts > 3 * round)
        };
        until("attempts", tried).await;
        assert!(world.effects_of("a").await.is_empty());
        running.kill().await;
    }
    world.faults.clear(1);
    let running = world.start_with(options);
    world.all_once((1..=20).chain(101..=120)).await;
    assert_eq!(world.effects_of("a").await, (1..=20).collect::<Vec<_>>());
    assert_eq!(world.effects_of("b").await, (101..=120).collect::<Vec<_>>());
    running.stop().await;
}

fn letter(offset: i64) -> DeadLetterId {
    DeadLetterId {
        consumer: "group".into(),
        at: at(0),
        offset,
    }
}

async fn a_refused_message_parks_its_key_until_it_is_replayed<B: TestBackend>() {
    let world = World::<B>::new(1).await;
    world.faults.set(1, Fault::Reject);
    for (key, n) in [("a", 1), ("a", 2), ("b", 3), ("a", 4)] {
        world.log.ping(0, key, n);
    }
    let running = world.start();
    world
        .count_reaches(2, "select count(*) from inbox_waiting")
        .await;
    world.all_once([3]).await;
    let letters = dead_letter::list(world.db.pool(), None, false, 10)
        .await
        .unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (letters[0].reason.as_str(), letters[0].attempts),
        ("never", 1)
    );
    assert_eq!(letters[0].headers[0].0, "ce_id");
    // A replay that fails again leaves it dead, and says why.
    let pool = world.db.pool();
    let request = request_replay(pool, &letter(0), "somebody", 1)
        .await
        .unwrap();
    let state = async |id| dead_letter::request(pool, id).await.unwrap().unwrap();
    until("refusal", async || state(request).await.state == "refused").await;
    assert!(state(request).await.note.unwrap().contains("never"));
    // The cause is mended, and the consumer restarted: the key is still parked.
    running.kill().await;
    world.faults.clear(1);
    let running = world.start();
    world.log.ping(0, "a", 5);
    world
        .count_reaches(3, "select count(*) from inbox_waiting")
        .await;
    let request = request_replay(pool, &letter(0), "somebody", 2)
        .await
        .unwrap();
    world.all_once(1..=5).await;
    assert_eq!(world.effects_of("a").await, [1, 2, 4, 5]);
    until("answer", async || state(request).await.state == "done").await;
    assert!(
        request_replay(pool, &letter(0), "somebody", 3)
            .await
            .is_err()
    );
    world.log.ping(0, "a", 6);
    world.all_once(1..=6).await;
    world
        .count_reaches(6, "select count(*) from inbox where state = 'handled'")
        .await;
    running.stop().await;
}

async fn a_discarded_message_lets_its_key_go_on_without_it<B: TestBackend>() {
    let world = World::<B>::new(1).await;
    world.faults.set(1, Fault::Reject);
    world.log.ping(0, "a", 1);
    world.log.ping(0, "a", 2);
    let running = world.start();
    world
        .count_reaches(1, "select count(*) from inbox_dead_letter")
        .await;
    world
        .count_reaches(1, "select count(*) from inbox_waiting")
        .await;
    let known = OrderBreakAcknowledged;
    request_discard(world.db.pool(), &letter(0), known, "somebody", 1)
        .await
        .unwrap();
    world.all_once([2]).await;
    world
        .count_reaches(1, "select count(*) from inbox where state = 'discarded'")
        .await;
    running.stop().await;
}

async fn used_up_attempts_make_a_dead_letter_and_a_copy_in_its_topic<B: TestBackend>() {
    let world = World::<B>::new(1).await;
    let mut options = world.options();
    options.dead_letter_topic = Some(DeadLetterTopic {
        outbox: Outbox::new(SourceName::new("consumer-test").unwrap()),
        topic: "dead_letter_queue".into(),
    });
    world.faults.set(1, Fault::Panic);
    world.faults.set(2, Fault::SwallowedError);
    world.faults.set(3, Fault::Hang);
    for n in 1..=4 {
        world.log.ping(0, &format!("key{n}"), n);
    }
    options.handler_timeout = Duration::from_millis(200);
    let running = world.start_with(options);
    // On SQLite a failed statement leaves the transaction whole: swallowing it is the handler's
    // right. On Postgres it breaks the transaction, which must not look like a commit.
    let sqlite = std::any::type_name::<B>().contains("Sqlite");
    let dead = if sqlite { 2 } else { 3 };
    world
        .all_once(if sqlite { vec![2, 4] } else { vec![4] })
        .await;
    let letters = || dead_letter::list(world.db.pool(), None, false, 10);
    until("dead letters", async || {
        letters().await.unwrap().len() == dead
    })
    .await;
    let letters = letters().await.unwrap();
    assert!(
        letters.iter().all(|letter| letter.attempts == 4),
        "{letters:?}"
    );
    let reasons: Vec<_> = letters
        .iter()
        .map(|letter| letter.reason.as_str())
        .collect();
    assert!(
        reasons.iter().any(|r| r.contains("a handler's panic")),
        "{reasons:?}"
    );
    assert!(
        reasons.iter().any(|r| r.contains("took longer")),
        "{reasons:?}"
    );
    let copies = world
        .count("select count(*) from outbox where topic = 'dead_letter_queue'")
        .await;
    assert_eq!(copies, i64::try_from(dead).unwrap());
    running.stop().await;
}

async fn a_statement_that_takes_too_long_uses_up_its_message_s_attempts_alone<B: TestBackend>() {
    let world = World::<B>::new(1).await;
    let mut options = world.options();
    options.retry.max_attempts = 2;
    world.faults.set(3, Fault::SlowStatement);
    for n in 1..=6 {
        world.log.ping(0, &format!("key{n}"), n);
    }
    let running = world.start_with(options);
    world.all_once([1, 2, 4, 5, 6]).await;
    world
        .count_reaches(1, "select count(*) from inbox_dead_letter")
        .await;
    let letters = dead_letter::list(world.db.pool(), None, false, 10);
    let letters = letters.await.unwrap();
    assert!(letters[0].reason.contains("took longer"), "{letters:?}");
    // A replay that takes as long is answered too.
    let at = letters[0].id.clone();
    let request = request_replay(world.db.pool(), &at, "somebody", 1);
    let request = request.await.unwrap();
    let state = async || dead_letter::request(world.db.pool(), request).await;
    until("refusal", async || {
        state().await.unwrap().unwrap().state == "refused"
    })
    .await;
    world.log.ping(0, "key7", 7);
    world.all_once([1, 2, 4, 5, 6, 7]).await;
    running.stop().await;
}

/// The first message is a dead letter.
async fn with_a_dead_letter<B: TestBackend>() -> (World<B>, Running) {
    let world = World::<B>::new(1).await;
    world.faults.set(1, Fault::Reject);
    world.log.ping(0, "a", 1);
    let running = world.start();
    world
        .count_reaches(1, "select count(*) from inbox_dead_letter")
        .await;
    (world, running)
}

async fn a_listing_leaves_out_what_strangers_sent<B: TestBackend>() {
    let (world, running) = with_a_dead_letter::<B>().await;
    let pool = world.db.pool();
    let whole = dead_letter::list(pool, None, false, 10).await.unwrap();
    let outlines = dead_letter::list_outlines(pool, None, false, 10).await;
    let outlines = outlines.unwrap();
    assert!(!whole[0].payload.is_empty() && !whole[0].headers.is_empty());
    assert!(outlines[0].payload.is_empty() && outlines[0].headers.is_empty());
    assert_eq!(outlines[0].id, whole[0].id);
    assert_eq!(outlines[0].reason, whole[0].reason);
    running.stop().await;
}

async fn requests_about_partitions_that_nobody_holds_hold_no_other_up<B: TestBackend>() {
    let (world, running) = with_a_dead_letter::<B>().await;
    running.stop().await;
    world.faults.clear(1);
    world
        .execute(
            "insert into inbox_dead_letter_request (kind, consumer, topic, partition, \
             record_offset, requested_by, requested_at) \
             with recursive many(n) as (select 0 union all select n + 1 from many where n < 1500) \
             select 'replay', 'group', 'ping', 7 + n % 3, n, 'somebody', 1 from many",
        )
        .await;
    request_replay(world.db.pool(), &letter(0), "somebody", 1)
        .await
        .unwrap();
    let running = world.start();
    world.all_once([1]).await;
    running.stop().await;
}

async fn impossible_options_are_refused_at_the_start<B: TestBackend>() {
    let world = World::<B>::new(1).await;
    let mut options = world.options();
    options.max_batch_records = 0;
    options.retry.max_delay = Duration::MAX;
    let refused = world.start_with(options).ended().await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "invalid options of consumer group: max_batch_records must be 1 to 10000; \
         retry.max_delay must be at most 365 days"
    );
}

async fn too_many_waiting_messages_pause_their_partition<B: TestBackend>() {
    let world = World::<B>::new(2).await;
    world.faults.set(0, Fault::Reject);
    let mut options = world.options();
    options.waiting_cap = 10;
    options.max_batch_records = 4;
    for n in 0..200 {
        world.log.ping(0, "a", n);
    }
    for n in 1_000..1_010 {
        world.log.ping(1, "b", n);
    }
    let running = world.start_with(options);
    running
        .until("pause", |s| {
            s.partitions.iter().any(|p| p.paused && p.dead_keys == 1)
        })
        .await;
    world.all_once(1_000..1_010).await;
    let waiting = world.count("select count(*) from inbox_waiting").await;
    assert!((11..60).contains(&waiting), "{waiting} wait");
    world.faults.clear(0);
    request_replay(world.db.pool(), &letter(0), "somebody", 1)
        .await
        .unwrap();
    world.all_once((0..200).chain(1_000..1_010)).await;
    assert_eq!(world.effects_of("a").await, (0..200).collect::<Vec<_>>());
    running
        .until("resume", |s| s.partitions.iter().all(|p| !p.paused))
        .await;
    running.stop().await;
}
