//! `outbox-relay check`: what endangers the guarantees, in databases, Kafka and topics. Changes
//! nothing and fences nobody.

use std::collections::BTreeSet;

use onceward::error_chain;
use onceward::publisher::Broker as _;
use onceward::source::{
    DatabaseKind, Dialect, Loss, ProgressPlace, Severity, SourceError, SourceStore,
};
use onceward_kafka::KafkaBroker;
use sqlx::{Postgres, Sqlite};

use crate::config::Config;
use crate::options::SourceOptions;
use crate::relay::kind;

/// What was found, and the topics met on the way.
#[derive(Default)]
struct Findings {
    lines: Vec<(Severity, String)>,
    topics: BTreeSet<String>,
}

impl Findings {
    fn mend(&mut self, line: impl Into<String>) {
        self.lines.push((Severity::Refusal, line.into()));
    }
}

/// Prints one line per finding to stdout; true if nothing must be mended.
pub(crate) async fn run(config: &Config, broker: &KafkaBroker) -> bool {
    let mut fine = true;
    let mut topics = BTreeSet::new();
    for source in &config.relay.sources {
        let found = match kind(&source.url) {
            DatabaseKind::Sqlite => look::<Sqlite>(source, broker).await,
            DatabaseKind::Postgres => look::<Postgres>(source, broker).await,
        };
        if found.lines.is_empty() {
            println!("{:<8} source {}", "ok", source.name);
        }
        for (severity, line) in found.lines {
            let word = match severity {
                Severity::Warning => "warning",
                Severity::Refusal => "error",
            };
            fine &= severity == Severity::Warning;
            println!("{word:<8} source {}: {line}", source.name);
        }
        topics.extend(found.topics);
    }
    let sources = config
        .relay
        .sources
        .iter()
        .map(|source| source.name.clone())
        .collect();
    for finding in broker.check(sources, topics.into_iter().collect()).await {
        fine &= finding.severity < onceward_kafka::Severity::Error;
        println!("{finding}");
    }
    fine
}

async fn look<D: Dialect>(source: &SourceOptions, broker: &KafkaBroker) -> Findings {
    let mut found = Findings::default();
    let mut store = match SourceStore::<D>::open(source.url.reveal(), &source.name).await {
        Ok(store) => store,
        Err(error) => {
            found.mend(error_chain(&error));
            return found;
        }
    };
    match store.check().await {
        Ok(findings) => found.lines.extend(
            findings
                .into_iter()
                .map(|f| (f.severity, format!("{}; {}", f.what, f.remedy))),
        ),
        Err(error) => found.mend(error_chain(&error)),
    }
    if let Err(reason) = look_at_progress(source, &mut store, broker, &mut found).await {
        found.mend(reason);
    }
    found
}

/// Does the database fit what Kafka says was published?
async fn look_at_progress<D: Dialect>(
    source: &SourceOptions,
    store: &mut SourceStore<D>,
    broker: &KafkaBroker,
    found: &mut Findings,
) -> Result<(), String> {
    let topic = source.name.progress_topic();
    let ids = broker
        .topic_ids(vec![topic])
        .await
        .map_err(|error| error.to_string())?;
    let mirror = store.mirror().await.map_err(|error| error_chain(&error))?;
    let from = mirror.as_ref().map(|mirror| mirror.progress_offset);
    let mut attempts = 0;
    let progress = loop {
        let committed = if ids.is_empty() {
            None
        } else {
            let committed = broker.look(&source.name, from).await;
            Some(committed.map_err(|error| error.to_string())?)
        };
        let found = committed.and_then(|c| Some((c.record?, c.topic_id, c.cluster_id)));
        let Some(((offset, progress), topic_id, cluster_id)) = found else {
            let fine = store.progress_may_be_missing().await;
            return fine.map_err(|error| error_chain(&error));
        };
        let place = ProgressPlace {
            offset,
            topic_id: &topic_id,
            cluster_id: &cluster_id,
        };
        attempts += 1;
        match store.verify_between(&progress, place).await {
            Ok(()) => break progress,
            // A running relay wrote the mirror after we looked: look again.
            Err(SourceError::Lost(Loss::KafkaBehindMirror { .. })) if attempts < 4 => {}
            Err(error) => return Err(error_chain(&error)),
        }
    };
    found.topics.extend(progress.partitions.keys().cloned());
    let names = progress.partition_counts.keys().cloned().collect();
    let topics = broker
        .topics(names)
        .await
        .map_err(|error| error.to_string())?;
    for (name, before) in &progress.partition_counts {
        if let Some(now) = topics.get(name).map(|topic| topic.partition_count)
            && now != *before
        {
            found.mend(format!(
                "keyed topic {name} has {now} partitions, it had {before}: keys would move; drain \
                 it, then start once with --accept-repartitioned {name}"
            ));
        }
    }
    Ok(())
}
