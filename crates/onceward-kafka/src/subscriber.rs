//! Delivers a consumer group's records to the consumer loop, from an OS thread of its own.
//!
//! librdkafka's classic group protocol with eager assignment. The group only says *which* partitions
//! this instance reads; *where* it reads on is asked of the database, by [`Link::assigned`], before
//! the partitions are assigned: seeking after assignment is racy.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use onceward::consumer::{
    Command, Link, Record, Subscriber, SubscriberError, Subscription, TopicPartition,
};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;

use crate::KafkaConfig;
use crate::credentials::Credentials;
use crate::events::{Event, Events, set_leader_epoch};
use crate::fault::{denied, is_denied};
use crate::ffi::has_no_member_id;
use crate::trouble::{Trouble, explain};
use crate::watch::why_unreachable;

mod facts;

use facts::facts;

/// Reads a consumer group's topics by librdkafka.
#[derive(Debug, Clone)]
pub struct KafkaSubscriber {
    config: KafkaConfig,
}

impl KafkaSubscriber {
    /// A subscriber on this cluster. Connects when the consumer runs.
    pub fn new(config: KafkaConfig) -> Self {
        Self { config }
    }
}

/// One question to the cluster.
const ASK: Duration = Duration::from_secs(5);
/// All questions of one assignment: within it the group must not lose patience.
const ASK_ALL: Duration = Duration::from_secs(60);
/// How often the thread looks at the loop's commands.
const TICK: Duration = Duration::from_millis(10);
/// A loop that takes nothing for this long is waited for with the partitions paused, so that the
/// thread can go on polling: who does not poll is thrown out of the group.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long leaving the group may take.
const LEAVE: Duration = Duration::from_secs(3);
/// Another process runs with our static member id: don't throw it out again at once.
const FENCED_PAUSE: Duration = Duration::from_secs(10);
/// A cause is looked for no more often than this: it may take a connection of its own.
const EXPLAIN_EVERY: Duration = Duration::from_secs(10);

/// librdkafka's log goes to `tracing`; errors come as events.
pub(crate) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message, "librdkafka");
    }
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }
}
impl ConsumerContext for Quiet {}

impl Subscriber for KafkaSubscriber {
    fn subscribe(
        &mut self,
        subscription: &Subscription,
        link: &mut Link,
    ) -> Result<(), SubscriberError> {
        // Before they are used: a change in between is one more.
        let credentials = Credentials::of(&self.config);
        let config = self.config.client_config().map_err(|problems| {
            link.refused(problems.to_string());
            failed("configuration")(problems)
        })?;
        let consumer: BaseConsumer<Quiet> = group_config(&config, subscription)
            .create_with_context(Quiet)
            .map_err(failed("consumer start"))?;
        let topics: Vec<&str> = subscription.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(failed("subscribe"))?;
        let events = Events::of(&consumer).ok_or_else(|| SubscriberError {
            doing: "consumer start",
            reason: "it has no group".to_owned(),
        })?;
        let mut session = Session {
            events,
            config,
            group: subscription.group.to_string(),
            link,
            assigned: Vec::new(),
            backlog: VecDeque::new(),
            blocked_since: None,
            holding: false,
            paused: BTreeSet::new(),
            // The trouble that ended the subscription before this one is over when this one works.
            troubled: true,
            has_worked: false,
            denied: BTreeSet::new(),
            explained: None,
            asked: None,
            credentials,
            refused: false,
        };
        let ended = session.run();
        session.leave();
        ended
    }
}

fn group_config(config: &ClientConfig, subscription: &Subscription) -> ClientConfig {
    let mut config = config.clone();
    // What users may set otherwise.
    for (name, value) in [
        ("session.timeout.ms", "10000"),
        ("heartbeat.interval.ms", "1000"),
        ("topic.metadata.refresh.interval.ms", "10000"),
        ("queued.max.messages.kbytes", "32768"),
        ("queued.min.messages", "20000"),
        // How long it looks away once so many wait, of all partitions together; a second unless told otherwise,
        // in which a consumer that catches up takes them all and then stands still.
        ("fetch.queue.backoff.ms", "5"),
        ("fetch.error.backoff.ms", "100"),
    ] {
        if config.get(name).is_none() {
            config.set(name, value);
        }
    }
    // What the protocol needs.
    config
        .set("group.id", subscription.group.as_str())
        .set("group.protocol", "classic")
        .set("partition.assignment.strategy", "range")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("statistics.interval.ms", "2000");
    if let Some(id) = &subscription.instance_id {
        config.set("group.instance.id", id);
    }
    config
}

