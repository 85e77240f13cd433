//! Parked keys: stored before the cursor passes, replayed in order, discarded visibly.

use onceward::source::{FetchLimits, Parking, SourceError};
use onceward::{Cursor, MessageId, RequestKind};

use super::support::*;

conformance!(
    parking_may_repeat_and_survives_a_crash_before_the_progress,
    a_row_without_a_key_is_parked_alone,
    a_discarded_row_without_a_key_is_parked_no_more,
    requests_are_taken_one_at_a_time_and_numbered_by_the_owner,
    a_key_is_replayed_only_after_the_cursor_has_passed_its_copies,
    a_replay_killed_in_the_middle_goes_on_where_it_was,
    a_finished_replay_is_not_cleaned_up_twice,
    a_discarded_key_is_free_and_its_copies_stay_visible,
    a_stale_claimer_neither_parks_nor_replays,
    a_huge_key_is_parked_once_and_told_from_another,
    pairs_of_topic_and_key_are_told_apart_whatever_is_in_them,
);

async fn request<B: Fixture>(db: &TestDb<B>, kind: &'static str, key: &'static str) {
    sqlx::query(
        "insert into outbox_dead_letter_request (kind, topic, message_key, requested_by, requested_at) \
         values ($1, 'order.created', $2, 'test', 1)",
    )
    .bind(kind)
    .bind(key)
    .execute(&db.pool)
    .await
    .unwrap();
}

/// The same about a row without a key.
async fn request_about<B: Fixture>(db: &TestDb<B>, kind: &'static str, id: MessageId) {
    sqlx::query(
        "insert into outbox_dead_letter_request (kind, topic, message_id, requested_by, requested_at) \
         values ($1, 'order.created', $2, 'test', 1)",
    )
    .bind(kind)
    .bind(id.0)
    .execute(&db.pool)
    .await
    .unwrap();
}

/// Five rows: 1, 3 and 5 of the key "bad", the others of "good"; the bad ones are parked.
async fn parked<B: Fixture>(db: &TestDb<B>) -> Follower<B> {
    let mut follower = Follower::start(db).await;
    for n in 1..=5 {
        db.append(if n % 2 == 1 { "bad" } else { "good" }, &n.to_string())
            .await;
    }
    let batch = follower.fetch(10).await.unwrap();
    let bad: Vec<_> = batch
        .rows
        .iter()
        .filter(|r| r.message_key() == Some("bad"))
        .map(|row| Parking {
            row,
            reason: "too large",
        })
        .collect();
    follower.store.park(follower.epoch, &bad).await.unwrap();
    follower
}

async fn parking_may_repeat_and_survives_a_crash_before_the_progress<B: Fixture>() {
    let db = B::database().await;
    let mut follower = parked(&db).await;
    // CRASH here: stored, but no progress has passed the rows. The next owner meets them again.
    let again = follower.fetch(10).await.unwrap();
    assert_eq!(again.rows.len(), 5);
    let keys = follower.store.parked_keys().await.unwrap();
    let withheld: Vec<_> = again.rows.iter().filter(|row| keys.contains(row)).collect();
    assert_eq!((keys.len(), withheld.len()), (1, 3));
    let rows: Vec<_> = withheld
        .iter()
        .map(|row| Parking {
            row,
            reason: "queues",
        })
        .collect();
    follower.store.park(follower.epoch, &rows).await.unwrap();
    assert_eq!(db.count("select count(*) from outbox_dead_letter").await, 3);
    assert_eq!(
        db.count("select count(*) from outbox_dead_letter where reason = 'too large'")
            .await,
        3
    );
}

