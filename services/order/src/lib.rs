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
//!
//! An order without a coordinator begins with `order-created` or `pipeline.order_created`, and this service
//! has the last word ([`Choreography`]).
#![deny(missing_docs)]

mod api;
mod choreography;
mod domain;
mod metrics;
mod reactions;
mod sql;

use std::time::Duration;

use clap::Args;
use onceward::Outbox;
use onceward::consumer::Handlers;
use onceward::schema::Line;
use onceward_saga::{SagaBackend, TimerOptions, TimerRunner};
use skeleton::{App, Background, Definition, Service};
use sqlx::migrate::Migrator;

pub use choreography::Choreography;
pub use domain::{
    Choreographed, NewOrder, Order, OrderEvent, OrderEvents, OrderStatus, SagaStyle, Step, Way,
};
pub use reactions::Projection;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");
/// The saga library's tables, for deadlines, and its own.
static LINES: [Line; 2] = [
    onceward_saga::schema::LINE,
    Line::portable("_order_migrations", &MIGRATIONS),
];

/// Name, group, port and tables.
pub const DEFINITION: Definition = Definition {
    name: "order",
    about: "Takes orders, and shows how far each has come.\n\n\
    An order is written together with its message, in one transaction: `order.created` for the saga \
    orchestrator, `order-created` or `order_created` for services that react to each other. Everything else \
    happens in other services, by messages, and comes back as the order's status: `pending` → \
    `completed`, or `cancelling` → `failed` once all that was done is undone.",
    consumer: contracts::ORDER_GROUP,
    port: 8001,
    lines: &LINES,
};

/// Settings of its own.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Settings {
    /// How the services of an order work together that does not say `"saga"` itself.
    #[arg(
        long,
        env = "ONCEWARD_SAGA",
        value_enum,
        default_value_t = SagaStyle::Orchestration,
        value_name = "STYLE"
    )]
    pub saga: SagaStyle,
    /// Who reacts to whom in an order without a coordinator that does not say `"choreography"` itself.
    #[arg(
        long,
        env = "ONCEWARD_CHOREOGRAPHY",
        value_enum,
        default_value_t = Choreographed::PaymentFirst,
        value_name = "NAME"
    )]
    pub choreography: Choreographed,
    /// How long a choreographed order may take before it is cancelled, in milliseconds.
    #[arg(
        long,
        env = "ONCEWARD_ORDER_DEADLINE_MS",
        default_value_t = 60_000,
        value_parser = clap::value_parser!(u64).range(1..=86_400_000),
        value_name = "MS"
    )]
    pub order_deadline_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            saga: SagaStyle::Orchestration,
            choreography: Choreographed::PaymentFirst,
            order_deadline_ms: 60_000,
        }
    }
}

/// The service with its routes, handlers and the timer runner.
pub fn service<B: SagaBackend>(app: &App<B>, settings: &Settings) -> Service<B> {
    metrics::describe();
    let choreography = choreography(app.outbox(), settings);
    let handlers = handlers(app.outbox(), &choreography);
    let desk = api::Desk {
        style: settings.saga,
        flow: settings.choreography,
        choreography: choreography.clone(),
    };
    let deadlines = TimerRunner::new(app.db().clone(), choreography, TimerOptions::default());
    let deadlines = Background::unfailing("deadlines", |stop| deadlines.run(stop));
    Service::new(api::routes(desk))
        .consuming(handlers)
        .with_background(deadlines)
}

/// Choreographed orders, writing to `outbox`.
pub fn choreography(outbox: &Outbox, settings: &Settings) -> Choreography {
    let deadline = Duration::from_millis(settings.order_deadline_ms);
    Choreography::new(outbox.clone(), deadline)
}

/// A handler for every message type it consumes.
pub fn handlers<B: SagaBackend>(outbox: &Outbox, choreography: &Choreography) -> Handlers<B> {
    let projection = Projection::new(outbox.clone());
    choreography::follow(reactions::handlers(projection), choreography)
}
