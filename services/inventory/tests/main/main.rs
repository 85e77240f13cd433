//! Orders for the last pieces at the same time, on both databases.
#![expect(clippy::unwrap_used, reason = "test code fails by panicking")]

use std::sync::Arc;

use contracts::inventory::Reserve;
use inventory::Stock;
use onceward::{Backend, Db, MessageContext, OpenOptions, SourceName, SystemClock, Tx, UuidV7};
use onceward_saga::{Answer, Participant, SagaBackend, SagaId, StepRef};
use onceward_testkit::postgres;
use sqlx::{Postgres, Sqlite};
use uuid::Uuid;

async fn the_last_pieces_are_reserved_once<B: SagaBackend>(db: Db<B>) {
    let name = SourceName::new("inventory").unwrap();
    onceward::schema::migrate(db.pool(), &name).await.unwrap();
    for line in inventory::DEFINITION.lines {
        line.migrate(db.pool()).await.unwrap();
    }
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

async fn sum<B: Backend>(db: &Db<B>, what: &'static str) -> i64 {
    sqlx::query_scalar(what).fetch_one(db.pool()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_pieces_are_reserved_once_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inventory.db");
    std::fs::File::create(&path).unwrap();
    let url = format!("sqlite://{}", path.display());
    let db = Db::<Sqlite>::open(&url, OpenOptions::default())
        .await
        .unwrap();
    the_last_pieces_are_reserved_once(db).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_last_pieces_are_reserved_once_on_postgres() {
    let url = postgres::shared().unwrap().create_database().unwrap();
    let db = Db::<Postgres>::open(&url, OpenOptions::default())
        .await
        .unwrap();
    the_last_pieces_are_reserved_once(db).await;
}