async fn a_row_without_a_key_is_parked_alone<B: Fixture>() {
    let db = B::database().await;
    let mut follower = Follower::start(&db).await;
    let mut tx = db.begin().await;
    let first = append_message(&mut tx, message(None, "1")).await;
    append_message(&mut tx, message(None, "2")).await;
    tx.commit().await.unwrap();
    let batch = follower.fetch(10).await.unwrap();
    let rows = [Parking {
        row: &batch.rows[0],
        reason: "invalid",
    }];
    follower.store.park(follower.epoch, &rows).await.unwrap();
    let keys = follower.store.parked_keys().await.unwrap();
    let withheld: Vec<MessageId> = batch
        .rows
        .iter()
        .filter(|r| keys.contains(r))
        .map(|r| r.message_id)
        .collect();
    assert_eq!(withheld, [first]);
    follower.pass(&batch, 2);

    request_about(&db, "replay", first).await;
    let wish = follower
        .store
        .next_request(follower.epoch, 0)
        .await
        .unwrap()
        .unwrap();
    assert!(
        follower
            .store
            .copies_passed(&follower.progress.cursor, &wish)
            .await
            .unwrap()
    );
    let copies = follower
        .store
        .copies(&wish, 0, FetchLimits::default())
        .await
        .unwrap();
    assert_eq!(copies, batch.rows[..1]);
    let done = wish.replayed(copies[0].seq, true);
    follower
        .store
        .finish_replay(follower.epoch, &done)
        .await
        .unwrap();
    assert!(follower.store.parked_keys().await.unwrap().is_empty());
}

async fn a_discarded_row_without_a_key_is_parked_no_more<B: Fixture>() {
    let db = B::database().await;
    let mut follower = Follower::start(&db).await;
    let mut tx = db.begin().await;
    let id = append_message(&mut tx, message(None, "1")).await;
    tx.commit().await.unwrap();
    let batch = follower.fetch(10).await.unwrap();
    let rows = [Parking {
        row: &batch.rows[0],
        reason: "invalid",
    }];
    follower.store.park(follower.epoch, &rows).await.unwrap();
    follower.pass(&batch, 1);
    request_about(&db, "discard", id).await;
    let wish = follower.store.next_request(follower.epoch, 0).await;
    let wish = wish.unwrap().unwrap();
    let discarded = follower.store.discard(follower.epoch, &wish).await;
    assert_eq!(discarded.unwrap(), 1);
    assert!(follower.store.parked_keys().await.unwrap().is_empty());
}

async fn requests_are_taken_one_at_a_time_and_numbered_by_the_owner<B: Fixture>() {
    let db = B::database().await;
    let mut follower = parked(&db).await;
    assert_eq!(
        follower
            .store
            .next_request(follower.epoch, 0)
            .await
            .unwrap(),
        None
    );
    request(&db, "replay", "bad").await;
    request(&db, "discard", "bad").await;
    let first = follower
        .store
        .next_request(follower.epoch, 6)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((first.number, first.kind), (7, RequestKind::Replay));
    // The one that runs comes again until it is done.
    assert_eq!(
        follower
            .store
            .next_request(follower.epoch, 7)
            .await
            .unwrap(),
        Some(first.clone())
    );
    follower
        .store
        .refuse(follower.epoch, &first, "refused again")
        .await
        .unwrap();
    let second = follower
        .store
        .next_request(follower.epoch, 7)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((second.number, second.kind), (8, RequestKind::Discard));
}

async fn a_key_is_replayed_only_after_the_cursor_has_passed_its_copies<B: Fixture>() {
    let db = B::database().await;
    let mut follower = parked(&db).await;
    request(&db, "replay", "bad").await;
    let wish = follower
        .store
        .next_request(follower.epoch, 0)
        .await
        .unwrap()
        .unwrap();
    let cursor = follower.progress.cursor.clone();
    assert!(!follower.store.copies_passed(&cursor, &wish).await.unwrap());
    let batch = follower.fetch(10).await.unwrap();
    // In mid-page: two of the three copies are passed.
    let cursor = batch.cursor_after(4);
    assert!(!follower.store.copies_passed(&cursor, &wish).await.unwrap());
    let cursor: Cursor = batch.next();
    assert!(follower.store.copies_passed(&cursor, &wish).await.unwrap());
}

