//! What all services together have.

use onceward_saga::SagaBackend;

use super::{Node, World};

/// Stock and money, as they must add up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    pub stock: i64,
    pub reserved: i64,
    pub sold: i64,
    /// Minor units the customers have paid and not got back.
    pub paid: i64,
    pub deliveries: i64,
    /// Minor units of the customers' credit that orders under way have.
    pub credit: i64,
    /// Minor units that completed orders with a coordinator came to.
    pub spent: i64,
    pub shipments: i64,
}

impl<B: SagaBackend> World<B> {
    pub async fn ledger(&self) -> Ledger {
        let [_, inventory, payment, delivery, _, customer, shipping] = &self.nodes[..] else {
            panic!("seven services");
        };
        let one = async |node: &Node<B>, what: &'static str| -> i64 {
            sqlx::query_scalar(what)
                .fetch_one(node.db.pool())
                .await
                .unwrap()
        };
        let reserved_by_orders = one(
            inventory,
            "select cast(coalesce(sum(quantity), 0) as bigint) from reservation \
             where state = 'reserved'",
        )
        .await;
        let sold_by_orders = one(
            inventory,
            "select cast(coalesce(sum(quantity), 0) as bigint) from reservation \
             where state = 'sold'",
        )
        .await;
        let ledger = Ledger {
            stock: one(inventory, "select cast(sum(stock) as bigint) from product").await,
            reserved: one(
                inventory,
                "select cast(sum(reserved) as bigint) from product",
            )
            .await,
            sold: one(inventory, "select cast(sum(sold) as bigint) from product").await,
            paid: one(
                payment,
                "select cast(coalesce(sum(amount_minor), 0) as bigint) from payment \
                 where status = 'completed'",
            )
            .await,
            deliveries: one(
                delivery,
                "select count(*) from delivery where status = 'scheduled'",
            )
            .await,
            credit: one(
                customer,
                "select cast(coalesce(sum(reserved_minor), 0) as bigint) from customer",
            )
            .await,
            spent: one(
                customer,
                "select cast(coalesce(sum(spent_minor), 0) as bigint) from customer",
            )
            .await,
            shipments: one(
                shipping,
                "select count(*) from shipment where status = 'shipped'",
            )
            .await,
        };
        let of_orders = [
            (
                ledger.credit,
                "select cast(coalesce(sum(amount_minor), 0) as bigint) from credit \
                 where state = 'reserved'",
            ),
            (
                ledger.spent,
                "select cast(coalesce(sum(amount_minor), 0) as bigint) from credit \
                 where state = 'spent'",
            ),
        ];
        for (total, sum) in of_orders {
            assert_eq!(one(customer, sum).await, total, "credit adds up");
        }
        assert_eq!(ledger.reserved, reserved_by_orders, "reservations add up");
        assert_eq!(ledger.sold, sold_by_orders, "sales add up");
        ledger
    }
}
