//! What each command does.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use onceward::Db;
use onceward::consumer::{Consumer, ConsumerOptions};
use onceward_kafka::{KafkaBroker, KafkaConfig, KafkaSubscriber, TopicMade};
use onceward_saga::SagaBackend;
use skeleton::{App, Background, Definition, Service};
use tokio_util::sync::CancellationToken;

use crate::cli::{Command, Migrate, RebuildCommand, Serve, Topics};
use crate::database::Database;
use crate::rebuild;

/// Longest wait at the end for the collector to take the last spans.
const LAST_SPANS: Duration = Duration::from_secs(1);

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Order(serve) => Box::pin(on_database(serve, Order)).await,
        Command::Inventory(serve) => Box::pin(on_database(serve, Inventory)).await,
        Command::Payment(serve) => Box::pin(on_database(serve, Payment)).await,
        Command::Delivery(serve) => Box::pin(on_database(serve, Delivery)).await,
        Command::Customer(serve) => Box::pin(on_database(serve, Customer)).await,
        Command::Shipping(serve) => Box::pin(on_database(serve, Shipping)).await,
        Command::Analytics(serve) => Box::pin(on_database(serve, Analytics)).await,
        Command::Notification(serve) => Box::pin(on_database(serve, Notification)).await,
        Command::SagaOrchestrator(serve) => Box::pin(on_database(serve, SagaOrchestrator)).await,
        Command::MailSink(options) => self::mail_sink(options).await,
        Command::Migrate(migrate) => self::migrate(migrate).await,
        Command::Topics(topics) => self::topics(topics).await,
        Command::Rebuild(rebuild) => return Box::pin(self::rebuild(rebuild)).await,
    }?;
    Ok(ExitCode::SUCCESS)
}

async fn rebuild(command: RebuildCommand) -> anyhow::Result<ExitCode> {
    match command {
        RebuildCommand::Inventory(wish) => rebuild::run::<Inventory>(wish).await,
        RebuildCommand::Payment(wish) => rebuild::run::<Payment>(wish).await,
        RebuildCommand::Delivery(wish) => rebuild::run::<Delivery>(wish).await,
        RebuildCommand::Customer(wish) => rebuild::run::<Customer>(wish).await,
        RebuildCommand::Shipping(wish) => rebuild::run::<Shipping>(wish).await,
        RebuildCommand::Notification(wish) => rebuild::run::<Notification>(wish).await,
        RebuildCommand::Analytics(wish) => rebuild::run::<Analytics>(wish).await,
    }
}

/// One service of the shop, on whichever database.
pub(crate) trait Member {
    type Settings: Args;
    const DEFINITION: &'static Definition;
    /// Columns that are no message's effect: `table.column`.
    const OF_OTHERS: &'static [&'static str] = &[];
    fn service<B: SagaBackend>(
        app: &App<B>,
        settings: &Self::Settings,
    ) -> anyhow::Result<Service<B>>;
}

struct Order;
struct Inventory;
struct Payment;
struct Delivery;
struct Customer;
struct Shipping;
struct Analytics;
struct Notification;
struct SagaOrchestrator;

impl Member for Order {
    type Settings = order::Settings;
    const DEFINITION: &'static Definition = &order::DEFINITION;
    fn service<B: SagaBackend>(
        app: &App<B>,
        settings: &Self::Settings,
    ) -> anyhow::Result<Service<B>> {
        Ok(order::service(app, settings))
    }
}
impl Member for Inventory {
    type Settings = crate::cli::NoSettings;
    const DEFINITION: &'static Definition = &inventory::DEFINITION;
    fn service<B: SagaBackend>(app: &App<B>, _: &Self::Settings) -> anyhow::Result<Service<B>> {
        Ok(inventory::service(app))
    }
}
impl Member for Payment {
    type Settings = payment::Settings;
    const DEFINITION: &'static Definition = &payment::DEFINITION;
    fn service<B: SagaBackend>(
        app: &App<B>,
        settings: &Self::Settings,
    ) -> anyhow::Result<Service<B>> {
        Ok(payment::service(app, settings))
    }
}
impl Member for Delivery {
    type Settings = delivery::Settings;
    const DEFINITION: &'static Definition = &delivery::DEFINITION;
    fn service<B: SagaBackend>(
        app: &App<B>,
        settings: &Self::Settings,
    ) -> anyhow::Result<Service<B>> {
        Ok(delivery::service(app, settings))
    }
}
impl Member for Customer {
    type Settings = customer::Settings;
    const DEFINITION: &'static Definition = &customer::DEFINITION;
    fn service<B: SagaBackend>(
        app: &App<B>,
        settings: &Self::Settings,
    ) -> anyhow::Result<Service<B>> {
        Ok(customer::service(app, settings))
    }
}
impl Member for Shipping {
    type Settings = crate::cli::NoSettings;
    const DEFINITION: &'static Definition = &shipping::DEFINITION;
    fn service<B: SagaBackend>(app: &App<B>, _: &Self::Settings) -> anyhow::Result<Service<B>> {
        Ok(shipping::service(app))
    }
}
impl Member for Analytics {
    type Settings = crate::cli::NoSettings;
    const DEFINITION: &'static Definition = &analytics::DEFINITION;
    fn service<B: SagaBackend>(app: &App<B>, _: &Self::Settings) -> anyhow::Result<Service<B>> {
        Ok(analytics::service(app))
    }
}
impl Member for Notification {
    type Settings = notification::Settings;
    const DEFINITION: &'static Definition = &notification::DEFINITION;
    /// The sender's notes.
    const OF_OTHERS: &'static [&'static str] = &["mail.state", "mail.attempts", "mail.error"];
    fn service<B: SagaBackend>(
        app: &App<B>,
        settings: &Self::Settings,
    ) -> anyhow::Result<Service<B>> {
        notification::service(app, settings)
    }
}
impl Member for SagaOrchestrator {
    type Settings = saga_orchestrator::Settings;
    const DEFINITION: &'static Definition = &saga_orchestrator::DEFINITION;
    fn service<B: SagaBackend>(
        app: &App<B>,
        settings: &Self::Settings,
    ) -> anyhow::Result<Service<B>> {
        saga_orchestrator::service(app, settings)
    }
}