async fn a_replay_killed_in_the_middle_goes_on_where_it_was<B: Fixture>() {
    let db = B::database().await;
    let mut follower = parked(&db).await;
    follower.step(10).await.unwrap();
    request(&db, "replay", "bad").await;
    let wish = follower
        .store
        .next_request(follower.epoch, 0)
        .await
        .unwrap()
        .unwrap();
    let two = FetchLimits {
        max_rows: 2,
        ..FetchLimits::default()
    };
    for (max_bytes, fit) in [(2, vec!["1", "3"]), (0, vec!["1"])] {
        let limits = FetchLimits {
            max_bytes,
            ..FetchLimits::default()
        };
        let copies = follower.store.copies(&wish, 0, limits).await.unwrap();
        assert_eq!(copies.iter().map(payload).collect::<Vec<_>>(), fit);
    }
    let copies = follower.store.copies(&wish, 0, two).await.unwrap();
    assert_eq!(copies.iter().map(payload).collect::<Vec<_>>(), ["1", "3"]);
    // CRASH: the Kafka transaction with these two is committed, the clean-up is not done.
    follower.progress.replay = Some(wish.replayed(copies[1].seq, false));
    let mut successor = db.store().await;
    let epoch = owned(successor.claim("a", true).await.unwrap());
    let keys = successor
        .take_over(epoch, &follower.progress, place(2))
        .await
        .unwrap();
    assert_eq!(
        keys.len(),
        1,
        "the key stays parked until the replay is done"
    );
    let same = successor
        .next_request(epoch, wish.number)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(same, wish);
    let rest = successor.copies(&same, 0, two).await.unwrap();
    assert_eq!(rest.iter().map(payload).collect::<Vec<_>>(), ["5"]);
    let done = same.replayed(rest[0].seq, true);
    successor.finish_replay(epoch, &done).await.unwrap();
    assert!(successor.parked_keys().await.unwrap().is_empty());
    assert_eq!(
        successor.next_request(epoch, wish.number).await.unwrap(),
        None
    );
    assert_eq!(db.count("select count(*) from outbox_dead_letter").await, 0);
}

async fn a_finished_replay_is_not_cleaned_up_twice<B: Fixture>() {
    let db = B::database().await;
    let mut follower = parked(&db).await;
    let batch = follower.fetch(10).await.unwrap();
    follower.pass(&batch, 5);
    request(&db, "replay", "bad").await;
    let wish = follower
        .store
        .next_request(follower.epoch, 0)
        .await
        .unwrap()
        .unwrap();
    let done = wish.replayed(5, true);
    follower
        .store
        .finish_replay(follower.epoch, &done)
        .await
        .unwrap();
    // The key is refused anew; the progress still names the old replay.
    let rows = [Parking {
        row: &batch.rows[0],
        reason: "refused anew",
    }];
    follower.store.park(follower.epoch, &rows).await.unwrap();
    follower.progress.replay = Some(done);
    let keys = follower
        .store
        .take_over(follower.epoch, &follower.progress, place(3))
        .await
        .unwrap();
    assert_eq!(keys.len(), 1);
    assert_eq!(db.count("select count(*) from outbox_dead_letter").await, 1);
}

async fn a_discarded_key_is_free_and_its_copies_stay_visible<B: Fixture>() {
    let db = B::database().await;
    let mut follower = parked(&db).await;
    follower.step(10).await.unwrap();
    request(&db, "discard", "bad").await;
    let wish = follower
        .store
        .next_request(follower.epoch, 0)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        follower.store.discard(follower.epoch, &wish).await.unwrap(),
        3
    );
    assert!(follower.store.parked_keys().await.unwrap().is_empty());
    assert_eq!(
        db.count("select count(*) from outbox_dead_letter where state = 'discarded'")
            .await,
        3
    );
    assert_eq!(
        db.count("select count(*) from outbox_dead_letter_request where state = 'done'")
            .await,
        1
    );
}

