//! The shop's books.

use auditor::shop::{Books, Shop, audit_shop};
use onceward_testkit::postgres;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnectOptions;

const TABLES: [&str; 6] = [
    concat!(
        include_str!("../../../migrations/order/0001_order.sql"),
        include_str!("../../../migrations/order/0002_choreography.sql"),
        include_str!("../../../migrations/order/0003_events.sql"),
        include_str!("../../../migrations/order/0004_pipeline.sql")
    ),
    include_str!("../../../migrations/inventory/0001_inventory.sql"),
    include_str!("../../../migrations/payment/0001_payment.sql"),
    include_str!("../../../migrations/delivery/0001_delivery.sql"),
    include_str!("../../../migrations/customer/0001_customer.sql"),
    include_str!("../../../migrations/shipping/0001_shipping.sql"),
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

async fn keeps(urls: [String; 6]) {
    for (url, sql) in urls.iter().zip(TABLES) {
        execute(url, sql).await;
    }
    let [order, inventory, payment, delivery, customer, shipping] = urls;
    let shop = Shop {
        order,
        inventory,
        payment,
        delivery,
        customer,
        shipping,
    };
    let open = "insert into orders values \
        (id:1, 'u', 'product_1', 2, 300, 'pending', null, id:3, 0, 0, 'orchestration', null, null, null)";
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
    let without = "update orders set saga = 'choreography', choreography = 'payment-first'";
    let closed = books(&shop, &shop.order, without).await;
    assert!(closed.closed(), "is not delivered: {closed:?}");
    let pipeline = "update orders set choreography = 'pipeline'";
    let before = books(&shop, &shop.order, pipeline).await;
    assert_eq!(before.problems.len(), 2, "{before:?}");
    let sent = "insert into delivery values (id:1, 'u', 'product_1', 2, 'scheduled', null, 0, 0)";
    assert_eq!(books(&shop, &shop.delivery, sent).await.problems.len(), 1);
    let shipped = "insert into shipment values (id:1, 'u', 'product_1', 2, 'shipped', 0, 0)";
    let closed = books(&shop, &shop.shipping, shipped).await;
    assert!(closed.closed(), "{closed:?}");
    assert_eq!((closed.completed, closed.taken_minor), (1, 300));

    let failed = "insert into orders values \
        (id:2, 'u', 'product_1', 1, 50, 'failed', 'x', id:3, 0, 0, 'orchestration', null, null, null)";
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
    // Credit: what the orders have, and what the customers say they have.
    let lent = "insert into customer values (id:2, 'u', 'u', 1000, 300, 0, 0, 0); \
        insert into credit values (id:1, 'u', 300, 'reserved', 0, 0)";
    assert!(books(&shop, &shop.customer, lent).await.closed());
    let lost = "update customer set reserved_minor = 200 where user_id = 'u'";
    let wrong = books(&shop, &shop.customer, lost).await;
    assert!(
        wrong.problems[0].contains("200 reserved and 0 spent"),
        "{wrong:?}"
    );
    let spent = "update customer set reserved_minor = 0, spent_minor = 300 where user_id = 'u'; \
        update credit set state = 'spent'";
    assert!(books(&shop, &shop.customer, spent).await.closed());
    let never = "delete from credit; update customer set spent_minor = 0";
    assert!(books(&shop, &shop.customer, never).await.closed());
    let said = "insert into order_step values \
        (id:1, 'customer.validated', 0, null, 'customer.validated.v1', null, null)";
    let wrong = books(&shop, &shop.order, said).await;
    assert!(
        wrong.problems[0].ends_with("its credit is missing, expected 300"),
        "{wrong:?}"
    );
    execute(&shop.order, "delete from order_step").await;

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
    let names = [
        "order",
        "inventory",
        "payment",
        "delivery",
        "customer",
        "shipping",
    ];
    let file = |name| format!("sqlite://{}/{name}.db", folder.path().display());
    runtime.block_on(keeps(names.map(file)));
    let server = postgres::shared().unwrap();
    runtime.block_on(keeps(names.map(|_| server.create_database().unwrap())));
}
