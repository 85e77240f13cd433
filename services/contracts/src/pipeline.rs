//! An order without a coordinator that goes all the way: paid, reserved, shipped, delivered.
//!
//! What the services say, each in reaction to the one before. Every body has `orderId`, `userId`, `status` and
//! `timestamp`, and what the next service needs. The order ends with the same words as any other,
//! [`order::Completed`](crate::order::Completed) and [`order::Cancelled`](crate::order::Cancelled), said by the
//! order service.

use onceward::Micros;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Name of the process: with the order's id, the `saga_id` of its last word.
pub const PROCESS: &str = "place_order_pipeline";

/// What became of an order or of a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the facts tell what they mean")]
pub enum Status {
    Created,
    TimedOut,
    Paid,
    PaymentFailed,
    Refunded,
    Reserved,
    ReservationFailed,
    Released,
    Shipped,
    Returned,
    Delivered,
    DeliveryFailed,
    DeliveryCancelled,
}

/// Facts about one order: their status and what they say besides.
macro_rules! facts {
    ($($(#[$about:meta])* $name:ident = $type:literal, $status:ident {
        $($(#[$told:meta])* $field:ident: $of:ty,)*
    })*) => {
        $($(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            /// The order.
            pub order_id: Uuid,
            /// Who ordered.
            pub user_id: String,
            /// Always the same in this fact.
            pub status: Status,
            /// When it was said; RFC 3339 in JSON.
            #[serde(with = "rfc3339")]
            pub timestamp: Micros,
            $($(#[$told])* pub $field: $of,)*
        }

        impl $name {
            /// Says it of the order that this user has placed.
            pub fn of(order_id: Uuid, user_id: &str, timestamp: Micros, $($field: $of),*) -> Self {
                let (user_id, status) = (user_id.to_owned(), Status::$status);
                Self { order_id, user_id, status, timestamp, $($field),* }
            }
        })*

        crate::messages! {
            $($name = $type, Event;)*
        }
    };
}

facts! {
    /// An order was taken. Sent by the order service; payment reacts.
    OrderCreated = "pipeline.order_created.v1", Created {
        /// Which product.
        product_id: String,
        /// How many, at least 1.
        quantity: i64,
        /// The price of all of it, in minor units (cents).
        amount_minor: i64,
    }
    /// The order was not delivered before its deadline. Sent by the order service; whoever has done something for
    /// it undoes it, and who has not will not.
    OrderTimedOut = "pipeline.order_timed_out.v1", TimedOut {}
    /// The customer is charged. Sent by the payment service; inventory reacts.
    OrderPaid = "pipeline.order_paid.v1", Paid {
        /// Which product.
        product_id: String,
        /// How many, at least 1.
        quantity: i64,
        /// How much, in minor units (cents).
        amount_minor: i64,
    }
    /// The customer is not charged. Sent by the payment service.
    PaymentFailed = "pipeline.payment_failed.v1", PaymentFailed {
        /// Why not, in words a customer may read.
        reason: String,
    }
    /// The customer has paid nothing for the order, nor will. Sent by the payment service.
    PaymentRefunded = "pipeline.payment_refunded.v1", Refunded {}
    /// The stock is set aside. Sent by the inventory service; shipping reacts.
    InventoryReserved = "pipeline.inventory_reserved.v1", Reserved {
        /// Which product.
        product_id: String,
        /// How many, at least 1.
        quantity: i64,
    }
    /// The stock is short, or there is no such product. Sent by the inventory service; payment pays back.
    InventoryFailed = "pipeline.inventory_failed.v1", ReservationFailed {
        /// Why not, in words a customer may read.
        reason: String,
    }
    /// No stock is set aside for the order, nor will be. Sent by the inventory service.
    InventoryReleased = "pipeline.inventory_released.v1", Released {}
    /// The pieces are on their way. Sent by the shipping service; delivery reacts.
    OrderShipped = "pipeline.order_shipped.v1", Shipped {
        /// Which product.
        product_id: String,
        /// How many, at least 1.
        quantity: i64,
    }
    /// Nothing is on its way, nor will be. Sent by the shipping service.
    ShipmentReturned = "pipeline.shipment_returned.v1", Returned {}
    /// The customer has the pieces. Sent by the delivery service; the order is complete.
    OrderDelivered = "pipeline.order_delivered.v1", Delivered {}
    /// The customer can't be reached. Sent by the delivery service; shipping takes the pieces back, inventory puts
    /// them back, payment pays back.
    DeliveryFailed = "pipeline.delivery_failed.v1", DeliveryFailed {
        /// Why not, in words a customer may read.
        reason: String,
    }
    /// Nothing is delivered, nor will be. Sent by the delivery service.
    DeliveryCancelled = "pipeline.delivery_cancelled.v1", DeliveryCancelled {}
}

crate::undone! {
    void, at => Self::of(void.order_id, &void.user_id, at);
    PaymentRefunded by InventoryFailed, DeliveryFailed, OrderTimedOut;
    InventoryReleased by DeliveryFailed, OrderTimedOut;
    ShipmentReturned by DeliveryFailed, OrderTimedOut;
    DeliveryCancelled by OrderTimedOut;
}

/// A time as text, to the microsecond.
mod rfc3339 {
    use jiff::Timestamp;
    use onceward::Micros;
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(at: &Micros, to: S) -> Result<S::Ok, S::Error> {
        let at = Timestamp::from_microsecond(*at).map_err(S::Error::custom)?;
        to.serialize_str(&format!("{at:.6}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Micros, D::Error> {
        let text = String::deserialize(from)?;
        let at: Timestamp = text.parse().map_err(D::Error::custom)?;
        Ok(at.as_microsecond())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_as_the_next_service_reads_it() {
        let paid = OrderPaid::of(
            Uuid::nil(),
            "user_123",
            1_000_001,
            "product_1".into(),
            2,
            500,
        );
        let body = serde_json::to_value(&paid).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "orderId": "00000000-0000-0000-0000-000000000000", "userId": "user_123",
                "status": "paid", "timestamp": "1970-01-01T00:00:01.000001Z",
                "productId": "product_1", "quantity": 2, "amountMinor": 500,
            })
        );
        assert_eq!(serde_json::from_value::<OrderPaid>(body).unwrap(), paid);
    }
}