async fn a_stale_claimer_neither_parks_nor_replays<B: Fixture>() {
    let db = B::database().await;
    let mut stale = parked(&db).await;
    stale.step(10).await.unwrap();
    request(&db, "replay", "bad").await;
    let wish = stale
        .store
        .next_request(stale.epoch, 0)
        .await
        .unwrap()
        .unwrap();
    expire_lease(&db).await;
    let mut successor = db.store().await;
    owned(successor.claim("b", true).await.unwrap());
    let done = wish.replayed(5, true);
    for refused in [
        stale.store.finish_replay(stale.epoch, &done).await,
        stale.store.discard(stale.epoch, &wish).await.map(|_| ()),
        stale.store.refuse(stale.epoch, &wish, "late").await,
        stale.store.next_request(stale.epoch, 0).await.map(|_| ()),
    ] {
        assert!(matches!(refused, Err(SourceError::Fenced)), "{refused:?}");
    }
    assert_eq!(
        db.count("select count(*) from outbox_dead_letter where state = 'parked'")
            .await,
        3
    );
}

async fn a_huge_key_is_parked_once_and_told_from_another<B: Fixture>() {
    let db = B::database().await;
    let mut follower = Follower::start(&db).await;
    let noise = (0_u64..2_000).map(|n| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let huge: String = noise.collect();
    for key in ["1", "1", "2"] {
        db.append(key, key).await;
    }
    // `append` refuses it; who writes rows by hand can do it.
    sqlx::query("update outbox set message_key = $1 || message_key")
        .bind(huge.as_str())
        .execute(&db.pool)
        .await
        .unwrap();
    let batch = follower.fetch(10).await.unwrap();
    let reason = "too large";
    let of_huge = batch.rows[..2].iter();
    let parked: Vec<_> = of_huge.map(|row| Parking { row, reason }).collect();
    for _ in 0..2 {
        follower.store.park(follower.epoch, &parked).await.unwrap();
    }
    assert_eq!(db.count("select count(*) from outbox_parked_key").await, 1);
    let keys = follower.store.parked_keys().await.unwrap();
    let withheld = |at: usize| keys.contains(&batch.rows[at]);
    assert_eq!((withheld(0), withheld(1), withheld(2)), (true, true, false));
    follower.pass(&batch, 3);

    sqlx::query(
        "insert into outbox_dead_letter_request (kind, topic, message_key, requested_by, requested_at) \
         values ('replay', 'order.created', $1 || '1', 'test', 1)",
    )
    .bind(huge.as_str())
    .execute(&db.pool)
    .await
    .unwrap();
    let (epoch, store) = (follower.epoch, &mut follower.store);
    let wish = store.next_request(epoch, 0).await.unwrap().unwrap();
    let done = wish.replayed(batch.rows[1].seq, true);
    let written = serde_json::to_string(&done).unwrap();
    assert!(written.len() < 200, "{} bytes of progress", written.len());
    store.finish_replay(epoch, &done).await.unwrap();
    assert!(store.parked_keys().await.unwrap().is_empty());
    assert_eq!(db.count("select count(*) from outbox_dead_letter").await, 0);
}

async fn pairs_of_topic_and_key_are_told_apart_whatever_is_in_them<B: Fixture>() {
    let db = B::database().await;
    let mut follower = Follower::start(&db).await;
    // `append` refuses such a topic; who writes rows by hand can name it.
    for (topic, key) in [("a b", "c"), ("a", "b c")] {
        db.append("1", "1").await;
        sqlx::query("update outbox set topic = $1, message_key = $2 where message_key = '1'")
            .bind(topic)
            .bind(key)
            .execute(&db.pool)
            .await
            .unwrap();
    }
    let batch = follower.fetch(10).await.unwrap();
    let reason = "too large";
    let rows = batch.rows.iter();
    let parked: Vec<_> = rows.map(|row| Parking { row, reason }).collect();
    follower.store.park(follower.epoch, &parked).await.unwrap();
    assert_eq!(follower.store.parked_keys().await.unwrap().len(), 2);
}
