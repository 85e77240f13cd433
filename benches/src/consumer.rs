//! The consuming side: inbox, handler and offset in one transaction, one row written per message; and
//! what it costs to skip what was handled before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use onceward::consumer::{Consumer, ConsumerOptions, Handle, Handler, HandlerError, Handlers};
use onceward::schema::migrate;
use onceward::{CancellationToken, ConsumerName, Db, MessageContext, SourceName, Tx};
use onceward_kafka::{KafkaConfig, KafkaSubscriber};
use sqlx::{Postgres, Sqlite};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cli::Options;
use crate::reader::Reader;
use crate::report::{Better, Report};
use crate::source::{Happened, Kind, Source, database};
use crate::stage::{PARTITIONS, Stage};
use crate::write::Opened;

const AT_MOST: Duration = Duration::from_secs(300);

pub(crate) async fn run(stage: &mut Stage, options: &Options, report: &mut Report) -> Result<()> {
    let messages = if options.quick { 50_000 } else { 200_000 };
    let mut cases = Vec::new();
    for kind in Kind::ALL {
        for batched in [false, true] {
            let how = if batched {
                "handle_batch"
            } else {
                "one by one"
            };
            let case = format!("consumer {messages} messages, {how}, {}", kind.label());
            if options.wants(&case) {
                cases.push((kind, batched, case));
            }
        }
    }
    if cases.is_empty() {
        return Ok(());
    }
    println!("filling a topic with {messages} messages");
    let topic = fill(stage, messages).await?;
    for (kind, batched, case) in cases {
        report.begin_case(&case);
        let of = Of {
            topic: &topic,
            messages: u64::from(messages),
            batched,
        };
        match kind {
            Kind::Postgres => measure::<Postgres>(stage, report, kind, &case, &of).await?,
            Kind::Sqlite => measure::<Sqlite>(stage, report, kind, &case, &of).await?,
        }
    }
    stage.delete_topic(&topic).await
}

/// What is consumed, and how.
struct Of<'a> {
    topic: &'a str,
    messages: u64,
    batched: bool,
}

/// Records as they come from an outbox by the relay.
async fn fill(stage: &mut Stage, messages: u32) -> Result<String> {
    let source = Source::make(stage, Kind::Postgres).await?;
    source.fill(messages).await?;
    let reader = Reader::start(&stage.kafka.bootstrap(), &source.topic, 0, true)?;
    let mut relay = stage.relay(&[source.option()])?;
    reader.wait_for(u64::from(messages), AT_MOST).await?;
    reader.stop()?;
    relay.process.kill9()?;
    Ok(source.topic)
}

#[derive(Clone)]
struct Effect {
    batched: bool,
    handled: Arc<AtomicU64>,
}

