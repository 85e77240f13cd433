//! The payment service: charges customers, and pays back.
//! Some are refused by chance ([`skeleton::Chance`]).
#![deny(missing_docs)]

mod http;
mod participant;
mod pipeline;

use clap::Args;
use contracts::choreography::{InventoryFailed, OrderCreated, OrderTimedOut};
use contracts::pipeline as facts;
use onceward::consumer::Handlers;
use onceward::schema::Line;
use onceward::{Backend, Outbox};
use onceward_saga::{ParticipantOptions, Reacting, take_part};
use skeleton::{App, Chance, Definition, Service};
use sqlx::migrate::Migrator;

use crate::pipeline::PipelinePayments;
pub use participant::{ALWAYS_REFUSED, Payments, REFUSED};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");
/// The saga library's tables and its own.
static LINES: [Line; 2] = [
    onceward_saga::schema::LINE,
    Line::portable("_payment_migrations", &MIGRATIONS),
];

/// Name, group, port and tables.
pub const DEFINITION: Definition = Definition {
    name: "payment",
    about: "Charges customers, and pays back.\n\n\
    Read only: charges and refunds come as messages, commanded by the order's saga or, in an order \
    without a coordinator, in reaction to `order-created` or `order_created`. One payment in five is \
    declined by chance (`--fail-percent`), those of `user_declined` always.",
    consumer: contracts::PAYMENT_GROUP,
    port: 8003,
    lines: &LINES,
};

/// Settings of its own.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Settings {
    /// How many of 100 payments are refused by chance, 0 to 100; 0 turns it off.
    #[arg(
        long,
        env = "ONCEWARD_PAYMENT_FAIL_PERCENT",
        default_value_t = 20,
        value_parser = clap::value_parser!(u8).range(0..=100),
        value_name = "PERCENT"
    )]
    pub fail_percent: u8,
    /// Another seed refuses other orders.
    #[arg(
        long,
        env = "ONCEWARD_PAYMENT_SEED",
        default_value_t = 0,
        value_name = "NUMBER"
    )]
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            fail_percent: 20,
            seed: 0,
        }
    }
}

impl Settings {
    fn chance(&self) -> Chance {
        Chance {
            of: DEFINITION.name,
            percent: self.fail_percent,
            seed: self.seed,
        }
    }
}

/// The service with its routes and handlers.
pub fn service<B: Backend>(app: &App<B>, settings: &Settings) -> Service<B> {
    let handlers = handlers(app.outbox(), settings);
    Service::new(http::routes()).consuming(handlers)
}

/// A handler for every message type it consumes.
pub fn handlers<B: Backend>(outbox: &Outbox, settings: &Settings) -> Handlers<B> {
    let payments = Payments::new(outbox.clock().clone(), settings.chance());
    let reacting = Reacting::new(payments.clone(), outbox.clone());
    let in_pipeline = Reacting::new(PipelinePayments(payments.clone()), outbox.clone());
    take_part(
        Handlers::default(),
        payments,
        outbox.clone(),
        ParticipantOptions::default(),
    )
    .on::<OrderCreated, _>(reacting.clone())
    .on::<OrderTimedOut, _>(reacting.voided())
    .on::<InventoryFailed, _>(reacting.voided())
    .on::<facts::OrderCreated, _>(in_pipeline.clone())
    .on::<facts::InventoryFailed, _>(in_pipeline.voided())
    .on::<facts::DeliveryFailed, _>(in_pipeline.voided())
    .on::<facts::OrderTimedOut, _>(in_pipeline.voided())
}
