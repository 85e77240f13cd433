//! `onceward source reset`, the way out after a restored database or a lost progress topic, and
//! `onceward source adopt`, for a database that was moved with all its rows.
//!
//! Both start a new epoch, which spans Kafka and the database: claim and fence, progress of the new
//! epoch into Kafka, then the database's epoch. Each step may be repeated, and what was done is found
//! again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use onceward::publisher::{
    Broker as _, BrokerError, CommittedProgress, PublishOutcome, Publisher as _,
};
use onceward::source::{
    Claim, DatabaseKind, Dialect, EpochPlan, ProgressPlace, RelayEpoch, ResetTo, SourceError,
    SourceStore,
};
use onceward::{DatabaseUrl, ProgressRecord, SourceName};
use onceward_kafka::KafkaBroker;
use serde_json::json;
use sqlx::{Postgres, Sqlite};

use super::cursor;
use crate::args::ResetFrom;
use crate::kafka;
use crate::locate::Place;
use crate::outcome::{Outcome, refused, usage};

/// Who owns the source meanwhile.
const INSTANCE: &str = "onceward-source";

/// What the new epoch is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wish {
    /// `source reset`.
    Reset(ResetFrom),
    /// `source adopt`.
    Adopt,
}

/// `source reset` and `source adopt`.
pub(crate) async fn new_epoch(
    place: &Place,
    source: &str,
    wish: Wish,
    yes: bool,
) -> Result<Outcome> {
    let found = place.source(source)?;
    let kafka = place
        .kafka
        .clone()
        .ok_or_else(|| usage("this needs Kafka: --kafka HOST:PORT"))?;
    if !yes {
        return Err(refused(match wish {
            Wish::Reset(from) => format!(
                "resetting {source} {}. Stop its relays, look at `onceward source check`, then: \
                 --yes",
                consequence(from)
            ),
            Wish::Adopt => format!(
                "adopting {source} makes {} its only database: a relay at the place it came from \
                 will stop. Stop its relays and writers there, then: --yes",
                found.url
            ),
        }));
    }
    let name = SourceName::new(source).map_err(|e| usage(e.to_string()))?;
    let broker = KafkaBroker::new(kafka).map_err(|e| usage(e.to_string()))?;
    match found.url.check()? {
        DatabaseKind::Sqlite => run::<Sqlite>(place, &found.url, &name, &broker, wish).await,
        DatabaseKind::Postgres => run::<Postgres>(place, &found.url, &name, &broker, wish).await,
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
    place: &Place,
    url: &DatabaseUrl,
    name: &SourceName,
    broker: &KafkaBroker,
    wish: Wish,
) -> Result<Outcome> {
    let mut store = SourceStore::<B>::open_moved(url.reveal(), name).await?;
    let epoch = match store.claim(INSTANCE, true).await? {
        Claim::Owned(epoch) => epoch,
        Claim::Held { owner, expires_in } => {
            return Err(refused(format!(
                "{owner} owns {name} (for {expires_in:?} at least): stop it first"
            )));
        }
    };
    // CRASH: from here to the release = an owner that does nothing; its lease ends after 3 s.
    let done = fenced(place, &mut store, epoch, name, broker, wish).await;
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
            match wish {
                Wish::Reset(_) => " (an earlier reset was finished)",
                Wish::Adopt => " (an earlier adoption was finished)",
            }
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
    place: &Place,
    store: &mut SourceStore<B>,
    epoch: RelayEpoch,
    name: &SourceName,
    broker: &KafkaBroker,
    wish: Wish,
) -> Result<(ProgressRecord, bool)> {
    match wish {
        Wish::Reset(_) => broker.ensure_progress_topic(name).await?,
        // A look before anything is fenced: a stranger's progress is nobody's to adopt.
        Wish::Adopt => {
            let looked = match broker.look(name, None).await {
                Ok(looked) => looked.record,
                Err(BrokerError::Configuration(_)) => None,
                Err(other) => return Err(other.into()),
            };
            adoptable(name, looked.as_ref().map(|(_, record)| record))?;
        }
    }
    // Fences every relay of this source and aborts what it left open: from here on nothing but
    // this producer writes progress.
    let mut publisher = broker.open(name).await?;
    let before = read_progress(broker, name).await?;
    let kafka = before.record.as_ref().map(|(_, record)| record);
    let plan = match wish {
        Wish::Reset(from) => {
            let to = match from {
                ResetFrom::Mirror => ResetTo::Mirror,
                ResetFrom::Start => ResetTo::Start,
                ResetFrom::End => ResetTo::End,
            };
            let mut plan = store.plan_reset(to, kafka).await?;
            if let (None, EpochPlan::Write(record)) = (kafka, &mut plan) {
                go_on_in_topics(place, store, name, record).await?;
            }
            plan
        }
        Wish::Adopt => {
            let place = ProgressPlace {
                offset: before.record.as_ref().map_or(0, |(offset, _)| *offset),
                topic_id: &before.topic_id,
                cluster_id: &before.cluster_id,
            };
            let kafka = adoptable(name, kafka)?;
            let planned = store.plan_adoption(epoch, kafka, place).await;
            planned.map_err(|error| match error {
                SourceError::Lost(loss) => refused(format!(
                    "{name} can't be adopted: {loss}; {}",
                    loss.way_out()
                )),
                other => other.into(),
            })?
        }
    };
    store.renew(epoch).await?;
    let (record, written) = match plan {
        EpochPlan::Written(record) => (record, false),
        EpochPlan::Write(record) => {
            // CRASH: not committed = nothing happened; committed = the next run finds it written.
            let no_rows = Arc::default();
            let publishing = publisher.publish(&no_rows, &record);
            let outcome = tokio::time::timeout(Duration::from_secs(30), publishing).await;
            match outcome.context("Kafka did not answer in 30 s; run this again")? {
                PublishOutcome::Committed { .. } => {}
                other => {
                    return Err(refused(format!(
                        "the new epoch was not written ({other:?}); run this again"
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
    } = read_progress(broker, name).await?;
    let offset = match found {
        Some((offset, found)) if found.epoch == record.epoch => offset,
        _ => {
            return Err(refused(
                "the new epoch is not what Kafka holds: another reset or adoption is under way",
            ));
        }
    };
    let place = ProgressPlace {
        offset,
        topic_id: &topic_id,
        cluster_id: &cluster_id,
    };
    store.finish_epoch(epoch, &record, place).await?;
    Ok((record, written))
}

/// Kafka has answered a moment ago: what it can't say yet, of a topic just made before all, it soon can.
async fn read_progress(
    broker: &KafkaBroker,
    name: &SourceName,
) -> Result<CommittedProgress, BrokerError> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        match broker.read_progress(name, None).await {
            Err(BrokerError::Unavailable(_)) if Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            answer => return answer,
        }
    }
}

/// The progress is gone, which knew the last position in each partition: the records there tell it too, so
/// that those to come go on behind them.
async fn go_on_in_topics<B: Dialect>(
    place: &Place,
    store: &mut SourceStore<B>,
    name: &SourceName,
    record: &mut ProgressRecord,
) -> Result<()> {
    let topics = store.topics().await?;
    let ends = kafka::ends(place, name.as_str(), topics).await;
    let ends = ends.map_err(|why| refused(format!("{name}'s topics can't be read: {why}")))?;
    record.position = record.position.max(ends.position);
    record.partitions = ends.partitions;
    record.partition_counts = ends.partition_counts;
    Ok(())
}

/// What can be adopted is what was published before.
fn adoptable<'r>(
    name: &SourceName,
    kafka: Option<&'r ProgressRecord>,
) -> Result<&'r ProgressRecord> {
    kafka.ok_or_else(|| {
        refused(format!(
            "{name} can't be adopted: Kafka has no progress of it. If it never published, start \
             its relay; else `onceward source reset`"
        ))
    })
}
