//! Orders for the last of the credit at the same time, on both databases.
#![expect(clippy::unwrap_used, reason = "test code fails by panicking")]

use std::sync::Arc;

use contracts::customer::Validate;
use customer::{Credit, DEFINITION, EXCEEDED, UNKNOWN_CUSTOMER};
use onceward::{Backend, Db, MessageContext, OpenOptions, SystemClock, Tx, UuidV7};
use onceward_saga::{Answer, Participant, Performer, SagaBackend, SagaId, StepRef};
use onceward_testkit::postgres;
use skeleton::{Money, migrate};
use sqlx::{Postgres, Sqlite};
use uuid::Uuid;

/// Enough for ten orders of 7.00.
const LIMIT: Money = Money::cents(7_500);

fn validate(order: u128) -> Validate {
    let order_id = Uuid::from_u128(order);
    Validate {
        saga: StepRef::first(SagaId(order_id), "customer"),
        order_id,
        user_id: "user_123".into(),
        amount_minor: 700,
    }
}

async fn of_64_orders_as_many_pass_as_the_credit_is_enough_for<B: SagaBackend>(db: Db<B>) {
    migrate(&DEFINITION, db.pool()).await.unwrap();
    let credit = Arc::new(Credit::new(Arc::new(SystemClock), Some(LIMIT)));
    let mut orders = tokio::task::JoinSet::new();
    for n in 0..64 {
        let (db, credit) = (db.clone(), Arc::clone(&credit));
        orders.spawn(async move { (n, ask(&db, &credit, &validate(n)).await) });
    }
    let answers = orders.join_all().await;
    let (passed, refused): (Vec<_>, Vec<_>) = answers
        .into_iter()
        .partition(|(_, reason)| reason.is_none());
    assert_eq!(passed.len(), 10);
    assert!(
        refused
            .iter()
            .all(|(_, reason)| reason.as_deref() == Some(EXCEEDED))
    );
    assert_eq!(reserved(&db).await, 7_000);

    // What is given back can be had again; giving it back twice gives it once.
    let given = validate(passed[0].0);
    for _ in 0..2 {
        let mut tx = begin(&db).await;
        let context = MessageContext::start(&UuidV7);
        credit.undo(&mut tx, &context, &given).await.unwrap();
        tx.commit().await.unwrap();
    }
    assert_eq!(reserved(&db).await, 6_300);
    assert_eq!(ask(&db, &credit, &validate(100)).await, None);
    let more = ask(&db, &credit, &validate(101)).await;
    assert_eq!(more.as_deref(), Some(EXCEEDED));

    let strict = Credit::new(Arc::new(SystemClock), None);
    let known = ask(&db, &strict, &validate(102)).await;
    assert_eq!(known.as_deref(), Some(EXCEEDED));
    let nobody = Validate {
        user_id: "user_900".into(),
        ..validate(103)
    };
    let unknown = ask(&db, &strict, &nobody).await;
    assert_eq!(unknown.as_deref(), Some(UNKNOWN_CUSTOMER));
}

/// The reason of a rejection.
async fn ask<B: Backend>(db: &Db<B>, credit: &Credit, command: &Validate) -> Option<String> {
    let mut tx = begin(db).await;
    let context = MessageContext::start(&UuidV7);
    let answer = credit.perform(&mut tx, &context, command).await.unwrap();
    tx.commit().await.unwrap();
    match answer {
        Answer::Done(_) => None,
        Answer::Refused(reason) => Some(reason),
    }
}

async fn begin<B: Backend>(db: &Db<B>) -> Tx<'static, B> {
    db.pool().begin_with(B::BEGIN).await.unwrap()
}

async fn reserved<B: Backend>(db: &Db<B>) -> i64 {
    sqlx::query_scalar("select reserved_minor from customer where user_id = 'user_123'")
        .fetch_one(db.pool())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_64_orders_as_many_pass_as_the_credit_is_enough_for_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("customer.db");
    std::fs::File::create(&path).unwrap();
    let url = format!("sqlite://{}", path.display());
    let db = Db::<Sqlite>::open(&url, OpenOptions::default());
    of_64_orders_as_many_pass_as_the_credit_is_enough_for(db.await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_64_orders_as_many_pass_as_the_credit_is_enough_for_on_postgres() {
    let url = postgres::shared().unwrap().create_database().unwrap();
    let db = Db::<Postgres>::open(&url, OpenOptions::default());
    of_64_orders_as_many_pass_as_the_credit_is_enough_for(db.await.unwrap()).await;
}
