//! Twins of an Idempotency-Key.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use onceward::idempotency::{Claim, Request, StoredAnswer, purge};
use onceward::schema::SchemaBackend;
use onceward::{Db, Error, Tx, WriteError};

use super::{ids, insert, on_postgres, on_sqlite};

/// Carries a request out once; `Err` where the work is refused.
pub(super) async fn once<B: SchemaBackend>(
    db: &Db<B>,
    body: &'static [u8],
    next: &Arc<AtomicI64>,
    refuse: bool,
) -> Result<Claim, WriteError<Error>> {
    let request = Request::new("POST", "/things", "user", "key", body);
    let next = Arc::clone(next);
    db.write(async move |tx: &mut Tx<'static, B>| {
        let claim = request.claim(tx, 1_000).await?;
        if claim != Claim::First {
            return Ok(claim);
        }
        let id = next.fetch_add(1, Ordering::SeqCst);
        insert(tx, id).await.map_err(Error::database("insert"))?;
        // Holds the claim for a while, so that twins meet it.
        tokio::time::sleep(Duration::from_millis(20)).await;
        if refuse {
            return Err(Error::NoTransaction);
        }
        let answer = StoredAnswer {
            status: 201,
            headers: BTreeMap::from([("location".into(), format!("/things/{id}"))]),
            body: id.to_string().into_bytes(),
        };
        request.store(tx, &answer).await?;
        Ok(Claim::Answered(answer))
    })
    .await
}

async fn twins_get_one_answer<B: SchemaBackend>(db: &Db<B>) {
    let next = Arc::new(AtomicI64::new(1));
    once(db, b"body", &next, true).await.unwrap_err();
    assert_eq!(ids(db).await, [0_i64; 0], "a refusal frees the key");

    let (a, b, c, d) = tokio::join!(
        once(db, b"body", &next, false),
        once(db, b"body", &next, false),
        once(db, b"body", &next, false),
        once(db, b"other", &next, false),
    );
    let (a, b, c, d) = (a.unwrap(), b.unwrap(), c.unwrap(), d.unwrap());
    // Whoever came first, those with the same body agree, and the other body is refused, or won
    // and refuses them.
    assert_eq!((&a, &a), (&b, &c));
    assert!(
        matches!(
            (&a, &d),
            (Claim::Answered(_), Claim::OtherBody) | (Claim::OtherBody, Claim::Answered(_))
        ),
        "{a:?} {d:?}"
    );
    assert_eq!(ids(db).await.len(), 1, "one of them was carried out");

    let forget = async |before| {
        db.write(async move |tx: &mut Tx<'static, B>| purge(tx, before, 10).await)
            .await
            .unwrap()
    };
    assert_eq!(forget(1_000).await, 0);
    assert_eq!(forget(1_001).await, 1);
}

/// Longer than an index of Postgres takes, however it is compressed.
async fn long_parts_are_told_apart<B: SchemaBackend>(db: &Db<B>) {
    let noise = (0_u64..2_000).map(|n| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let long: String = noise.collect();
    let claim = async |end: &str| {
        let part = format!("{long}{end}");
        let request = Request::new("POST", &part, &part, &part, b"");
        db.write(async move |tx: &mut Tx<'static, B>| {
            let claim = request.claim(tx, 1_000).await?;
            if claim == Claim::First {
                request.store(tx, &StoredAnswer::default()).await?;
            }
            Ok::<_, Error>(claim)
        })
        .await
        .unwrap()
    };
    assert_eq!(claim("1").await, Claim::First);
    assert!(matches!(claim("1").await, Claim::Answered(_)));
    assert_eq!(claim("2").await, Claim::First);
}

#[tokio::test]
async fn concurrent_twins_get_one_answer_on_sqlite() {
    let (_dir, _url, db) = on_sqlite().await;
    twins_get_one_answer(&db).await;
    long_parts_are_told_apart(&db).await;
}

#[tokio::test]
async fn concurrent_twins_get_one_answer_on_postgres() {
    let (_url, db) = on_postgres().await;
    twins_get_one_answer(&db).await;
    long_parts_are_told_apart(&db).await;
}
