//! The analytics service: counts what is said about orders, and shows it by window and live.
//!
//! Each message is counted in the transaction of its inbox row, so the counters are exact whatever
//! is killed: they add up to the order service's own totals.
#![deny(missing_docs)]

mod facts;
mod http;
mod live;
mod summary;

use onceward::Backend;
use onceward::schema::Line;
use skeleton::{App, Definition, Service};
use sqlx::migrate::Migrator;

pub use facts::{Facts, handlers};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");
/// Its own tables.
static LINES: [Line; 1] = [Line::portable("_analytics_migrations", &MIGRATIONS)];

/// Name, group, port and tables.
pub const DEFINITION: Definition = Definition {
    name: "analytics",
    about: "Counts what is said about orders, and shows it by window and live.\n\n\
    Read only. Each message is counted once, in one transaction with the record that it was received; \
    the time that counts is when it was written.",
    consumer: contracts::ANALYTICS_GROUP,
    port: 8008,
    lines: &LINES,
};

/// The service with its routes and handlers.
pub fn service<B: Backend>(app: &App<B>) -> Service<B> {
    let (task, live) = live::task(app.clone());
    let handlers = handlers(Facts::new(app.outbox().clone()));
    Service::new(http::routes(live))
        .consuming(handlers)
        .with_background(task)
}
