//! The command line; every flag is an environment variable as well.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use onceward::Routing;
use onceward::consumer::rebuild::Since;
use onceward_kafka::KafkaConfig;
use skeleton::{DatabaseOptions, Definition, ServerOptions};

/// The shop: nine services that talk only through outbox, Kafka and inbox.
#[derive(Debug, Parser)]
#[command(name = "shop", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the order service (port 8001).
    Order(Serve<order::Settings>),
    /// Run the inventory service (port 8002).
    Inventory(Serve<NoSettings>),
    /// Run the payment service (port 8003).
    Payment(Serve<payment::Settings>),
    /// Run the delivery service (port 8004).
    Delivery(Serve<delivery::Settings>),
    /// Run the customer service (port 8005).
    Customer(Serve<customer::Settings>),
    /// Run the shipping service (port 8006).
    Shipping(Serve<NoSettings>),
    /// Run the analytics service (port 8008).
    Analytics(Serve<NoSettings>),
    /// Run the notification service (port 8007).
    Notification(Serve<notification::Settings>),
    /// Run the saga orchestrator (port 8009).
    SagaOrchestrator(Serve<saga_orchestrator::Settings>),
    /// Run a mail server that takes every mail, delivers none and shows them (SMTP 1025, HTTP 8025).
    MailSink(mail_sink::Options),
    /// Create or update a service's tables. May be repeated.
    Migrate(Migrate),
    /// Create all topics that are missing. May be repeated.
    Topics(Topics),
    /// Make a service's state again from the topics, beside the live one, and show the difference.
    #[command(subcommand, after_help = REBUILD)]
    Rebuild(RebuildCommand),
}

const REBUILD: &str = "\
Orders are made by HTTP, and the saga orchestrator goes by timers: topics don't tell all of the state of
these two services, so it can't be rebuilt.

Exit codes: 0 equal, 1 different, 2 the topics don't reach back far enough, 3 Kafka or a database
could not be reached, 64 the command line is wrong.";

/// Whose state.
#[derive(Debug, Subcommand)]
pub(crate) enum RebuildCommand {
    /// Stock and reservations.
    Inventory(Rebuild<NoSettings>),
    /// Charges. With the settings the live service has.
    Payment(Rebuild<payment::Settings>),
    /// Deliveries. With the settings the live service has.
    Delivery(Rebuild<delivery::Settings>),
    /// Customers whom orders made, and credit. With the settings the live service has.
    Customer(Rebuild<customer::Settings>),
    /// Shipments.
    Shipping(Rebuild<NoSettings>),
    /// Mails that were written; not what became of them.
    Notification(Rebuild<notification::Settings>),
    /// Counts and facts.
    Analytics(Rebuild<NoSettings>),
}

/// What every rebuild needs, and what only this service does.
#[derive(Debug, Args)]
pub(crate) struct Rebuild<S: Args> {
    /// The new SQLite file to rebuild into.
    #[arg(long, value_name = "FILE")]
    pub(crate) into: PathBuf,
    /// Where to begin: beginning, or a time such as 2026-01-02T03:04:05Z; what was published before
    /// it is missing then.
    #[arg(long, value_name = "TIME", default_value = "beginning")]
    pub(crate) from: Since,
    /// A column that is not to be held against the live one; may be repeated.
    #[arg(long, value_name = "TABLE.COLUMN")]
    pub(crate) ignore: Vec<String>,
    /// JSON instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// The live database; it is only read.
    #[command(flatten)]
    pub(crate) database: DatabaseOptions,
    #[command(flatten)]
    pub(crate) kafka: KafkaConfig,
    #[command(flatten)]
    pub(crate) routing: RoutingOption,
    #[command(flatten)]
    pub(crate) settings: S,
}

/// What every service needs, and what only this one does.
#[derive(Debug, Args)]
pub(crate) struct Serve<S: Args> {
    #[command(flatten)]
    pub(crate) server: ServerOptions,
    #[command(flatten)]
    pub(crate) kafka: KafkaConfig,
    /// Names this instance among those of the same service: after a restart it gets its partitions
    /// back at once. Two instances must not share one.
    #[arg(long, env = "ONCEWARD_INSTANCE_ID", value_name = "ID")]
    pub(crate) instance_id: Option<String>,
    #[command(flatten)]
    pub(crate) routing: RoutingOption,
    #[command(flatten)]
    pub(crate) settings: S,
}

/// Which topic each message goes to.
#[derive(Debug, Args)]
pub(crate) struct RoutingOption {
    /// Which topics messages go to: default, request-reply, pipeline, or a TOML file that names those that differ
    /// from the default, [topics] "order.created.v1" = "acme.orders". The same for all services.
    #[arg(
        long,
        env = "ONCEWARD_ROUTING",
        default_value = "default",
        value_parser = read_routing,
        value_name = "PRESET|FILE"
    )]
    pub(crate) routing: Routing,
}

fn read_routing(name: &str) -> Result<Routing, String> {
    contracts::routing::read(name).map_err(|error| format!("{:#}", anyhow::Error::from(error)))
}

/// A service without settings of its own.
#[derive(Debug, Args)]
pub(crate) struct NoSettings {}

#[derive(Debug, Args)]
pub(crate) struct Migrate {
    /// Whose tables.
    pub(crate) service: ServiceName,
    /// In which database; a SQLite file is made if it is missing.
    #[command(flatten)]
    pub(crate) database: DatabaseOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Topics {
    #[command(flatten)]
    pub(crate) kafka: KafkaConfig,
    /// Partitions of a new topic.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=1_000))]
    pub(crate) partitions: i32,
    /// Copies of a new topic. With three or more a record is acknowledged once two have it [default:
    /// 3, or as many as there are brokers]
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=10))]
    pub(crate) replication: Option<i32>,
    #[command(flatten)]
    pub(crate) routing: RoutingOption,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ServiceName {
    Order,
    Inventory,
    Payment,
    Delivery,
    Customer,
    Shipping,
    Notification,
    Analytics,
    SagaOrchestrator,
}

impl ServiceName {
    pub(crate) fn definition(self) -> &'static Definition {
        match self {
            Self::Order => &order::DEFINITION,
            Self::Inventory => &inventory::DEFINITION,
            Self::Payment => &payment::DEFINITION,
            Self::Delivery => &delivery::DEFINITION,
            Self::Customer => &customer::DEFINITION,
            Self::Shipping => &shipping::DEFINITION,
            Self::Analytics => &analytics::DEFINITION,
            Self::Notification => &notification::DEFINITION,
            Self::SagaOrchestrator => &saga_orchestrator::DEFINITION,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