impl<B: Opened> Handler<B, Happened> for Effect {
    async fn handle(
        &self,
        tx: &mut Tx<'static, B>,
        _: &MessageContext,
        message: Happened,
    ) -> Result<(), HandlerError> {
        sqlx::query("insert into effect (n, note) values ($1, $2)")
            .bind(message.number())
            .bind(message.note().to_owned())
            .execute(&mut **tx)
            .await?;
        self.handled.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn handle_batch(
        &self,
        tx: &mut Tx<'static, B>,
        messages: Vec<(MessageContext, Happened)>,
    ) -> Result<(), HandlerError> {
        if !self.batched {
            for (context, message) in messages {
                Handler::<B, Happened>::handle(self, tx, &context, message).await?;
            }
            return Ok(());
        }
        let mut insert = sqlx::QueryBuilder::<B>::new("insert into effect (n, note) ");
        insert.push_values(&messages, |mut row, (_, message)| {
            row.push_bind(message.number())
                .push_bind(message.note().to_owned());
        });
        insert.build().execute(&mut **tx).await?;
        let count = u64::try_from(messages.len()).unwrap_or(0);
        self.handled.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }
}

async fn measure<B: Opened>(
    stage: &mut Stage,
    report: &mut Report,
    kind: Kind,
    case: &str,
    of: &Of<'_>,
) -> Result<()> {
    let name = stage.name("consumer");
    let db = B::open(&database(stage, kind, &name).await?).await?;
    migrate(db.pool(), &SourceName::new(&name)?).await?;
    sqlx::query("create table effect (n bigint not null, note text not null)")
        .execute(db.pool())
        .await?;
    let effect = Effect {
        batched: of.batched,
        handled: Arc::default(),
    };
    let start = |stage: &Stage| Running::start(stage, &db, &name, of.topic, &effect);
    let me = std::process::id();

    let running = start(stage)?;
    let handled = || effect.handled.load(Ordering::Relaxed);
    until("the first message", || handled() > 0).await?;
    let (begun, before, cpu) = (Instant::now(), handled(), stage.cpu(me)?);
    until("the last message", || handled() >= of.messages).await?;
    let (seconds, cpu) = (begun.elapsed().as_secs_f64(), stage.cpu(me)?.since(cpu));
    let count = (handled() - before) as f64;
    report.add(case, "messages/s", Better::Higher, count / seconds);
    let each = 1e6 / count;
    report.add(
        case,
        "consumer CPU, µs/message",
        Better::Lower,
        cpu.bench * each,
    );
    report.add(
        case,
        "database CPU, µs/message",
        Better::Lower,
        cpu.database * each,
    );
    report.add(
        case,
        "broker CPU, µs/message",
        Better::Lower,
        cpu.broker * each,
    );
    // The last handler ran; its commit follows.
    let count_effects = async || -> Result<i64> {
        let rows = sqlx::query_scalar("select count(*) from effect");
        Ok(rows.fetch_one(db.pool()).await?)
    };
    let expected = i64::try_from(of.messages)?;
    let deadline = Instant::now() + AT_MOST;
    while count_effects().await? < expected && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ends = running.positions();
    running.stop().await?;

    // All of it once more, as after an offset that was set back: the inbox knows every message.
    sqlx::query("update consumer_offset set next_offset = 0")
        .execute(db.pool())
        .await?;
    let running = start(stage)?;
    until("the first duplicate", || running.passed(&ends) > 0).await?;
    let (begun, before) = (Instant::now(), running.passed(&ends));
    let all: i64 = ends.iter().sum();
    until("the last duplicate", || running.passed(&ends) >= all).await?;
    let skipped = (all - before) as f64 / begun.elapsed().as_secs_f64();
    report.add(case, "duplicates skipped/s", Better::Higher, skipped);
    running.stop().await?;
    let effects = count_effects().await?;
    ensure!(
        effects == expected,
        "{effects} effects of {expected} messages"
    );
    db.close().await;
    Ok(())
}

struct Running {
    handle: Handle,
    stop: CancellationToken,
    task: JoinHandle<Result<(), onceward::consumer::ConsumerError>>,
}

impl Running {
    fn start<B: Opened>(
        stage: &Stage,
        db: &Db<B>,
        name: &str,
        topic: &str,
        effect: &Effect,
    ) -> Result<Self> {
        let options = ConsumerOptions::new(ConsumerName::new(name)?, [topic]);
        let kafka = KafkaSubscriber::new(KafkaConfig::plaintext(stage.kafka.bootstrap()));
        let handlers = Handlers::default().on::<Happened, _>(effect.clone());
        let consumer = Consumer::new(db.clone(), handlers, kafka, options);
        let (handle, stop) = (consumer.handle(), CancellationToken::new());
        let task = tokio::spawn(consumer.run(stop.clone()));
        Ok(Self { handle, stop, task })
    }

    /// `next_offset` of each partition.
    fn positions(&self) -> Vec<i64> {
        let mut positions = vec![0; usize::try_from(PARTITIONS).unwrap_or(0)];
        for known in self.handle.status().partitions {
            let partition = usize::try_from(known.at.partition).unwrap_or(0);
            if let Some(slot) = positions.get_mut(partition) {
                *slot = known.next_offset;
            }
        }
        positions
    }

    /// Offsets passed, none counted above `ends`.
    fn passed(&self, ends: &[i64]) -> i64 {
        let positions = self.positions();
        positions
            .iter()
            .zip(ends)
            .map(|(at, end)| at.min(end))
            .sum()
    }

    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        Ok(self.task.await??)
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + AT_MOST;
    while !done() {
        if Instant::now() > deadline {
            bail!("{what} did not come within {AT_MOST:?}");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
