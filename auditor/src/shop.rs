//! The demo shop's books: stock, credit and money are conserved, every order has ended, and each service's
//! part agrees with the order's end.

use std::collections::HashMap;

use anyhow::Result;
use serde::Serialize;
use uuid::Uuid;

use crate::database::{Connection, open_read_only};

/// Where the shop's databases are.
#[derive(Debug, Clone)]
pub struct Shop {
    /// Orders.
    pub order: String,
    /// Stock and reservations.
    pub inventory: String,
    /// Payments.
    pub payment: String,
    /// Deliveries.
    pub delivery: String,
    /// Customers and their credit.
    pub customer: String,
    /// Shipments.
    pub shipping: String,
}

/// What the books say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Books {
    /// All orders.
    pub orders: u64,
    /// Paid and, if the order has a delivery, delivered.
    pub completed: u64,
    /// Failed, everything undone.
    pub failed: u64,
    /// Not ended yet.
    pub open: u64,
    /// Minor units taken for completed orders.
    pub taken_minor: i64,
    /// What does not add up, one sentence each; an open order is none of them.
    pub problems: Vec<String>,
}

impl Books {
    /// Whether every order has ended and all adds up.
    pub fn closed(&self) -> bool {
        self.open == 0 && self.problems.is_empty()
    }
}

/// Reads `(id, state, number)` rows by id.
async fn rows(url: &str, sql: &'static str) -> Result<HashMap<Uuid, (String, i64)>> {
    let rows: Vec<(Uuid, String, i64)> = match open_read_only(url).await? {
        Connection::Sqlite(mut c) => sqlx::query_as(sql).fetch_all(&mut c).await?,
        Connection::Postgres(mut c) => sqlx::query_as(sql).fetch_all(&mut c).await?,
    };
    let by_id = rows.into_iter();
    Ok(by_id
        .map(|(id, state, number)| (id, (state, number)))
        .collect())
}

/// Reads the books. Wait until the shop is at rest: the databases are read one after another.
pub async fn audit_shop(shop: &Shop) -> Result<Books> {
    const ORDERS: &str = "select order_id, status, amount_minor from orders";
    const QUANTITIES: &str = "select order_id, coalesce(choreography, saga), quantity from orders";
    const RESERVATIONS: &str = "select order_id, state, quantity from reservation";
    const PAYMENTS: &str = "select order_id, status, amount_minor from payment";
    const DELIVERIES: &str = "select order_id, status, quantity from delivery";
    const CREDITS: &str = "select order_id, state, amount_minor from credit";
    const VALIDATED: &str = "select order_id, topic, at from order_step \
         where message_type = 'customer.validated.v1'";
    const SHIPMENTS: &str = "select order_id, status, quantity from shipment";
    let mut books = Books::default();
    let orders = rows(&shop.order, ORDERS).await?;
    let wanted = rows(&shop.order, QUANTITIES).await?;
    let reservations = rows(&shop.inventory, RESERVATIONS).await?;
    let payments = rows(&shop.payment, PAYMENTS).await?;
    let deliveries = rows(&shop.delivery, DELIVERIES).await?;
    let credits = rows(&shop.customer, CREDITS).await?;
    let validated = rows(&shop.order, VALIDATED).await?;
    let shipments = rows(&shop.shipping, SHIPMENTS).await?;
    stock(&shop.inventory, &mut books).await?;
    credit(&shop.customer, &mut books).await?;
    for (id, (status, amount)) in &orders {
        books.orders += 1;
        let (way, quantity) = wanted
            .get(id)
            .map_or(("", 0), |(way, quantity)| (way.as_str(), *quantity));
        let mut parts = vec![
            (
                "reservation",
                reservations.get(id),
                quantity,
                &["reserved", "sold"][..],
            ),
            ("payment", payments.get(id), *amount, &["completed"]),
        ];
        // The shorter choreography delivers nothing, and only the longer one ships.
        match (way, deliveries.get(id)) {
            ("payment-first", None) => {}
            (_, delivery) => parts.push(("delivery", delivery, quantity, &["scheduled"])),
        }
        // Nor is every order validated first.
        if let Some(credit) = credits.get(id) {
            parts.push(("credit", Some(credit), *amount, &["reserved", "spent"]));
        } else if validated.contains_key(id) {
            parts.push(("credit", None, *amount, &[]));
        }
        if way == "pipeline" {
            parts.push(("shipment", shipments.get(id), quantity, &["shipped"]));
        }
        match status.as_str() {
            "completed" => books.completed += 1,
            "failed" => books.failed += 1,
            _ => {
                books.open += 1;
                continue;
            }
        }
        for (what, part, number, done) in parts {
            let stands = part.is_some_and(|(state, _)| done.contains(&state.as_str()));
            match (status.as_str(), part) {
                ("completed", Some((_, found))) if stands && *found == number => {}
                ("failed", _) if !stands => {}
                (_, part) => books.problems.push(format!(
                    "order {id} is {status}, its {what} is {}, expected {number}",
                    part.map_or_else(|| "missing".to_owned(), |(s, n)| format!("{s} of {n}"))
                )),
            }
        }
        if let Some((_, taken)) = payments.get(id).filter(|(s, _)| s == "completed") {
            books.taken_minor += taken;
        }
    }
    let parts = [
        ("reservation", &reservations),
        ("payment", &payments),
        ("delivery", &deliveries),
        ("credit", &credits),
        ("shipment", &shipments),
    ];
    for (what, part) in parts {
        for id in part.keys().filter(|id| !orders.contains_key(id)) {
            books
                .problems
                .push(format!("{what} of {id}, which is no order"));
        }
    }
    books.problems.sort();
    Ok(books)
}

