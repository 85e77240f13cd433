//! Orders for the last pieces at the same time, on both databases.
#![expect(clippy::unwrap_used, reason = "test code fails by panicking")]

use std::sync::Arc;

use contracts::choreography::PaymentProcessed;
use contracts::inventory::Reserve;
use inventory::{DEFINITION, Stock};
use onceward::{
    Backend, Db, Envelope, MessageContext, MessageId, OpenOptions, Outbox, SystemClock, Tx, UuidV7,
};
use onceward_saga::{Answer, Participant, Performer, SagaBackend, SagaId, StepRef};
use onceward_testkit::postgres;
use skeleton::migrate;
use sqlx::{Postgres, Sqlite};
use uuid::Uuid;

async fn the_last_pieces_are_reserved_once<B: SagaBackend>(db: Db<B>) {
    migrate(&DEFINITION, db.pool()).await.unwrap();
    let stock = Arc::new(Stock::new(Arc::new(SystemClock)));
    // Of product_3 there are 50; 40 customers want 3 each at the same time.
    let mut customers = tokio::task::JoinSet::new();
    for n in 0..40_u128 {
        let (db, stock) = (db.clone(), Arc::clone(&stock));
        customers.spawn(async move {
            let order_id = Uuid::from_u128(n);
            let command = Reserve {
                saga: StepRef::first(SagaId(order_id), "inventory"),
                order_id,
                product_id: "product_3".into(),
                quantity: 3,
            };
            let context = MessageContext::start(&UuidV7);
            let mut tx: Tx<'static, B> = db.pool().begin_with(B::BEGIN).await.unwrap();
            let answer = stock.perform(&mut tx, &context, &command).await.unwrap();
            tx.commit().await.unwrap();
            if let Answer::Done(_) = &answer {
                // Half of them change their mind.
                if n % 2 == 0 {
                    let mut tx: Tx<'static, B> = db.pool().begin_with(B::BEGIN).await.unwrap();
                    stock.undo(&mut tx, &context, &command).await.unwrap();
                    stock.undo(&mut tx, &context, &command).await.unwrap();
                    tx.commit().await.unwrap();
                }
            }
            answer
        });
    }
    let answers = customers.join_all().await;
    for answer in &answers {
        if let Answer::Refused(reason) = answer {
            assert_eq!(reason, inventory::INSUFFICIENT);
        }
    }
    let done = answers
        .iter()
        .filter(|a| matches!(a, Answer::Done(_)))
        .count();
    assert!(done >= 16, "50 pieces are enough for 16 of them");
    let sum = |what: &'static str| sum(&db, what);
    let stock = sum("select stock from product where product_id = 'product_3'").await;
    let reserved = sum("select reserved from product where product_id = 'product_3'").await;
    assert!(stock >= 0 && stock + reserved == 50, "{stock} + {reserved}");
    let held = "select cast(coalesce(sum(quantity), 0) as bigint) from reservation \
                where state = 'reserved'";
    assert_eq!(sum(held).await, reserved);
}

/// Half of them by a saga's command, half without a coordinator.
async fn of_64_clients_exactly_one_gets_the_last_item<B: SagaBackend>(db: Db<B>) {
    migrate(&DEFINITION, db.pool()).await.unwrap();
    let last = "update product set stock = 1, supplied = 1 where product_id = 'product_3'";
    sqlx::query(last).execute(db.pool()).await.unwrap();
    let outbox = Outbox::new(DEFINITION.source().unwrap());
    let handlers = Arc::new(inventory::handlers::<B>(&outbox));
    let start = Arc::new(tokio::sync::Barrier::new(64));
    let mut clients = tokio::task::JoinSet::new();
    for n in 1..=64_u128 {
        let order_id = Uuid::from_u128(n);
        let product_id = "product_3".to_owned();
        let id = MessageId(order_id);
        let envelope = if n % 2 == 0 {
            let reserve = Reserve {
                saga: StepRef::first(SagaId(order_id), "inventory"),
                order_id,
                product_id,
                quantity: 1,
            };
            Envelope::of(&reserve, id).unwrap()
        } else {
            let paid = PaymentProcessed {
                order_id,
                amount_minor: 1,
                product_id,
                quantity: 1,
            };
            Envelope::of(&paid, id).unwrap()
        };
        let (db, handlers, start) = (db.clone(), Arc::clone(&handlers), Arc::clone(&start));
        clients.spawn(async move {
            start.wait().await;
            let handled = db
                .write(async move |tx: &mut Tx<'static, B>| handlers.dispatch(tx, &envelope).await);
            handled.await.unwrap();
        });
    }
    clients.join_all().await;
    let said = |types: &'static str| sum(&db, types);
    let won = "select count(*) from outbox where message_type in \
               ('inventory.reserved.v1', 'inventory-updated.v1')";
    let lost = "select count(*) from outbox where message_type in \
                ('inventory.failed.v1', 'inventory-failed.v1')";
    assert_eq!((said(won).await, said(lost).await), (1, 63));
    let left = "select stock * 10 + reserved from product where product_id = 'product_3'";
    assert_eq!(sum(&db, left).await, 1, "none free, one reserved");
    let held = "select count(*) from reservation where state = 'reserved'";
    assert_eq!(sum(&db, held).await, 1);
}

async fn sum<B: Backend>(db: &Db<B>, what: &'static str) -> i64 {
    sqlx::query_scalar(what).fetch_one(db.pool()).await.unwrap()
}

async fn on_sqlite() -> (Db<Sqlite>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inventory.db");
    std::fs::File::create(&path).unwrap();
    let url = format!("sqlite://{}", path.display());
    let db = Db::<Sqlite>::open(&url, OpenOptions::default())
        .await
        .unwrap();
    (db, folder)
}

async fn on_postgres() -> Db<Postgres> {
    let url = postgres::shared().unwrap().create_database().unwrap();
    Db::<Postgres>::open(&url, OpenOptions::default())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_pieces_are_reserved_once_on_sqlite() {
    let (db, _folder) = on_sqlite().await;
    the_last_pieces_are_reserved_once(db).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_pieces_are_reserved_once_on_postgres() {
    the_last_pieces_are_reserved_once(on_postgres().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_64_clients_exactly_one_gets_the_last_item_on_sqlite() {
    let (db, _folder) = on_sqlite().await;
    of_64_clients_exactly_one_gets_the_last_item(db).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_64_clients_exactly_one_gets_the_last_item_on_postgres() {
    of_64_clients_exactly_one_gets_the_last_item(on_postgres().await).await;
}
