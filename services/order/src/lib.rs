//! The order service: takes orders, and shows how far each has come.
//!
//! It does not drive an order: it writes `order.created` with the order in one transaction, and
//! follows what is said about the order by everybody else ([`Projection`]).
//!
//! ```text
//! pending ──a compensation is commanded──▶ cancelling ──order.cancelled──▶ failed
//!    │ │                                        │                             ▲
//!    │ └───────────────order.cancelled──────────┼─────────────────────────────┘
//!    └──────────order.completed──▶ completed ◀──┘
//! ```
//! There is no order across topics, so a status only ever moves along these arrows, and a message
//! that would move it back is only noted as a step. The arrow from `cancelling` to `completed` is
//! never taken by our saga; it is there because the orchestrator has the last word.
#![deny(missing_docs)]

mod api;
mod domain;
mod metrics;
mod reactions;
mod sql;

use onceward::Backend;
use onceward::schema::Line;
use skeleton::{App, Definition, Service};
use sqlx::migrate::Migrator;

pub use domain::{NewOrder, Order, OrderStatus, Step};
pub use reactions::{Projection, handlers};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");
/// Its own tables.
static LINES: [Line; 1] = [Line::portable("_order_migrations", &MIGRATIONS)];

/// Name, group, port and tables.
pub const DEFINITION: Definition = Definition {
    name: "order",
    about: "Takes orders, and shows how far each has come.\n\n\
    An order is written together with its message `order.created`, in one transaction; everything else \
    happens in other services, by messages, and comes back as the order's status: `pending` → \
    `completed`, or `cancelling` → `failed` once all that was done is undone.",
    consumer: contracts::ORDER_GROUP,
    port: 8001,
    lines: &LINES,
};

/// Topics it consumes: everything said about an order but by itself.
pub const TOPICS: [&str; 17] = [
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
];

/// The service with its routes and handlers.
///
/// # Errors
/// None so far.
pub fn service<B: Backend>(app: &App<B>) -> anyhow::Result<Service<B>> {
    metrics::describe();
    let projection = Projection::new(app.clock().clone());
    Ok(Service::new(api::routes()).consuming(&TOPICS, handlers(projection)))
}
