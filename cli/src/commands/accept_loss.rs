//! `onceward consumer accept-loss`: lets a stopped partition go on although its log has lost records.

use anyhow::{Result, anyhow};
use onceward::ConsumerName;
use onceward::consumer::{LogNow, LossRefused, TopicPartition, accept_loss};
use onceward_kafka::KafkaBroker;
use serde_json::json;
use sqlx::Connection as _;

use super::rebuild::source_of;
use crate::World;
use crate::args::LossWish;
use crate::database::{self, on};
use crate::kafka;
use crate::locate::Place;
use crate::outcome::{Outcome, not_found, refused, usage};

/// Changes the stored offset, or says what that would mean.
pub(crate) async fn accept(place: &Place, world: &World<'_>, wish: &LossWish) -> Result<Outcome> {
    let consumer = ConsumerName::new(&wish.consumer).map_err(|error| usage(error.to_string()))?;
    let (topic, partition) = wish
        .partition
        .rsplit_once('/')
        .and_then(|(topic, partition)| Some((topic, partition.parse::<i32>().ok()?)))
        .ok_or_else(|| usage(format!("{:?} is not TOPIC/PARTITION", wish.partition)))?;
    let at = TopicPartition {
        topic: topic.into(),
        partition,
    };
    let source = source_of(place, &wish.consumer).await?;
    let log = log_of(place, &at).await?;
    let mut connection = database::open_for_writing(&source.url).await?;
    let now = world.clock.now();
    let accepted = on!(&mut connection, c => {
        let mut tx = c.begin().await?;
        let accepted = accept_loss(&mut tx, &consumer, &at, &log, now).await;
        match wish.yes_lose_records && accepted.is_ok() {
            true => tx.commit().await?,
            false => tx.rollback().await?,
        }
        accepted
    });
    let accepted = accepted.map_err(|error| match error {
        LossRefused::Database(error) => anyhow!(error),
        LossRefused::Unknown(_) => not_found(error.to_string()),
        other => refused(other.to_string()),
    })?;
    if !wish.yes_lose_records {
        return Err(refused(format!(
            "{}. To acknowledge that: --yes-lose-records",
            accepted.what
        )));
    }
    let data = json!({ "consumer": consumer.as_str(), "topic": topic, "partition": partition,
        "next_offset": accepted.next_offset, "what": accepted.what });
    let note = "its owner goes on within a second, or when it starts: onceward status";
    Ok(Outcome::new(accepted.what, &data)?.with_notes(vec![note.to_owned()]))
}

/// What the cluster says of the partition.
async fn log_of(place: &Place, at: &TopicPartition) -> Result<LogNow> {
    let topic = at.topic.to_string();
    let config = place.kafka.clone().unwrap_or_default();
    let broker = KafkaBroker::new(config).map_err(|error| usage(error.to_string()))?;
    let ids = broker.topic_ids(vec![topic.clone()]).await?;
    let wanted = vec![(topic.clone(), at.partition)];
    let look = kafka::look(place, vec![], wanted).await;
    let bounds = look.map_err(|error| anyhow!(error))?.bounds;
    match (ids.get(&topic), bounds.get(&(topic, at.partition))) {
        (Some(id), Some(bounds)) => Ok(LogNow {
            topic_id: id.clone(),
            start: bounds.low,
            end: bounds.high,
        }),
        _ => Err(not_found(format!("Kafka has no partition {at}"))),
    }
}