type Product = (String, i64, i64, i64, i64, i64, i64);

/// What came in is free, reserved or sold, and reservations say the same as the products.
async fn stock(url: &str, books: &mut Books) -> Result<()> {
    const SQL: &str = "select p.product_id, p.stock, p.reserved, p.sold, p.supplied, \
         cast(coalesce(sum(case when r.state = 'reserved' then r.quantity end), 0) as bigint), \
         cast(coalesce(sum(case when r.state = 'sold' then r.quantity end), 0) as bigint) \
         from product p left join reservation r on r.product_id = p.product_id \
         group by p.product_id, p.stock, p.reserved, p.sold, p.supplied";
    let products: Vec<Product> = match open_read_only(url).await? {
        Connection::Sqlite(mut c) => sqlx::query_as(SQL).fetch_all(&mut c).await?,
        Connection::Postgres(mut c) => sqlx::query_as(SQL).fetch_all(&mut c).await?,
    };
    for (id, stock, reserved, sold, supplied, in_rows, sold_in_rows) in products {
        if stock + reserved + sold != supplied {
            books.problems.push(format!(
                "{id}: {stock} free, {reserved} reserved and {sold} sold are not {supplied}"
            ));
        }
        if (reserved, sold) != (in_rows, sold_in_rows) {
            books.problems.push(format!(
                "{id}: {reserved} reserved and {sold} sold, its reservations say {in_rows} and \
                 {sold_in_rows}"
            ));
        }
    }
    Ok(())
}

type Credit = (String, i64, i64, i64, i64, i64);

/// No customer's open orders come to more than the limit, and the orders say the same as the customers.
async fn credit(url: &str, books: &mut Books) -> Result<()> {
    const SQL: &str = "select c.user_id, c.limit_minor, c.reserved_minor, c.spent_minor, \
         cast(coalesce(sum(case when o.state = 'reserved' then o.amount_minor end), 0) as bigint), \
         cast(coalesce(sum(case when o.state = 'spent' then o.amount_minor end), 0) as bigint) \
         from customer c left join credit o on o.user_id = c.user_id \
         group by c.user_id, c.limit_minor, c.reserved_minor, c.spent_minor";
    let customers: Vec<Credit> = match open_read_only(url).await? {
        Connection::Sqlite(mut c) => sqlx::query_as(SQL).fetch_all(&mut c).await?,
        Connection::Postgres(mut c) => sqlx::query_as(SQL).fetch_all(&mut c).await?,
    };
    for (user, limit, reserved, spent, in_rows, spent_in_rows) in customers {
        if reserved > limit {
            books.problems.push(format!(
                "{user}: {reserved} reserved of a credit of {limit}"
            ));
        }
        if (reserved, spent) != (in_rows, spent_in_rows) {
            books.problems.push(format!(
                "{user}: {reserved} reserved and {spent} spent, the orders say {in_rows} and \
                 {spent_in_rows}"
            ));
        }
    }
    Ok(())
}
