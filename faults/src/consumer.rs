//! The consuming service: a process of its own, three of which share one group and one database. Each
//! event's effect is a row, and a message of its own that goes out again.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use nix::sys::signal::{Signal, raise};
use onceward::breach;
use onceward::consumer::{
    Consumer as Loop, ConsumerOptions, Handler, HandlerError, Handlers, RetryPolicy,
};
use onceward::schema::SchemaBackend;
use onceward::{
    CancellationToken, Clock, Db, MessageContext, Outbox, RawMessage, SourceName, SystemClock, Tx,
};
use onceward_kafka::{KafkaConfig, KafkaSubscriber};
use onceward_testkit::process::Process;
use sqlx::{Postgres, Sqlite};

use crate::Result;
use crate::account::Event;
use crate::relay::program;
use crate::rig::Rig;

/// Name of the consumer, and of its group, for a source.
pub fn group(source: &SourceName) -> String {
    format!("{source}-effects")
}

/// Where the effects' own messages go.
pub fn echo(topic: &str) -> String {
    format!("{topic}.echo")
}

/// What the process is told.
#[derive(Debug, Parser)]
pub struct Options {
    #[arg(long)]
    kafka: String,
    #[arg(long)]
    url: String,
    #[arg(long)]
    source: SourceName,
    #[arg(long)]
    topic: String,
    /// Its static member id
    #[arg(long)]
    instance: String,
    /// Dies in the how many-th call of its handler, its transaction open
    #[arg(long, default_value_t = 0)]
    die_at: u64,
}

/// Starts number `number` of a rig's consumers.
pub fn start(rig: &Rig, number: usize, die_at: u64) -> Result<Process> {
    let mut command = program("onceward-faults")?;
    let instance = format!("consumer-{number}");
    command
        .args(["consumer", "--kafka", &rig.kafka, "--url", &rig.url])
        .args(["--source", rig.task.source.as_str()])
        .args(["--topic", &rig.task.topic, "--instance", &instance])
        .args(["--die-at", &die_at.to_string()]);
    command.envs(rig.start.broken.map(|rule| ("ONCEWARD_BREAK", rule)));
    let log: &Path = &rig.logs.join(instance).with_extension("log");
    Process::spawn("consumer", command, log)
}

/// The process.
pub async fn run(options: Options) -> Result<()> {
    let level = tracing_subscriber::filter::LevelFilter::INFO;
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .init();
    let url = options.url.clone();
    if url.starts_with("sqlite:") {
        consume(Db::<Sqlite>::open(&url, Default::default()).await?, options).await
    } else {
        consume(
            Db::<Postgres>::open(&url, Default::default()).await?,
            options,
        )
        .await
    }
}

async fn consume<B: SchemaBackend>(db: Db<B>, options: Options) -> Result<()> {
    let effect = Effect {
        outbox: Outbox::new(options.source.clone()),
        echo: echo(&options.topic),
        calls: AtomicU64::new(0),
        die_at: options.die_at,
    };
    let handlers = Handlers::default().on::<Event, _>(effect);
    let mut consuming = ConsumerOptions::new(group(&options.source).parse()?, [options.topic]);
    consuming.instance_id = Some(options.instance);
    consuming.max_batch_records = 40;
    consuming.retry = RetryPolicy {
        max_attempts: 100,
        ..RetryPolicy::default()
    };
    let subscriber = KafkaSubscriber::new(KafkaConfig::plaintext(options.kafka));
    let stop = CancellationToken::new();
    let (asked, stopping) = (stop.clone(), stop.clone());
    let mut signals = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let listening = tokio::task::spawn(async move {
        signals.recv().await;
        asked.cancel();
    });
    let ended = Loop::new(db, handlers, subscriber, consuming)
        .run(stopping)
        .await;
    listening.abort();
    Ok(ended?)
}

struct Effect {
    outbox: Outbox,
    echo: String,
    calls: AtomicU64,
    die_at: u64,
}

impl<B: SchemaBackend> Handler<B, Event> for Effect {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        context: &MessageContext,
        event: Event,
    ) -> std::result::Result<(), HandlerError> {
        let insert = "insert into effects (message_key, number, token, written, handled) \
                      values ($1, $2, $3, $4, $5)";
        sqlx::query(insert)
            .bind(i64::from(event.key))
            .bind(event.number)
            .bind(i64::try_from(event.token).unwrap_or(i64::MAX))
            .bind(event.written)
            .bind(SystemClock.now())
            .execute(&mut **tx)
            .await?;
        let echo = RawMessage::of(&event).map_err(|error| HandlerError::Reject(error.into()))?;
        self.outbox
            .append_raw::<B>(tx, context, echo.to_topic(&self.echo))
            .await?;
        if self.calls.fetch_add(1, Ordering::Relaxed) + 1 == self.die_at {
            // CRASH: all of it is written and nothing committed.
            let _ = raise(Signal::SIGKILL);
        }
        // Now and then: later ones of its key wait behind it, others go on.
        // Often where it is to show at once.
        let ratio = match breach::is_broken(breach::KEY_QUEUES) {
            true => 0.1,
            false => 0.005,
        };
        match rand::random_bool(ratio) {
            true => Err(HandlerError::Retry {
                after: None,
                cause: "so that the key has to wait".into(),
            }),
            false => Ok(()),
        }
    }
}
