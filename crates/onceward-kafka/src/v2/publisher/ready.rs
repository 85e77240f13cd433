//! What must be so before a transaction begins: leaders and coordinator are reachable, the last
//! transaction's markers are written. Trouble here is an outage or a refusal, never an unknown outcome.

use std::sync::Arc;
use std::time::Duration;

use onceward::publisher::{PublishOutcome, Refusal};
use tokio::time::{Instant, sleep};

use super::{RETRY_PAUSE, V2Publisher, write_on};
use crate::v2::cluster::{Leader, Trouble};
use crate::v2::fault::{Code, Kind};
use crate::v2::message::DescribeTransactions;

/// How long leaders and coordinator may be missing before it is an outage, and a topic before it is
/// said to be missing: a new one is not known to every broker at once.
const READY_AT_MOST: Duration = Duration::from_secs(1);
/// How long the markers of the last transaction may take.
const SETTLE_AT_MOST: Duration = Duration::from_secs(5);
/// After this the markers of the last transaction are there.
const SETTLED_AFTER: Duration = Duration::from_millis(50);

/// Why a transaction can't begin.
enum NotReady {
    Refused(Refusal),
    Trouble(Trouble),
}

impl From<Trouble> for NotReady {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl V2Publisher {
    /// See [`onceward::publisher::Publisher::get_ready`]: asks for the markers of the last transaction
    /// while nothing waits to be published, instead of when something does.
    pub(crate) async fn get_ready(&mut self) {
        if self.dead.is_none() {
            let _trouble = self.settle(SETTLED_AFTER).await;
        }
    }

    /// Everything that can be made sure of before anything is begun.
    pub(super) async fn ready(&mut self) -> Result<Vec<i32>, PublishOutcome> {
        let give_up = Instant::now() + READY_AT_MOST;
        loop {
            let refusal = match self.try_ready(give_up + READY_AT_MOST).await {
                Ok(leaders) => return Ok(leaders),
                Err(NotReady::Refused(refusal)) => refusal,
                Err(NotReady::Trouble(Trouble::Passing(reason) | Trouble::Cut(reason))) => {
                    Refusal::Outage(reason)
                }
                // A new producer reads certificates and passwords anew.
                Err(NotReady::Trouble(Trouble::Lasting(reason))) => {
                    return Err(PublishOutcome::Unknown(reason));
                }
                Err(NotReady::Trouble(Trouble::Fenced)) => return Err(PublishOutcome::Fenced),
            };
            if Instant::now() + RETRY_PAUSE > give_up {
                return Err(PublishOutcome::NotCommitted(refusal));
            }
            self.cluster.forget_leaders();
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn try_ready(&mut self, until: Instant) -> Result<Vec<i32>, NotReady> {
        let cluster = &mut self.cluster;
        let is_known = |topic: &Arc<str>, partition| match cluster.leader(topic, partition) {
            Leader::Broker(id) => Ok(id),
            _ => Err(()),
        };
        if self.lanes.lead(is_known).is_err() {
            let topics = self.lanes.topics();
            let names: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
            cluster.learn(&names, until).await?;
            let progress_topic = &self.progress_topic;
            self.lanes.lead(|topic, partition| {
                let refused = |reason: String| {
                    if topic == progress_topic {
                        Refusal::Progress(format!("{topic}: {reason}"))
                    } else {
                        Refusal::Topic {
                            topic: topic.to_string(),
                            reason,
                        }
                    }
                };
                Err(NotReady::Refused(match cluster.leader(topic, partition) {
                    Leader::Broker(id) => return Ok(id),
                    Leader::NoTopic => refused("it does not exist".into()),
                    Leader::NoPartition => refused(format!("it has no partition {partition}")),
                    Leader::Refused(code) => refused(code.told(&write_on(topic))),
                    Leader::None | Leader::Unknown => {
                        Refusal::Outage(format!("{topic}/{partition} has no leader"))
                    }
                }))
            })?;
        }
        let leaders = self.lanes.sort();
        for leader in &leaders {
            cluster.connect(*leader).await?;
        }
        self.settle(SETTLE_AT_MOST).await?;
        self.cluster.coordinator(until).await?;
        Ok(leaders)
    }

    /// Waits until the markers of the last transaction are written. A Produce that comes earlier waits
    /// in the broker, which looks again only after 20 ms.
    async fn settle(&mut self, at_most: Duration) -> Result<(), Trouble> {
        let Some(ended) = self.ended else {
            return Ok(());
        };
        if ended.elapsed() > SETTLED_AFTER {
            self.ended = None;
            return Ok(());
        }
        let start = Instant::now();
        let until = start + at_most;
        loop {
            let request = DescribeTransactions {
                transactional_id: &self.transactional_id,
            };
            let (error, preparing) = self.cluster.ask_coordinator(&request, until).await?;
            match Code::of(error) {
                None if !preparing => {
                    self.ended = None;
                    return Ok(());
                }
                None => {}
                Some(code) if code.kind() == Kind::Coordinator => {
                    self.cluster.forget_coordinator();
                }
                Some(code) => {
                    let need = format!("WRITE on transactional id {}", self.transactional_id);
                    return Err(Trouble::of(code, "asking for the last transaction", &need));
                }
            }
            if Instant::now() > until {
                let text = "the markers of the last transaction are not written";
                return Err(Trouble::Passing(text.into()));
            }
            // The question itself takes long enough at first.
            if start.elapsed() > Duration::from_millis(10) {
                sleep(Duration::from_millis(1)).await;
            }
        }
    }
}
