//! The shipping service: sends reserved pieces on their way, and takes them back.
#![deny(missing_docs)]

mod http;
mod shipments;

use contracts::pipeline::{DeliveryFailed, InventoryReserved, OrderTimedOut};
use onceward::consumer::Handlers;
use onceward::schema::Line;
use onceward::{Backend, Outbox};
use onceward_saga::Reacting;
use skeleton::{App, Definition, Service};
use sqlx::migrate::Migrator;

pub use shipments::Shipments;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");
/// The saga library's tables and its own.
static LINES: [Line; 2] = [
    onceward_saga::schema::LINE,
    Line::portable("_shipping_migrations", &MIGRATIONS),
];

/// Name, group, port and tables.
pub const DEFINITION: Definition = Definition {
    name: "shipping",
    about: "Sends reserved pieces on their way, and takes them back.\n\n\
    Read only: an order of the pipeline is shipped once its pieces are reserved, and comes back if it can't be \
    delivered or takes too long. No other order is shipped.",
    consumer: contracts::SHIPPING_GROUP,
    port: 8006,
    lines: &LINES,
};

/// The service with its routes and handlers.
pub fn service<B: Backend>(app: &App<B>) -> Service<B> {
    Service::new(http::routes()).consuming(handlers(app.outbox()))
}

/// A handler for every message type it consumes.
pub fn handlers<B: Backend>(outbox: &Outbox) -> Handlers<B> {
    let shipments = Shipments::new(outbox.clock().clone());
    let reacting = Reacting::new(shipments, outbox.clone());
    Handlers::default()
        .on::<InventoryReserved, _>(reacting.clone())
        .on::<DeliveryFailed, _>(reacting.voided())
        .on::<OrderTimedOut, _>(reacting.voided())
}
