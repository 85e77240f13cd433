//! The saga orchestrator: drives the saga of every order.
//!
//! `order.created` starts a saga, replies move it on, deadlines are timers in its database, and at
//! its end it says `order.completed` or `order.cancelled`.
#![deny(missing_docs)]

mod gauges;
mod http;
pub mod place_order;
mod start;

use std::time::Duration;

use clap::Args;
use contracts::{customer, delivery, inventory, order, payment};
use onceward::Outbox;
use onceward::consumer::Handlers;
use onceward::schema::Line;
use onceward_saga::{RequestRunner, SagaBackend, SagaDefinition, Sagas, TimerOptions, TimerRunner};
use skeleton::{App, Background, Definition, Service};

pub use start::StartOnOrderCreated;

/// The saga library's tables; it has none of its own.
static LINES: [Line; 1] = [onceward_saga::schema::LINE];

/// Name, group, port and tables.
pub const DEFINITION: Definition = Definition {
    name: "saga-orchestrator",
    about: "Drives the saga of every order: stock, money, delivery, or all of it undone.\n\n\
    Each saga has an append-only log of events and timers for what does not answer. A saga is `stuck` \
    when something can't be undone; then an operator mends the cause and steps in.",
    consumer: contracts::SAGA_ORCHESTRATOR_GROUP,
    port: 8009,
    lines: &LINES,
};

/// Settings of its own.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Settings {
    /// How long a participant may be silent before the order is cancelled, in milliseconds.
    #[arg(
        long,
        env = "ONCEWARD_DEADLINE_MS",
        default_value_t = 60_000,
        value_parser = clap::value_parser!(u64).range(1..=86_400_000),
        value_name = "MS"
    )]
    pub deadline_ms: u64,
    /// Whether new orders first ask customer and inventory, both at once. Orders under way go on as
    /// they began.
    #[arg(
        long,
        env = "ONCEWARD_VALIDATE",
        default_value_t = true,
        action = clap::ArgAction::Set,
        value_name = "BOOL"
    )]
    pub validate: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            deadline_ms: 60_000,
            validate: true,
        }
    }
}

/// The service with its routes, handlers and the timer runner.
///
/// # Errors
/// Never for the definition as it is; a test builds it.
pub fn service<B: SagaBackend>(app: &App<B>, settings: &Settings) -> anyhow::Result<Service<B>> {
    let (sagas, definition) = sagas(app.outbox(), settings)?;
    let handlers = handlers(&sagas, &definition);
    let routes = http::routes(sagas.clone());
    let requests = RequestRunner::new(app.db().clone(), sagas.clone());
    let requests = Background::unfailing("saga-requests", |stop| requests.run(stop));
    let timers = TimerRunner::new(app.db().clone(), sagas, TimerOptions::default());
    let timers = Background::unfailing("timers", |stop| timers.run(stop));
    Ok(Service::new(routes)
        .consuming(handlers)
        .with_background(timers)
        .with_background(requests)
        .with_background(gauges::task(app.db().clone())))
}

/// The sagas it runs, writing to `outbox`, and the definition of new ones.
///
/// # Errors
/// Never for the definition as it is; a test builds it.
pub fn sagas(
    outbox: &Outbox,
    settings: &Settings,
) -> Result<(Sagas, SagaDefinition), onceward_saga::InvalidDefinition> {
    let deadline = Duration::from_millis(settings.deadline_ms);
    let validated = place_order::validated(deadline)?;
    let without = place_order::without_validation(deadline)?;
    let sagas = Sagas::new(outbox.clone())
        .with(validated.clone())
        .with(without.clone());
    Ok((
        sagas,
        if settings.validate {
            validated
        } else {
            without
        },
    ))
}

/// A handler for every message type it consumes.
pub fn handlers<B: SagaBackend>(sagas: &Sagas, definition: &SagaDefinition) -> Handlers<B> {
    Handlers::default()
        .on::<order::Created, _>(StartOnOrderCreated::new(sagas.clone(), definition.clone()))
        .on::<customer::Validated, _>(sagas.clone())
        .on::<customer::Rejected, _>(sagas.clone())
        .on::<customer::Released, _>(sagas.clone())
        .on::<inventory::Validated, _>(sagas.clone())
        .on::<inventory::Rejected, _>(sagas.clone())
        .on::<inventory::Reserved, _>(sagas.clone())
        .on::<inventory::Failed, _>(sagas.clone())
        .on::<inventory::Released, _>(sagas.clone())
        .on::<payment::Completed, _>(sagas.clone())
        .on::<payment::Failed, _>(sagas.clone())
        .on::<payment::Refunded, _>(sagas.clone())
        .on::<delivery::Scheduled, _>(sagas.clone())
        .on::<delivery::Failed, _>(sagas.clone())
        .on::<delivery::Cancelled, _>(sagas.clone())
}
