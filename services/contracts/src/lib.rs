//! The messages the shop's services exchange: their only common knowledge.
//!
//! Every message is JSON, is about one order and is keyed by its id. The topic is the message type
//! without its version, unless [`routing`] says otherwise.
//!
//! ```text
//! order.created ─▶ customer.validate.request  ─▶ customer.validated  | customer.rejected
//!                & inventory.validate.request ─▶ inventory.validated | inventory.rejected
//!                  inventory.reserve ─▶ inventory.reserved | inventory.failed
//!                  payment.process   ─▶ payment.completed  | payment.failed
//!                  delivery.schedule ─▶ delivery.scheduled | delivery.failed
//!                                                          ─▶ order.completed
//! undo it if it happened:
//!                  delivery.cancel   ─▶ delivery.cancelled
//!                  payment.refund    ─▶ payment.refunded
//!                  inventory.release ─▶ inventory.released
//!                  customer.release  ─▶ customer.released  ─▶ order.cancelled
//! ```
//! That is an order with a coordinator. One without ([`choreography`]):
//!
//! ```text
//! order-created ─▶ payment-processed ─▶ inventory-updated ─▶ order.completed
//!                  payment-failed                         ─▶ order.cancelled
//!                                       inventory-failed  ─▶ payment-refunded ─▶ order.cancelled
//! silence: order-timed-out ─▶ payment-refunded + inventory-released           ─▶ order.cancelled
//! ```
//! Or one that goes all the way ([`pipeline`]; its topics by default in front with `pipeline.`):
//!
//! ```text
//! order_created ─▶ order_paid     ─▶ inventory_reserved ─▶ order_shipped ─▶ order_delivered ─▶ order.completed
//!                  payment_failed                                                           ─▶ order.cancelled
//!                                    inventory_failed   ─▶ payment_refunded                 ─▶ order.cancelled
//!                                                                           delivery_failed
//!       ─▶ payment_refunded + inventory_released + shipment_returned                        ─▶ order.cancelled
//! silence: order_timed_out ─▶ these three + delivery_cancelled                              ─▶ order.cancelled
//! ```
//! What customers are told is asked for by [`notification`]s, of high and of low priority.
#![deny(missing_docs)]

use std::collections::BTreeSet;

use onceward::Routing;

pub mod choreography;
pub mod customer;
pub mod delivery;
pub mod inventory;
pub mod notification;
pub mod order;
pub mod payment;
pub mod pipeline;
pub mod routing;

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
/// Consumer group of the customer service.
pub const CUSTOMER_GROUP: &str = "customer-service-group";
/// Consumer group of the shipping service.
pub const SHIPPING_GROUP: &str = "shipping-service-group";
/// Consumer group of the analytics service.
pub const ANALYTICS_GROUP: &str = "analytics-service-group";
/// Consumer group of the notification service.
pub const NOTIFICATION_GROUP: &str = "notification-service-group";
/// Consumer group of the saga orchestrator.
pub const SAGA_ORCHESTRATOR_GROUP: &str = "saga-orchestrator-group";

/// Every message type of the shop.
pub fn message_types() -> impl Iterator<Item = &'static str> {
    [
        order::TYPES,
        customer::TYPES,
        inventory::TYPES,
        payment::TYPES,
        delivery::TYPES,
        choreography::TYPES,
        pipeline::TYPES,
        notification::TYPES,
    ]
    .into_iter()
    .flatten()
    .copied()
}

/// Every topic of the shop, as created by `shop topics`.
pub fn topics(routing: &Routing) -> BTreeSet<String> {
    message_types()
        .map(|known| routing.topic(known).to_owned())
        .collect()
}

/// Implements `Event` for a module's messages about an order, and where asked `SagaMessage`, `Refusal` and `Refuses` of
/// a command, `Confirms` of a cancel.
macro_rules! messages {
    ($($name:ident = $type:literal, $kind:ident $(, $role:ident $(($of:ident))?)*;)*) => {$(
        impl onceward::Event for $name {
            const TYPE: &'static str = $type;
            const KIND: onceward::MessageKind = onceward::MessageKind::$kind;
            const AGGREGATE_TYPE: &'static str = $crate::AGGREGATE;
            fn aggregate_id(&self) -> String {
                self.order_id.to_string()
            }
        }
        $($crate::messages!(@$role $name $($of)?);)*
    )*
        /// Types of these messages.
        pub(crate) const TYPES: &[&str] = &[$($type),*];
    };
    (@step $name:ident) => {
        impl onceward_saga::SagaMessage for $name {
            fn step_ref(&self) -> &onceward_saga::StepRef {
                &self.saga
            }
        }
    };
    (@refuses $name:ident $command:ident) => {
        impl onceward_saga::Refusal for $name {
            fn reason(&self) -> &str {
                &self.reason
            }
        }
        impl onceward_saga::Refuses<$command> for $name {
            fn refuse(command: &$command, reason: String) -> Self {
                Self {
                    saga: command.saga.clone(),
                    order_id: command.order_id,
                    reason,
                }
            }
        }
    };
    (@confirms $name:ident $cancel:ident) => {
        impl onceward_saga::Confirms<$cancel> for $name {
            fn confirm(cancel: &$cancel) -> Self {
                Self {
                    saga: cancel.saga.clone(),
                    order_id: cancel.order_id,
                }
            }
        }
    };
}
pub(crate) use messages;

/// Says which facts are said because of which, made as the first line shows of what voids and of the time.
macro_rules! undone {
    ($void:ident, $at:ident => $said:expr; $($undone:ident by $($by:ident),*;)*) => {$($(
        impl onceward_saga::UndoneBy<$by> for $undone {
            fn undone_by($void: &$by, $at: onceward::Micros) -> Self {
                $said
            }
        }
    )*)*};
}
pub(crate) use undone;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_has_a_topic_of_its_own_and_the_file_names_them_all() {
        let file: toml::Table = include_str!("../topics.toml").parse().unwrap();
        let named = file["topics"].as_table().unwrap().keys().cloned();
        let topics = topics(&Routing::default());
        assert_eq!(topics, named.collect());
        assert_eq!(topics.len(), message_types().count());
    }
}