/// What the loop had no room for yet.
enum Backlog {
    Record(Record),
    End { at: TopicPartition, offset: i64 },
}

/// One membership of the group.
struct Session<'c, 'l> {
    events: Events<'c, Quiet>,
    config: ClientConfig,
    group: String,
    link: &'l mut Link,
    assigned: Vec<TopicPartition>,
    /// In the order of the queue.
    backlog: VecDeque<Backlog>,
    blocked_since: Option<Instant>,
    /// All partitions are paused because of the backlog.
    holding: bool,
    /// Partitions that the loop wants paused.
    paused: BTreeSet<TopicPartition>,
    troubled: bool,
    has_worked: bool,
    /// Topics of which Kafka said that we may not read them.
    denied: BTreeSet<String>,
    /// When a cause was last told.
    explained: Option<Instant>,
    /// When the brokers were last asked why they are out of reach.
    asked: Option<Instant>,
    credentials: Credentials,
    /// Kafka refuses who we are, or we it.
    refused: bool,
}

impl Session<'_, '_> {
    fn run(&mut self) -> Result<(), SubscriberError> {
        while !self.link.is_stopping() {
            self.commands()?;
            // Only a new client reads them again.
            if self.refused && self.credentials.have_changed() {
                return Err(failed("connection")(
                    "a password or certificate file was changed",
                ));
            }
            if !self.deliver() {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
            let event = self.events.poll(TICK);
            self.handle(event)?;
        }
        Ok(())
    }

    /// Hands the backlog over; whether polling may go on.
    fn deliver(&mut self) -> bool {
        while let Some(next) = self.backlog.pop_front() {
            let refused = match next {
                Backlog::Record(record) => self.link.offer(record).err().map(|full| full.0),
                Backlog::End { at, offset } if self.link.reached_end(at.clone(), offset) => None,
                end @ Backlog::End { .. } => {
                    self.backlog.push_front(end);
                    return self.blocked();
                }
            };
            if let Some(record) = refused {
                self.backlog.push_front(Backlog::Record(record));
                return self.blocked();
            }
            self.blocked_since = None;
        }
        if self.holding {
            self.holding = false;
            let wanted = self.assigned.iter().filter(|at| !self.paused.contains(at));
            let wanted: Vec<_> = wanted.cloned().collect();
            self.resume(&wanted);
        }
        true
    }

    /// The loop is full: after a while everything is paused, so that polling can go on.
    fn blocked(&mut self) -> bool {
        let since = *self.blocked_since.get_or_insert_with(Instant::now);
        if since.elapsed() > PATIENCE && !self.holding {
            self.holding = true;
            self.pause(&self.assigned.clone());
        }
        self.holding
    }

    fn handle(&mut self, event: Event) -> Result<(), SubscriberError> {
        match event {
            Event::Nothing => {}
            Event::Record(record) => {
                self.denied.remove(&*record.at.topic);
                self.well();
                self.backlog.push_back(Backlog::Record(record));
            }
            Event::End { at, offset } => {
                self.denied.remove(&*at.topic);
                self.well();
                self.link.log_end(at.clone(), offset);
                self.backlog.push_back(Backlog::End { at, offset });
            }
            Event::Assign(partitions) => {
                self.well();
                self.assigned = partitions;
                self.assign()?;
            }
            Event::Revoke => {
                self.drop_assignment();
                self.link.revoked();
                let unassigned = self.events.consumer().unassign();
                unassigned.map_err(failed("unassign"))?;
            }
            Event::RebalanceFailed(code) => {
                return Err(failed("rebalance")(code));
            }
            Event::Statistics(json) => self.statistics(&json),
            Event::Failed {
                at,
                code,
                text,
                fatal,
            } => return self.failed(at, code, text, fatal),
        }
        Ok(())
    }

    fn failed(
        &mut self,
        at: Option<TopicPartition>,
        code: RDKafkaErrorCode,
        text: String,
        fatal: bool,
    ) -> Result<(), SubscriberError> {
        // A fatal error comes as `Fatal`, whatever it is; the client knows which.
        let (code, fatal) = match self.events.consumer().client().fatal_error() {
            Some((code, _)) => (code, true),
            None => (code, fatal),
        };
        tracing::debug!(?code, text, fatal, "consumer error");
        match (code, &at) {
            (RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange, Some(at)) => {
                let reason = format!("{at}: the position is not in the log: {text}");
                self.link.out_of_range(at.clone(), reason);
                return Ok(());
            }
            (RDKafkaErrorCode::FencedInstanceId, _) => {
                self.link.instance_conflict();
                let until = Instant::now() + FENCED_PAUSE;
                while Instant::now() < until && !self.link.is_stopping() {
                    std::thread::sleep(TICK);
                }
                return Err(failed("group membership")(
                    "another process runs with the same instance id",
                ));
            }
            _ if fatal => return Err(failed("consume")(text)),
            _ => {}
        }
        self.troubled = true;
        self.tell(at.as_ref(), code, text);
        Ok(())
    }

    /// Says what is wrong, in words that tell what to do where that can be known.
    fn tell(&mut self, at: Option<&TopicPartition>, code: RDKafkaErrorCode, text: String) {
        if is_denied(code) {
            // A subscription names no partition, but its text the topic.
            let need = match (code, at) {
                (RDKafkaErrorCode::GroupAuthorizationFailed, _) => {
                    format!("READ on group {}", self.group)
                }
                (_, Some(at)) => {
                    self.denied.insert(at.topic.to_string());
                    format!("READ on topic {}", at.topic)
                }
                (_, None) => match text.split(": ").nth(1) {
                    // "Subscribed topic not available: NAME: Broker: …"
                    Some(topic) => {
                        self.denied.insert(topic.to_owned());
                        format!("READ on topic {topic}")
                    }
                    None => format!("READ on the topic ({text})"),
                },
            };
            return self.link.refused(denied("consume", &need));
        }
        if self
            .explained
            .is_some_and(|at| at.elapsed() < EXPLAIN_EVERY)
        {
            return;
        }
        let cause = match code {
            // Nothing was told yet, so ask; but only who has never worked is likely to be refused.
            // While Kafka is away this event comes ten times a second, and asking takes seconds: who
            // asked each time would still be at it long after Kafka is back.
            RDKafkaErrorCode::AllBrokersDown if !self.has_worked => {
                if self.asked.is_some_and(|at| at.elapsed() < EXPLAIN_EVERY) {
                    return;
                }
                let cause = why_unreachable(&self.config);
                self.asked = Some(Instant::now());
                cause
            }
            _ => explain(&self.config, Some(code), &text),
        };
        match cause {
            Some(Trouble::Refused(cause)) => {
                self.refused = true;
                self.link.refused(cause);
            }
            Some(Trouble::Perhaps(cause)) => self.link.trouble(cause),
            None => return self.link.trouble(text),
        }
        self.explained = Some(Instant::now());
    }

    fn well(&mut self) {
        self.has_worked = true;
        self.refused = false;
        self.explained = None;
        // The other topics work, so this one is forgotten only once it does as well.
        if !self.denied.is_empty() {
            return;
        }
        if std::mem::take(&mut self.troubled) {
            self.link.well();
        }
    }

    fn drop_assignment(&mut self) {
        self.begin_anew();
        self.assigned.clear();
    }

    /// Forgets what was delivered and paused of the partitions.
    fn begin_anew(&mut self) {
        // To librdkafka a paused partition stays paused, even when it is assigned again.
        let paused: Vec<_> = match self.holding {
            true => self.assigned.clone(),
            false => self.paused.iter().cloned().collect(),
        };
        if !paused.is_empty() {
            self.resume(&paused);
        }
        self.backlog.clear();
        self.blocked_since = None;
        self.paused.clear();
        self.holding = false;
    }

    /// Asks the cluster what it knows of the partitions, the database where to read on, and only
    /// then assigns them.
    fn assign(&mut self) -> Result<(), SubscriberError> {
        self.begin_anew();
        let begun = Instant::now();
        let facts = loop {
            match facts(self.events.consumer(), &self.group, &self.assigned) {
                Ok(facts) => break facts,
                Err(error) if self.link.is_stopping() || begun.elapsed() > ASK_ALL => {
                    return Err(error.error);
                }
                Err(error) => {
                    self.troubled = true;
                    match error.is_denied {
                        true => self.link.refused(error.error.reason),
                        false => self.link.trouble(error.error.to_string()),
                    }
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
        };
        self.well();
        // `None`: stopping. The group is left in a moment.
        let Some(starts) = self.link.assigned(facts) else {
            return Ok(());
        };
        let (mut list, mut checked) = (TopicPartitionList::new(), TopicPartitionList::new());
        for start in starts {
            if let Some(offset) = start.offset {
                let (topic, partition) = (&*start.at.topic, start.at.partition);
                list.add_partition_offset(topic, partition, Offset::Offset(offset))
                    .map_err(failed("assign"))?;
                if let Some(epoch) = start.leader_epoch {
                    checked
                        .add_partition_offset(topic, partition, Offset::Offset(offset))
                        .map_err(failed("assign"))?;
                    set_leader_epoch(&mut checked, &start.at, epoch);
                }
            }
        }
        let consumer = self.events.consumer();
        consumer.assign(&list).map_err(failed("assign"))?;
        // Only a seek makes librdkafka ask whether the leader epoch still holds. Nothing was polled
        // yet, and what was fetched meanwhile is dropped by it.
        if checked.count() > 0
            && let Err(error) = consumer.seek_partitions(checked, ASK)
        {
            tracing::debug!(%error, "leader epochs not checked");
        }
        Ok(())
    }

    fn commands(&mut self) -> Result<(), SubscriberError> {
        while let Some(command) = self.link.command() {
            match command {
                Command::Commit { offsets, metadata } => self.commit(&offsets, &metadata),
                Command::Pause(at) => {
                    self.pause(std::slice::from_ref(&at));
                    self.paused.insert(at);
                }
                Command::Resume(at) => {
                    self.paused.remove(&at);
                    if !self.holding {
                        self.resume(&[at]);
                    }
                }
                Command::Reassign => {
                    if !self.assigned.is_empty() {
                        self.assign()?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Best effort: the offsets are for lag tools; the database is the truth.
    fn commit(&self, offsets: &[(TopicPartition, i64)], metadata: &str) {
        let mut list = TopicPartitionList::new();
        for (at, offset) in offsets {
            let mut element = list.add_partition(&at.topic, at.partition);
            element.set_metadata(metadata);
            if let Err(error) = element.set_offset(Offset::Offset(*offset)) {
                tracing::debug!(%error, "offset commit skipped");
            }
        }
        if let Err(error) = self.events.consumer().commit(&list, CommitMode::Async) {
            tracing::debug!(%error, "offset commit failed");
        }
    }

    fn pause(&self, partitions: &[TopicPartition]) {
        if let Err(error) = self.events.consumer().pause(&list_of(partitions)) {
            tracing::warn!(%error, "partitions can't be paused");
        }
    }

    fn resume(&self, partitions: &[TopicPartition]) {
        if let Err(error) = self.events.consumer().resume(&list_of(partitions)) {
            tracing::warn!(%error, "partitions can't be resumed");
        }
    }

    fn statistics(&self, json: &str) {
        #[derive(Deserialize)]
        struct Statistics {
            #[serde(default)]
            topics: BTreeMap<String, Topic>,
        }
        #[derive(Deserialize)]
        struct Topic {
            #[serde(default)]
            partitions: BTreeMap<String, Partition>,
        }
        #[derive(Deserialize)]
        struct Partition {
            partition: i32,
            ls_offset: i64,
        }
        let Ok(statistics) = serde_json::from_str::<Statistics>(json) else {
            return;
        };
        for at in &self.assigned {
            let topic = statistics.topics.get(&*at.topic);
            let found = topic.and_then(|topic| {
                let mut partitions = topic.partitions.values();
                partitions.find(|found| found.partition == at.partition)
            });
            if let Some(found) = found
                && found.ls_offset >= 0
            {
                self.link.log_end(at.clone(), found.ls_offset);
            }
        }
    }

    /// Leaves the group so that the others get the partitions at once. Closing the client would do
    /// it only for a dynamic member; a static one (KIP-345) leaves by unsubscribing first. librdkafka
    /// sends the request some time after the partitions were unassigned, and no more once the client
    /// is being closed: so that moment is waited for.
    fn leave(&mut self) {
        while let Some(command) = self.link.command() {
            if let Command::Commit { offsets, metadata } = command {
                self.commit(&offsets, &metadata);
            }
        }
        let consumer = self.events.consumer();
        consumer.unsubscribe();
        let begun = Instant::now();
        while !has_no_member_id(consumer) && begun.elapsed() < LEAVE {
            // An assignment that came too late is given back like one that was in use.
            if let Event::Assign(_) | Event::Revoke | Event::RebalanceFailed(_) =
                self.events.poll(TICK)
                && let Err(error) = consumer.unassign()
            {
                tracing::debug!(%error, "unassign failed");
            }
        }
        // Dropping the client waits until the LeaveGroup was answered.
        self.drop_assignment();
    }
}

fn list_of(partitions: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for at in partitions {
        list.add_partition(&at.topic, at.partition);
    }
    list
}

/// For `map_err`.
pub(crate) fn failed<E: std::fmt::Display>(doing: &'static str) -> impl Fn(E) -> SubscriberError {
    move |error| SubscriberError {
        doing,
        reason: error.to_string(),
    }
}
