//! The notification service: tells customers by mail what became of their orders.
//!
//! ```text
//! waiting ──the mail server took it──▶ sent
//!    │ ├────it refused it for good───▶ refused
//!    │ └────the user wants none──────▶ unwanted
//!    └◀──── no server, or "later"
//! ```
//! News of an order asks for a mail by a message to `high_priority_notifications` or
//! `low_priority_notifications`, as any other service may. A mail is a row, written in the transaction of that
//! message: exactly one per message.
//! Handing it to the mail server is at least once: whoever dies between the server's "250 OK" and
//! the row's `sent` sends it again, with the same `Message-ID`, by which servers and readers can
//! tell that they have it.
#![deny(missing_docs)]

mod http;
mod metrics;
mod reactions;
mod sender;
mod templates;

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use lettre::message::Mailbox;
use onceward::Backend;
use onceward::schema::Line;
use onceward::secret::{Secret, read_secret};
use skeleton::{App, Background, Definition, Service};
use sqlx::migrate::Migrator;

pub use reactions::{Reactions, handlers};
pub use sender::Sender;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");
/// Its own tables.
static LINES: [Line; 1] = [Line::portable("_notification_migrations", &MIGRATIONS)];

/// Name, group, port and tables.
pub const DEFINITION: Definition = Definition {
    name: "notification",
    about: "Tells customers by mail what became of their orders.\n\n\
    Each message of which the customer is to be told asks for a mail, on the topic \
    `high_priority_notifications` or `low_priority_notifications`; so may any service. High goes before \
    low. While the mail server is away they wait; each has a stable `Message-ID`, because the last step, \
    into the mail server, is at least once.",
    consumer: contracts::NOTIFICATION_GROUP,
    port: 8007,
    lines: &LINES,
};

/// Settings of its own.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Settings {
    /// Mail server: smtp://host:port, or smtps://user:password@host:port. With a password better in a
    /// file: command lines and environments can be seen by others.
    #[arg(
        long,
        env = "ONCEWARD_SMTP",
        hide_env_values = true,
        default_value = "smtp://127.0.0.1:1025",
        hide_default_value = true,
        value_name = "URL"
    )]
    pub smtp: Secret,
    /// File with that URL.
    #[arg(
        long,
        env = "ONCEWARD_SMTP_FILE",
        conflicts_with = "smtp",
        value_name = "FILE"
    )]
    pub smtp_file: Option<PathBuf>,
    /// Who the mails are from.
    #[arg(
        long,
        env = "ONCEWARD_MAIL_FROM",
        default_value = "Onceward shop <shop@onceward.example>",
        value_name = "ADDRESS"
    )]
    pub mail_from: Mailbox,
    /// Customers without an address of their own get their mail at USER@DOMAIN.
    #[arg(
        long,
        env = "ONCEWARD_MAIL_DOMAIN",
        default_value = "customers.example",
        value_name = "DOMAIN"
    )]
    pub mail_domain: String,
}

/// The service with its routes, handlers and the task that sends.
///
/// # Errors
/// A mail server's URL that is none.
pub fn service<B: Backend>(app: &App<B>, settings: &Settings) -> anyhow::Result<Service<B>> {
    metrics::describe();
    let url = match &settings.smtp_file {
        Some(file) => Secret::from(read_secret(file)?),
        None => settings.smtp.clone(),
    };
    let sender = Sender::new(app, &url, settings).context("--smtp")?;
    let sending = Background::unfailing("mail", |stop| sender.run(stop));
    Ok(Service::new(http::routes())
        .consuming(handlers(Reactions::new(app.outbox().clone())))
        .with_background(sending))
}
