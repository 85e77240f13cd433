//! One owner at a time, and no zombie writes.

use std::time::Duration;

use onceward::source::{Claim, LEASE_TTL, Parking, Remedy, SourceError};

use super::support::*;

conformance!(
    a_second_claimer_waits_until_the_lease_ends,
    a_released_source_is_taken_at_once,
    a_restarted_process_retakes_its_own_lease_at_once_but_only_once,
    a_renewed_lease_does_not_end,
    two_claimers_at_once_make_one_owner,
    a_zombie_writes_nothing_while_its_successor_works,
    a_zombie_waits_for_a_claim_under_way_and_is_refused,
);

fn is_held(claim: &Claim) -> bool {
    matches!(claim, Claim::Held { .. })
}

async fn a_second_claimer_waits_until_the_lease_ends<B: Fixture>() {
    let db = B::database().await;
    let (mut first, mut second) = (db.store().await, db.store().await);
    let old = owned(first.claim("a", true).await.unwrap());
    match second.claim("b", true).await.unwrap() {
        Claim::Held { owner, expires_in } => {
            assert_eq!(owner, "a");
            assert!(expires_in <= LEASE_TTL && expires_in > Duration::ZERO);
        }
        Claim::Owned(_) => panic!("the lease is held"),
    }
    expire_lease(&db).await;
    let new = owned(second.claim("b", true).await.unwrap());
    assert!(new > old);
    assert!(is_held(&first.claim("a", false).await.unwrap()));
}

async fn a_released_source_is_taken_at_once<B: Fixture>() {
    let db = B::database().await;
    let (mut first, mut second) = (db.store().await, db.store().await);
    let epoch = owned(first.claim("a", true).await.unwrap());
    first.release(epoch).await.unwrap();
    owned(second.claim("b", true).await.unwrap());
    // Too late: it belongs to somebody else.
    first.release(epoch).await.unwrap();
    assert!(is_held(&first.claim("a", false).await.unwrap()));
}

async fn a_restarted_process_retakes_its_own_lease_at_once_but_only_once<B: Fixture>() {
    let db = B::database().await;
    let (mut before, mut after) = (db.store().await, db.store().await);
    let old = owned(before.claim("a", true).await.unwrap());
    let new = owned(after.claim("a", true).await.unwrap());
    assert!(new > old);
    // A twin with the same instance id does not take it back.
    assert!(is_held(&before.claim("a", false).await.unwrap()));
    assert!(matches!(before.renew(old).await, Err(SourceError::Fenced)));
    after.renew(new).await.unwrap();
}

async fn a_renewed_lease_does_not_end<B: Fixture>() {
    let db = B::database().await;
    let (mut first, mut second) = (db.store().await, db.store().await);
    let epoch = owned(first.claim("a", true).await.unwrap());
    expire_lease(&db).await;
    first.renew(epoch).await.unwrap();
    assert!(is_held(&second.claim("b", true).await.unwrap()));
}

async fn two_claimers_at_once_make_one_owner<B: Fixture>() {
    let db = B::database().await;
    for _ in 0..5 {
        db.execute("update outbox_source set owner = 'gone', lease_until = 1")
            .await;
        let (mut first, mut second) = (db.store().await, db.store().await);
        let (one, two) = tokio::join!(first.claim("a", true), second.claim("b", true));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert!(is_held(&one) != is_held(&two), "{one:?} {two:?}");
    }
}

async fn a_zombie_writes_nothing_while_its_successor_works<B: Fixture>() {
    let db = B::database().await;
    let mut zombie = Follower::start(&db).await;
    db.append("k", "1").await;
    let batch = zombie.fetch(10).await.unwrap();
    expire_lease(&db).await;
    let mut successor = db.store().await;
    let epoch = owned(successor.claim("b", true).await.unwrap());

    zombie.pass(&batch, 1);
    let at = place(zombie.offset);
    let parking = [Parking {
        row: &batch.rows[0],
        reason: "too large",
    }];
    let (store, old) = (&mut zombie.store, zombie.epoch);
    for refused in [
        store
            .write_mirror(old, &zombie.progress, at)
            .await
            .map(|_| ()),
        store.take_over(old, &zombie.progress, at).await.map(|_| ()),
        store.park(old, &parking).await,
        store.purge(old, i64::MAX, 10).await.map(|_| ()),
        store.next_request(old, 0).await.map(|_| ()),
        store.renew(old).await,
    ] {
        match refused {
            // There is no request, so none is looked for under the lock.
            Ok(()) => continue,
            Err(error) => {
                assert!(matches!(error, SourceError::Fenced), "{error:?}");
                assert_eq!(error.remedy(), Remedy::StandBy);
            }
        }
    }
    assert_eq!(db.count("select count(*) from outbox_dead_letter").await, 0);
    assert_eq!(db.count("select passed from outbox_progress").await, 0);
    successor
        .write_mirror(epoch, &zombie.progress, at)
        .await
        .unwrap();
    assert_eq!(db.count("select passed from outbox_progress").await, 1);
}

async fn a_zombie_waits_for_a_claim_under_way_and_is_refused<B: Fixture>() {
    let db = B::database().await;
    let mut zombie = Follower::start(&db).await;
    db.append("k", "1").await;
    zombie.step(10).await.unwrap();
    // The successor's claim, not committed yet: a plain read would still show the old epoch.
    let mut claim = db.begin().await;
    sqlx::query("update outbox_source set relay_epoch = relay_epoch + 1, owner = 'b'")
        .execute(&mut *claim)
        .await
        .unwrap();
    let (progress, old) = (zombie.progress.clone(), zombie.epoch);
    let late =
        tokio::spawn(async move { zombie.store.write_mirror(old, &progress, place(1)).await });
    tokio::time::timeout(Duration::from_millis(300), async {
        while !late.is_finished() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect_err("the zombie waits for the row lock");
    claim.commit().await.unwrap();
    assert!(matches!(late.await.unwrap(), Err(SourceError::Fenced)));
    assert_eq!(db.count("select passed from outbox_progress").await, 0);
}
