//! The delivery service: plans deliveries, and calls them off.
//! Some are refused by chance ([`skeleton::Chance`]).
#![deny(missing_docs)]

mod http;
mod participant;
mod pipeline;

use clap::Args;
use contracts::pipeline::{OrderShipped, OrderTimedOut};
use onceward::consumer::Handlers;
use onceward::schema::Line;
use onceward::{Backend, Outbox};
use onceward_saga::{ParticipantOptions, Reacting, take_part};
use skeleton::{App, Chance, Definition, Service};
use sqlx::migrate::Migrator;

use crate::pipeline::PipelineDeliveries;
pub use participant::{ALWAYS_REFUSED, Deliveries, REFUSED};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");
/// The saga library's tables and its own.
static LINES: [Line; 2] = [
    onceward_saga::schema::LINE,
    Line::portable("_delivery_migrations", &MIGRATIONS),
];

/// Name, group, port and tables.
pub const DEFINITION: Definition = Definition {
    name: "delivery",
    about: "Plans deliveries, and calls them off.\n\n\
    Read only: deliveries are planned by messages of the saga or, in the pipeline, once the order is \
    shipped. One in twenty is impossible by chance (`--fail-percent`), those to `user_undeliverable` \
    always.",
    consumer: contracts::DELIVERY_GROUP,
    port: 8004,
    lines: &LINES,
};

/// Settings of its own.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Settings {
    /// How many of 100 deliveries are refused by chance, 0 to 100; 0 turns it off.
    #[arg(
        long,
        env = "ONCEWARD_DELIVERY_FAIL_PERCENT",
        default_value_t = 5,
        value_parser = clap::value_parser!(u8).range(0..=100),
        value_name = "PERCENT"
    )]
    pub fail_percent: u8,
    /// Another seed refuses other orders.
    #[arg(
        long,
        env = "ONCEWARD_DELIVERY_SEED",
        default_value_t = 0,
        value_name = "NUMBER"
    )]
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            fail_percent: 5,
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
    let deliveries = Deliveries::new(outbox.clock().clone(), settings.chance());
    let in_pipeline = Reacting::new(PipelineDeliveries(deliveries.clone()), outbox.clone());
    take_part(
        Handlers::default(),
        deliveries,
        outbox.clone(),
        ParticipantOptions::default(),
    )
    .on::<OrderShipped, _>(in_pipeline.clone())
    .on::<OrderTimedOut, _>(in_pipeline.voided())
}
