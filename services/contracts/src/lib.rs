//! The messages the shop's services exchange: their only common knowledge.
//!
//! Every message is JSON, is about one order and is keyed by its id. The topic is the message type
//! without its version ([`TOPICS`]).
//!
//! ```text
//! order.created ─▶ inventory.reserve ─▶ inventory.reserved | inventory.failed
//!                  payment.process   ─▶ payment.completed  | payment.failed
//!                  delivery.schedule ─▶ delivery.scheduled | delivery.failed
//!                                                          ─▶ order.completed
//! undo it if it happened:
//!                  delivery.cancel   ─▶ delivery.cancelled
//!                  payment.refund    ─▶ payment.refunded
//!                  inventory.release ─▶ inventory.released ─▶ order.cancelled
//! ```
//! That is an order with a coordinator. One without ([`choreography`]):
//!
//! ```text
//! order-created ─▶ payment-processed ─▶ inventory-updated ─▶ order.completed
//!                  payment-failed                         ─▶ order.cancelled
//!                                       inventory-failed  ─▶ payment-refunded ─▶ order.cancelled
//! silence: order-timed-out ─▶ payment-refunded + inventory-released           ─▶ order.cancelled
//! ```
#![deny(missing_docs)]

pub mod choreography;
pub mod delivery;
pub mod inventory;
pub mod order;
pub mod payment;

/// Kind of thing every message of the shop is about.
pub const AGGREGATE: &str = "order";

/// Consumer group of the order service.
pub const ORDER_GROUP: &str = "order-service-group";
/// Consumer group of the inventory service.
pub const INVENTORY_GROUP: &str = "inventory-service-group";
/// Consumer group of the payment service.
pub const PAYMENT_GROUP: &str = "payment-service-group";
/// Consumer group of the delivery service.
pub const DELIVERY_GROUP: &str = "delivery-service-group";
/// Consumer group of the analytics service.
pub const ANALYTICS_GROUP: &str = "analytics-service-group";
/// Consumer group of the notification service.
pub const NOTIFICATION_GROUP: &str = "notification-service-group";
/// Consumer group of the saga orchestrator.
pub const SAGA_ORCHESTRATOR_GROUP: &str = "saga-orchestrator-group";

/// Every topic of the shop, as created by `shop topics`.
pub const TOPICS: [&str; 26] = [
    "order.created",
    "order.completed",
    "order.cancelled",
    "inventory.reserve",
    "inventory.reserved",
    "inventory.failed",
    "inventory.release",
    "inventory.released",
    "payment.process",
    "payment.completed",
    "payment.failed",
    "payment.refund",
    "payment.refunded",
    "delivery.schedule",
    "delivery.scheduled",
    "delivery.failed",
    "delivery.cancel",
    "delivery.cancelled",
    "order-created",
    "order-timed-out",
    "payment-processed",
    "payment-failed",
    "payment-refunded",
    "inventory-updated",
    "inventory-failed",
    "inventory-released",
];

/// Implements `Event` for messages about an order, and `SagaMessage`/`Refusal` where asked.
macro_rules! messages {
    ($($name:ident = $type:literal, $kind:ident $(, $role:ident)*;)*) => {$(
        impl onceward::Event for $name {
            const TYPE: &'static str = $type;
            const KIND: onceward::MessageKind = onceward::MessageKind::$kind;
            const AGGREGATE_TYPE: &'static str = $crate::AGGREGATE;
            fn aggregate_id(&self) -> String {
                self.order_id.to_string()
            }
        }
        $($crate::messages!(@$role $name);)*
    )*};
    (@step $name:ident) => {
        impl onceward_saga::SagaMessage for $name {
            fn step_ref(&self) -> &onceward_saga::StepRef {
                &self.saga
            }
        }
    };
    (@refusal $name:ident) => {
        impl onceward_saga::Refusal for $name {
            fn reason(&self) -> &str {
                &self.reason
            }
        }
    };
}
pub(crate) use messages;

#[cfg(test)]
mod tests {
    use onceward::{Event, Routing};

    use super::*;

    fn topic<E: Event>() -> String {
        Routing::default().topic(E::TYPE).to_owned()
    }

    #[test]
    fn every_message_goes_to_a_topic_of_the_list_and_every_topic_has_a_message() {
        let topics = [
            topic::<order::Created>(),
            topic::<order::Completed>(),
            topic::<order::Cancelled>(),
            topic::<inventory::Reserve>(),
            topic::<inventory::Reserved>(),
            topic::<inventory::Failed>(),
            topic::<inventory::Release>(),
            topic::<inventory::Released>(),
            topic::<payment::Process>(),
            topic::<payment::Completed>(),
            topic::<payment::Failed>(),
            topic::<payment::Refund>(),
            topic::<payment::Refunded>(),
            topic::<delivery::Schedule>(),
            topic::<delivery::Scheduled>(),
            topic::<delivery::Failed>(),
            topic::<delivery::Cancel>(),
            topic::<delivery::Cancelled>(),
            topic::<choreography::OrderCreated>(),
            topic::<choreography::OrderTimedOut>(),
            topic::<choreography::PaymentProcessed>(),
            topic::<choreography::PaymentFailed>(),
            topic::<choreography::PaymentRefunded>(),
            topic::<choreography::InventoryUpdated>(),
            topic::<choreography::InventoryFailed>(),
            topic::<choreography::InventoryReleased>(),
        ];
        assert_eq!(topics, TOPICS);
    }

    #[test]
    fn the_file_of_topics_names_every_topic() {
        let file: toml::Table = include_str!("../topics.toml").parse().unwrap();
        let named = file["topics"].as_table().unwrap().keys();
        let mut topics = TOPICS.to_vec();
        topics.sort_unstable();
        assert_eq!(named.collect::<Vec<_>>(), topics);
    }
}
