//! `onceward source reset`: the way out after a restored database or a lost progress topic.
//!
//! Spans Kafka and the database; each step may be repeated, and what was done is found again:
//! claim and fence, progress of a new epoch into Kafka, then the database's epoch.

use std::time::Duration;

use anyhow::{Context as _, Result};
use onceward::publisher::{Broker as _, CommittedProgress, PublishOutcome, Publisher as _};
use onceward::source::{
    Claim, DatabaseKind, Dialect, ProgressPlace, RelayEpoch, ResetPlan, ResetTo, SourceStore,
};
use onceward::{ProgressRecord, SourceName};
use onceward_kafka::RdKafkaBroker;
use serde_json::json;
use sqlx::{Postgres, Sqlite};

use super::cursor;
use crate::args::ResetFrom;
use crate::locate::Place;
use crate::outcome::{Outcome, refused, usage};

/// Who owns the source while it is reset.
const INSTANCE: &str = "onceward-source-reset";

/// `source reset`.
pub(crate) async fn reset(
    place: &Place,
    source: &str,
    from: ResetFrom,
    yes: bool,
) -> Result<Outcome> {
    let found = place.only(Some(source))?;
    let Some(found) = found.first() else {
        return Err(usage(format!("no source {source:?}")));
    };
    let kafka = place
        .kafka
        .clone()
        .ok_or_else(|| usage("a reset needs Kafka: --kafka HOST:PORT"))?;
    if !yes {
        return Err(refused(format!(
            "resetting {source} {}. Stop its relays, look at `onceward source check`, then: --yes",
            consequence(from)
        )));
    }
    let name = SourceName::new(source).map_err(|e| usage(e.to_string()))?;
    let broker = RdKafkaBroker::new(kafka).map_err(|e| usage(e.to_string()))?;
    match DatabaseKind::of(&found.url)? {
        DatabaseKind::Sqlite => run::<Sqlite>(&found.url, &name, &broker, from).await,
        DatabaseKind::Postgres => run::<Postgres>(&found.url, &name, &broker, from).await,
    }
}

fn consequence(from: ResetFrom) -> &'static str {
    match from {
        ResetFrom::Mirror => {
            "publishes again what its database does not know to be published: some messages may \
             come twice, under the same id"
        }
        ResetFrom::Start => "publishes every row that is still in its outbox once more",
        ResetFrom::End => "gives up every row that is unpublished now",
    }
}

async fn run<B: Dialect>(
    url: &str,
    name: &SourceName,
    broker: &RdKafkaBroker,
    from: ResetFrom,
) -> Result<Outcome> {
    let mut store = SourceStore::<B>::open(url, name).await?;
    let epoch = match store.claim(INSTANCE, true).await? {
        Claim::Owned(epoch) => epoch,
        Claim::Held { owner, expires_in } => {
            return Err(refused(format!(
                "{owner} owns {name} (for {expires_in:?} at least): stop it first"
            )));
        }
    };
    // CRASH: from here to the release = an owner that does nothing; its lease ends after 3 s.
    let done = fenced(&mut store, epoch, name, broker, from).await;
    store.release(epoch).await?;
    let (progress, written) = done?;
    let cursor = cursor::said(&serde_json::to_value(&progress.cursor)?);
    let text = format!(
        "{name} is in epoch {} now, and goes on behind {cursor} at position {}{}",
        progress.epoch,
        progress.position,
        if written {
            ""
        } else {
            " (an earlier reset was finished)"
        }
    );
    let data = json!({ "source": name, "epoch": progress.epoch, "position": progress.position,
        "cursor": progress.cursor, "finished_earlier": !written });
    Ok(Outcome::new(text, &data)?.with_notes(vec![format!(
        "note: start its relay; see `onceward source check {name}`"
    )]))
}

/// The record of the new epoch, and whether this run wrote it.
async fn fenced<B: Dialect>(
    store: &mut SourceStore<B>,
    epoch: RelayEpoch,
    name: &SourceName,
    broker: &RdKafkaBroker,
    from: ResetFrom,
) -> Result<(ProgressRecord, bool)> {
    broker.ensure_progress_topic(name).await?;
    // Fences every relay of this source and aborts what it left open: from here on nothing but
    // this producer writes progress.
    let mut publisher = broker.open(name).await?;
    let before = broker.read_progress(name, None).await?;
    let to = match from {
        ResetFrom::Mirror => ResetTo::Mirror,
        ResetFrom::Start => ResetTo::Start,
        ResetFrom::End => ResetTo::End,
    };
    let kafka = before.record.as_ref().map(|(_, record)| record);
    let plan = store.plan_reset(to, kafka).await?;
    store.renew(epoch).await?;
    let (record, written) = match plan {
        ResetPlan::Written(record) => (record, false),
        ResetPlan::Write(record) => {
            // CRASH: not committed = nothing happened; committed = the next run finds it written.
            let publishing = publisher.publish(vec![], &record);
            let outcome = tokio::time::timeout(Duration::from_secs(30), publishing).await;
            match outcome.context("Kafka did not answer in 30 s; run the reset again")? {
                PublishOutcome::Committed { .. } => {}
                other => {
                    return Err(refused(format!(
                        "the new epoch was not written ({other:?}); run the reset again"
                    )));
                }
            }
            (record, true)
        }
    };
    // Read back rather than believed: the mirror must name the offset that is there.
    let CommittedProgress {
        record: found,
        topic_id,
        cluster_id,
    } = broker.read_progress(name, None).await?;
    let offset = match found {
        Some((offset, found)) if found.epoch == record.epoch => offset,
        _ => {
            return Err(refused(
                "the new epoch is not what Kafka holds: another reset is under way",
            ));
        }
    };
    let place = ProgressPlace {
        offset,
        topic_id: &topic_id,
        cluster_id: &cluster_id,
    };
    store.finish_reset(epoch, &record, place).await?;
    Ok((record, written))
}
