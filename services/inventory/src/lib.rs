//! The inventory service: sets stock aside for orders, and gives it back.
//!
//! ```text
//! stock ──reserve──▶ reserved ──the order is completed──▶ sold
//!   ▲                   │
//!   └──────release──────┘
//! ```
#![deny(missing_docs)]

mod http;
mod pipeline;
mod stock;

use contracts::choreography::{OrderTimedOut, PaymentProcessed};
use contracts::{order, pipeline as facts};
use onceward::consumer::Handlers;
use onceward::schema::Line;
use onceward::{Backend, Outbox};
use onceward_saga::{ParticipantOptions, Reacting, take_commands, take_part};
use skeleton::{App, Definition, Service};
use sqlx::migrate::Migrator;

use crate::pipeline::PipelineStock;
pub use stock::{Availability, INSUFFICIENT, Stock, UNKNOWN_PRODUCT};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");
/// The saga library's tables and its own.
static LINES: [Line; 2] = [
    onceward_saga::schema::LINE,
    Line::portable("_inventory_migrations", &MIGRATIONS),
];

/// Name, group, port and tables.
pub const DEFINITION: Definition = Definition {
    name: "inventory",
    about: "Sets stock aside for orders, and gives it back.\n\n\
    An order's saga asks whether there is enough, then has the pieces reserved; without a coordinator, \
    once it is paid. Those of a completed order are `sold`, those of a cancelled one `released`. `stock` + \
    `reserved` + `sold` never changes but by an operator.",
    consumer: contracts::INVENTORY_GROUP,
    port: 8002,
    lines: &LINES,
};

/// The service with its routes and handlers.
pub fn service<B: Backend>(app: &App<B>) -> Service<B> {
    Service::new(http::routes()).consuming(handlers(app.outbox()))
}

/// A handler for every message type it consumes.
pub fn handlers<B: Backend>(outbox: &Outbox) -> Handlers<B> {
    let stock = Stock::new(outbox.clock().clone());
    let reacting = Reacting::new(stock.clone(), outbox.clone());
    let in_pipeline = Reacting::new(PipelineStock(stock.clone()), outbox.clone());
    let handlers = take_commands(
        Handlers::default(),
        Availability,
        outbox.clone(),
        ParticipantOptions::default(),
    );
    take_part(
        handlers,
        stock.clone(),
        outbox.clone(),
        ParticipantOptions::default(),
    )
    .on::<order::Completed, _>(stock)
    .on::<PaymentProcessed, _>(reacting.clone())
    .on::<OrderTimedOut, _>(reacting.voided())
    .on::<facts::OrderPaid, _>(in_pipeline.clone())
    .on::<facts::DeliveryFailed, _>(in_pipeline.voided())
    .on::<facts::OrderTimedOut, _>(in_pipeline.voided())
}
