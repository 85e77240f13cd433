//! A service's state, made again from the topics.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use onceward::consumer::rebuild::{
    self, Live, MessageClock, RebuildError, Report, Shadow, compare,
};
use onceward::{Outbox, UuidV7};
use onceward_kafka::KafkaHistory;
use skeleton::App;

use crate::cli::Rebuild;
use crate::commands::Member;

/// The live state is another one.
const DIFFERENT: u8 = 1;
/// The topics don't hold all that led to it any more.
const GONE: u8 = 2;
/// Kafka or a database could not be reached.
const UNREACHABLE: u8 = 3;
/// The command line is wrong.
const USAGE: u8 = 64;

pub(crate) async fn run<M: Member>(wish: Rebuild<M::Settings>) -> anyhow::Result<ExitCode> {
    let json = wish.json;
    match Box::pin(report::<M>(wish)).await {
        Ok(report) => {
            let mut out = std::io::stdout().lock();
            match json {
                true => writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?,
                false => writeln!(out, "{report}")?,
            }
            Ok(match report.is_equal() {
                true => ExitCode::SUCCESS,
                false => ExitCode::from(DIFFERENT),
            })
        }
        Err(error) => {
            let code = match error.downcast_ref::<RebuildError>() {
                Some(RebuildError::Gone { .. }) => GONE,
                Some(RebuildError::Exists(_)) => USAGE,
                _ => UNREACHABLE,
            };
            writeln!(std::io::stderr(), "shop: {error:#}")?;
            Ok(ExitCode::from(code))
        }
    }
}

async fn report<M: Member>(wish: Rebuild<M::Settings>) -> anyhow::Result<Report> {
    wish.kafka.validate()?;
    let definition = M::DEFINITION;
    let (source, consumer) = (definition.source()?, definition.consumer()?);
    let url = wish.database.url()?;
    let mut live = Live::open(&url)
        .await
        .with_context(|| format!("database {url}"))?;
    let shadow = Shadow::create(&wish.into, &source, definition.lines).await?;
    let clock = Arc::new(MessageClock::default());
    let outbox = Outbox::new(source)
        .with_routing(wish.routing.routing)
        .with_clock(clock.clone(), Arc::new(UuidV7));
    let app = App::with_outbox(shadow.db.clone(), outbox);
    let service = M::service(&app, &wish.settings)?;
    let rebuild = rebuild::Rebuild {
        db: shadow.db.clone(),
        handlers: service.handlers,
        routing: app.outbox().routing().clone(),
        consumer: consumer.clone(),
        clock,
    };
    let history = KafkaHistory::new(&wish.kafka)?;
    let rebuilt = rebuild.run(history, &mut live, wish.from).await?;
    let own = M::OF_OTHERS.iter().map(|column| (*column).to_owned());
    let ignored: Vec<String> = own.chain(wish.ignore).collect();
    let tables = compare(&mut live, shadow.db.pool(), &shadow.tables, &ignored).await?;
    live.close().await?;
    shadow.db.close().await;
    Ok(Report {
        consumer: consumer.to_string(),
        rebuilt,
        tables,
    })
}
