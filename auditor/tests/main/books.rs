//! The shop's books.

use auditor::shop::{Books, Shop, audit_shop};
use onceward_testkit::postgres;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnectOptions;

const TABLES: [&str; 4] = [
    concat!(
        include_str!("../../../migrations/order/0001_order.sql"),
        include_str!("../../../migrations/order/0002_choreography.sql")
    ),
    include_str!("../../../migrations/inventory/0001_inventory.sql"),
    include_str!("../../../migrations/payment/0001_payment.sql"),
    include_str!("../../../migrations/delivery/0001_delivery.sql"),
];

async fn execute(url: &str, sql: &str) {
    // One text for both: an id literal is the only thing that differs.
    let number = |n: &str| format!("0000000000000000000000000000000{n}");
    let mut text = sql.to_owned();
    for n in ["1", "2", "3"] {
        let literal = if url.starts_with("sqlite") {
            format!("x'{}'", number(n))
        } else {
            format!("'{}'", number(n))
        };
        text = text.replace(&format!("id:{n}"), &literal);
    }
    if url.starts_with("sqlite") {
        let options: SqliteConnectOptions = url.parse().unwrap();
        let options = options.create_if_missing(true);
        let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(text))
            .execute(&pool)
            .await
            .unwrap();
        pool.close().await;
    } else {
        let pool = sqlx::PgPool::connect(url).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(text))
            .execute(&pool)
            .await
            .unwrap();
        pool.close().await;
    }
}

async fn books(shop: &Shop, part: &str, sql: &str) -> Books {
    execute(part, sql).await;
    audit_shop(shop).await.unwrap()
}

async fn keeps(urls: [String; 4]) {
    for (url, sql) in urls.iter().zip(TABLES) {
        execute(url, sql).await;
    }
    let [order, inventory, payment, delivery] = urls;
    let shop = Shop {
        order,
        inventory,
        payment,
        delivery,
    };
    let open = "insert into orders values \
        (id:1, 'u', 'product_1', 2, 300, 'pending', null, id:3, 0, 0, 'orchestration')";
    assert_eq!(books(&shop, &shop.order, open).await.open, 1);
    execute(&shop.order, "update orders set status = 'completed'").await;
    execute(
        &shop.inventory,
        "insert into reservation values (id:1, 'product_1', 2, 'reserved', 0, 0); \
         update product set stock = stock - 2, reserved = 2 where product_id = 'product_1'",
    )
    .await;
    let paid = "insert into payment values (id:1, 'u', 300, 'completed', null, 0, 0)";
    let before = books(&shop, &shop.payment, paid).await;
    assert_eq!(before.problems.len(), 1, "{before:?}");
    assert!(
        before.problems[0].ends_with("its delivery is missing, expected 2"),
        "{before:?}"
    );
    let without = "update orders set saga = 'choreography'";
    let closed = books(&shop, &shop.order, without).await;
    assert!(closed.closed(), "is not delivered: {closed:?}");
    execute(&shop.order, "update orders set saga = 'orchestration'").await;
    let sent = "insert into delivery values (id:1, 'u', 'product_1', 2, 'scheduled', null, 0, 0)";
    let closed = books(&shop, &shop.delivery, sent).await;
    assert!(closed.closed(), "{closed:?}");
    assert_eq!((closed.completed, closed.taken_minor), (1, 300));

    let failed = "insert into orders values \
        (id:2, 'u', 'product_1', 1, 50, 'failed', 'x', id:3, 0, 0, 'orchestration')";
    assert!(books(&shop, &shop.order, failed).await.closed());
    let kept = "insert into payment values (id:2, 'u', 50, 'completed', null, 0, 0)";
    let wrong = books(&shop, &shop.payment, kept).await;
    assert!(
        wrong.problems[0].contains("its payment is completed of 50"),
        "{wrong:?}"
    );
    execute(
        &shop.payment,
        "update payment set status = 'refunded' where order_id = id:2",
    )
    .await;
    let held = "insert into reservation values (id:3, 'product_2', 5, 'reserved', 0, 0)";
    let wrong = books(&shop, &shop.inventory, held).await;
    assert_eq!(wrong.problems.len(), 2, "{wrong:?}");
}

#[test]
fn the_shops_books_tell_what_does_not_add_up() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let names = ["order", "inventory", "payment", "delivery"];
    let file = |name| format!("sqlite://{}/{name}.db", folder.path().display());
    runtime.block_on(keeps(names.map(file)));
    let server = postgres::shared().unwrap();
    runtime.block_on(keeps(names.map(|_| server.create_database().unwrap())));
}
