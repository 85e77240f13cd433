//! The customer service: who may order, and how much at the same time.
//!
//! ```text
//! credit ──validate──▶ reserved ──the order is completed──▶ spent
//!   ▲                     │
//!   └───────release───────┘
//! ```
#![deny(missing_docs)]

mod credit;
mod http;

use clap::Args;
use contracts::order;
use onceward::consumer::Handlers;
use onceward::schema::Line;
use onceward::{Backend, Outbox};
use onceward_saga::{ParticipantOptions, take_part};
use skeleton::{App, Definition, Money, Service};
use sqlx::migrate::Migrator;

pub use credit::{Credit, EXCEEDED, UNKNOWN_CUSTOMER, WITHOUT_CREDIT};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");
/// The saga library's tables and its own.
static LINES: [Line; 2] = [
    onceward_saga::schema::LINE,
    Line::portable("_customer_migrations", &MIGRATIONS),
];

/// Name, group, port and tables.
pub const DEFINITION: Definition = Definition {
    name: "customer",
    about: "Says who may order, and how much at the same time.\n\n\
    An order's price is set aside of its customer's credit by the order's saga, at the same time as the \
    inventory is asked. It is `spent` once the order is completed (the customer has paid, and may order \
    for as much again), `released` if it is cancelled. A customer nobody has made is made by the first \
    order, unless `--new-customers` says `reject`; `user_without_credit` is always rejected.",
    consumer: contracts::CUSTOMER_GROUP,
    port: 8005,
    lines: &LINES,
};

/// What becomes of orders of customers nobody has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum NewCustomers {
    /// The first order makes the customer.
    Accept,
    /// They are rejected: unknown customer.
    Reject,
}

/// Credit of a customer that an order makes, unless said otherwise.
const CREDIT_LIMIT: Money = Money::cents(100_000_000);

/// Settings of its own.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Settings {
    /// What becomes of orders of customers nobody has made.
    #[arg(
        long,
        env = "ONCEWARD_NEW_CUSTOMERS",
        default_value = "accept",
        value_name = "WHAT"
    )]
    pub new_customers: NewCustomers,
    /// Credit of a customer that an order makes, such as 500.00.
    #[arg(
        long,
        env = "ONCEWARD_CREDIT_LIMIT",
        default_value_t = CREDIT_LIMIT,
        value_parser = Money::parse,
        value_name = "AMOUNT"
    )]
    pub credit_limit: Money,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            new_customers: NewCustomers::Accept,
            credit_limit: CREDIT_LIMIT,
        }
    }
}

impl Settings {
    /// The credit of a customer nobody has made, if that one may order.
    fn limit_of_new(&self) -> Option<Money> {
        match self.new_customers {
            NewCustomers::Accept => Some(self.credit_limit),
            NewCustomers::Reject => None,
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
    let credit = Credit::new(outbox.clock().clone(), settings.limit_of_new());
    take_part(
        Handlers::default(),
        credit.clone(),
        outbox.clone(),
        ParticipantOptions::default(),
    )
    .on::<order::Completed, _>(credit)
}
