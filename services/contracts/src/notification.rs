//! What a customer is told. Any service may ask for it; the notification service makes a mail of each.
//!
//! How urgent it is says the topic: what is on `high_priority_notifications` goes before all that is on
//! `low_priority_notifications`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Names what a mail tells; each has a text.
macro_rules! notices {
    ($($(#[$about:meta])* $notice:ident = $name:literal;)*) => {
        /// What a mail tells.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum Notice {
            $($(#[$about])* #[serde(rename = $name)] $notice,)*
        }

        impl Notice {
            /// As stored, shown and sent.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$notice => $name,)*
                }
            }

            /// Reads what [`Self::as_str`] wrote.
            pub fn parse(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$notice),)*
                    _ => None,
                }
            }
        }
    };
}

notices! {
    /// The order was taken.
    OrderCreated = "order_created";
    /// It is paid.
    OrderPaid = "order_paid";
    /// It could not be paid.
    PaymentFailed = "payment_failed";
    /// The money is given back, or was never taken.
    PaymentRefunded = "payment_refunded";
    /// Its pieces are set aside.
    InventoryReserved = "inventory_reserved";
    /// There are too few of them.
    InventoryFailed = "inventory_failed";
    /// They are no longer set aside.
    InventoryReleased = "inventory_released";
    /// It is on its way.
    OrderShipped = "order_shipped";
    /// It is no longer on its way.
    ShipmentReturned = "shipment_returned";
    /// Its delivery is planned.
    DeliveryScheduled = "delivery_scheduled";
    /// It is there.
    OrderDelivered = "order_delivered";
    /// It could not be delivered.
    DeliveryFailed = "delivery_failed";
    /// It will not be delivered.
    DeliveryCancelled = "delivery_cancelled";
    /// It took too long.
    OrderTimedOut = "order_timed_out";
    /// All is done.
    OrderCompleted = "order_completed";
    /// It is given up, and all is undone.
    OrderCancelled = "order_cancelled";
}

/// Tell a customer of an order. Those of priority 0 go before those of priority 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification<const PRIORITY: i64> {
    /// The order; its customer gets the mail.
    pub order_id: Uuid,
    /// What it tells.
    pub notice: Notice,
    /// Why, in words a customer may read.
    pub reason: Option<String>,
}

/// Tell the customer before anything that has time.
pub type HighPriority = Notification<0>;
/// Tell the customer when there is time.
pub type LowPriority = Notification<1>;

crate::messages! {
    HighPriority = "high_priority_notifications.v1", Command;
    LowPriority = "low_priority_notifications.v1", Command;
}