async fn on_database<M: Member>(serve: Serve<M::Settings>, _member: M) -> anyhow::Result<()> {
    let instance = serve.instance_id.as_deref();
    let telemetry = skeleton::init_telemetry(&serve.server.telemetry, M::DEFINITION, instance)?;
    let outcome = Box::pin(open_and_run::<M>(serve)).await;
    tokio::task::block_in_place(|| telemetry.stop(LAST_SPANS));
    outcome
}

async fn open_and_run<M: Member>(serve: Serve<M::Settings>) -> anyhow::Result<()> {
    serve.kafka.validate()?;
    match Database::open(&serve.server.database.url()?).await? {
        Database::Sqlite(db) => Box::pin(run_service::<M, _>(serve, db)).await,
        Database::Postgres(db) => Box::pin(run_service::<M, _>(serve, db)).await,
    }
}

async fn run_service<M: Member, B: SagaBackend>(
    serve: Serve<M::Settings>,
    db: Db<B>,
) -> anyhow::Result<()> {
    let make = |app: &App<B>| M::service(app, &serve.settings);
    let extra = |app: &App<B>, service: &mut Service<B>| {
        let kafka = serve.kafka.clone();
        consumer(
            M::DEFINITION,
            app,
            service,
            kafka,
            serve.instance_id.clone(),
        )
    };
    let routing = serve.routing.routing.clone();
    skeleton::run(M::DEFINITION, db, routing, &serve.server, make, extra).await
}

/// The consumer loop as a task of the service.
fn consumer<B: SagaBackend>(
    definition: &Definition,
    app: &App<B>,
    service: &mut Service<B>,
    kafka: KafkaConfig,
    instance_id: Option<String>,
) -> anyhow::Result<Vec<Background>> {
    let handlers = std::mem::take(&mut service.handlers);
    let topics = handlers.topics(app.outbox().routing());
    let mut options = ConsumerOptions::new(definition.consumer()?, topics);
    options.instance_id = instance_id;
    let subscriber = KafkaSubscriber::new(kafka);
    let consumer = Consumer::new(app.db().clone(), handlers, subscriber, options)
        .with_clock(app.clock().clone());
    let handle = consumer.handle();
    app.readiness().ask("consumer", move || {
        skeleton::consumer_obstacle(&handle.status(), handle.refusal())
    });
    Ok(vec![Background::new("consumer", move |stop| async move {
        Ok(consumer.run(stop).await?)
    })])
}

async fn mail_sink(options: mail_sink::Options) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let signal = skeleton::first_signal();
    let running = mail_sink::run(&options, stop.clone());
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => return ended,
        _signal = signal => stop.cancel(),
    }
    running.await
}

async fn migrate(migrate: Migrate) -> anyhow::Result<()> {
    let definition = migrate.service.definition();
    match Database::create(&migrate.database.url()?).await? {
        Database::Sqlite(db) => {
            skeleton::migrate(definition, db.pool()).await?;
            db.close().await;
        }
        Database::Postgres(db) => {
            skeleton::migrate(definition, db.pool()).await?;
            db.close().await;
        }
    }
    Ok(())
}

async fn topics(topics: Topics) -> anyhow::Result<()> {
    let broker = KafkaBroker::new(topics.kafka)?;
    let names = contracts::topics(&topics.routing.routing);
    let replication = match topics.replication {
        Some(replication) => replication,
        None => broker.copies_wanted().await?,
    };
    let made = broker
        .make_topics(names, topics.partitions, replication)
        .await?;
    let created = made
        .values()
        .filter(|made| matches!(made, TopicMade::Created))
        .count();
    println!("{created} of {} topics created", made.len());
    Ok(())
}
