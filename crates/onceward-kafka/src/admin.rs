//! Topics: described, made, and held against what exactly-once needs of them.

use std::collections::BTreeMap;
use std::time::Duration;

use onceward::publisher::BrokerError;
use rdkafka::admin::{
    AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication, TopicResult,
};
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::RDKafkaErrorCode;

use crate::KafkaConfig;
use crate::fault::{broker_error, broker_error_needing, config_error, kafka_error};
use crate::ffi::{
    TopicDescription, answering_broker, describe_settings, describe_topics, set_topic_setting,
};
use crate::trouble::Trouble;
use crate::watch::why_unreachable;

const ASK_AT_MOST: Duration = Duration::from_secs(10);
/// A broker that is about to stop takes a request and does not answer it; the next try meets another one.
const TRIES: [Duration; 3] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(7),
];
const MAKE_AT_MOST: Duration = Duration::from_secs(15);
/// A progress topic's segments: small, so that compaction keeps the topic short to read.
const PROGRESS_SEGMENT_BYTES: i64 = 16 * 1024 * 1024;
/// Copies of a topic made by us, as far as there are brokers.
const REPLICATION_WANTED: usize = 3;

/// An admin client. Its calls block: use it off the async threads.
pub(crate) struct Admin {
    client: AdminClient<DefaultClientContext>,
    config: ClientConfig,
}

/// Settings of a topic that matter to us, as Kafka tells them.
#[derive(Debug, Clone, Default)]
pub(crate) struct TopicSettings(BTreeMap<String, String>);

impl TopicSettings {
    #[cfg(test)]
    pub(crate) fn of(settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter();
        let texts = settings.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self(texts.collect())
    }
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.text(name).parse().ok()
    }
}

/// What became of a topic that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicMade {
    /// Made now.
    Created,
    /// Was there, with this many partitions: nothing changed.
    Existed {
        /// Number of partitions.
        partition_count: i32,
    },
}

impl Admin {
    pub(crate) fn connect(config: &KafkaConfig) -> Result<Self, BrokerError> {
        let mut config = config
            .client_config()
            .map_err(|problems| config_error(&problems))?;
        // Told at once, instead of by a call that waits in vain for 10 s.
        if config.get("security.protocol") != Some("plaintext")
            && let Some(Trouble::Refused(cause)) = why_unreachable(&config)
        {
            return Err(BrokerError::Configuration(cause));
        }
        // Nobody serves an admin client's log events, so let there be few.
        config.set_log_level(RDKafkaLogLevel::Critical);
        let client = config
            .create()
            .map_err(|error| kafka_error(&error, "connecting to Kafka"))?;
        Ok(Self { client, config })
    }

    fn client(&self) -> &Client<DefaultClientContext> {
        self.client.inner()
    }

    /// "Unavailable", unless the connection tells what only a person can mend.
    fn unavailable(&self, text: String) -> BrokerError {
        match why_unreachable(&self.config) {
            Some(Trouble::Refused(cause)) => BrokerError::Configuration(cause),
            Some(Trouble::Perhaps(cause)) => BrokerError::Unavailable(cause),
            None => BrokerError::Unavailable(text),
        }
    }

    /// What no broker has answered.
    fn unanswered(&self, code: RDKafkaErrorCode, doing: &str) -> BrokerError {
        match broker_error(code, doing) {
            BrokerError::Unavailable(text) => self.unavailable(text),
            other => other,
        }
    }

    /// Asks until a broker answers.
    fn ask_again<T>(
        &self,
        ask: impl Fn(Duration) -> Result<T, RDKafkaErrorCode>,
    ) -> Result<T, RDKafkaErrorCode> {
        let mut answer = Err(RDKafkaErrorCode::OperationTimedOut);
        for at_most in TRIES {
            answer = ask(at_most);
            if !matches!(answer, Err(RDKafkaErrorCode::OperationTimedOut)) {
                break;
            }
        }
        answer
    }

    /// How to make or change a topic: by a broker that answers.
    fn options(&self, topic: &str, doing: &str) -> Result<AdminOptions, BrokerError> {
        let broker = self.ask_again(|at_most| answering_broker(self.client(), topic, at_most));
        let broker = broker.map_err(|code| self.unanswered(code, doing))?;
        Ok(AdminOptions::new()
            .broker_id(broker)
            .request_timeout(Some(MAKE_AT_MOST))
            .operation_timeout(Some(MAKE_AT_MOST)))
    }

    pub(crate) fn cluster_id(&self) -> Result<String, BrokerError> {
        self.client()
            .fetch_cluster_id(ASK_AT_MOST)
            .ok_or_else(|| self.unavailable("asking for the cluster id: no answer".into()))
    }

    /// Number of brokers.
    pub(crate) fn broker_count(&self) -> Result<usize, BrokerError> {
        self.client()
            .fetch_metadata(None, ASK_AT_MOST)
            .map(|metadata| metadata.brokers().len())
            .map_err(|error| kafka_error(&error, "asking for the brokers"))
    }

    /// Copies of a new topic: three, as far as there are brokers.
    pub(crate) fn copies_wanted(&self) -> Result<usize, BrokerError> {
        Ok(self.broker_count()?.clamp(1, REPLICATION_WANTED))
    }

    /// The topics that exist. A missing right is an error, as it could hide a topic.
    pub(crate) fn describe(
        &self,
        names: &[String],
    ) -> Result<BTreeMap<String, TopicDescription>, BrokerError> {
        let doing = "asking for topics";
        let answer = self.ask_again(|at_most| describe_topics(self.client(), names, at_most));
        let answer = answer.map_err(|code| self.unanswered(code, doing))?;
        let mut found = BTreeMap::new();
        for (name, description) in answer {
            match description {
                Ok(topic) => {
                    found.insert(name, topic);
                }
                Err(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                }
                Err(code) => {
                    let (doing, need) = (
                        format!("asking for topic {name}"),
                        format!("DESCRIBE on topic {name} (READ and WRITE include it)"),
                    );
                    return Err(broker_error_needing(code, &doing, &need));
                }
            }
        }
        Ok(found)
    }

    /// The settings of topics that exist.
    pub(crate) fn settings(
        &self,
        names: &[String],
    ) -> Result<BTreeMap<String, TopicSettings>, BrokerError> {
        use RDKafkaErrorCode as C;
        let doing = "asking for topic settings";
        let mut found = BTreeMap::new();
        let mut unknown = names.to_vec();
        // A topic just made is not known to every broker for a moment.
        for _ in 0..40 {
            let answer =
                self.ask_again(|at_most| describe_settings(self.client(), &unknown, at_most));
            let answer = answer.map_err(|code| self.unanswered(code, doing))?;
            unknown.clear();
            for (name, settings) in answer {
                match settings {
                    Ok(settings) => drop(found.insert(name, TopicSettings(settings))),
                    Err(C::UnknownTopicOrPartition | C::UnknownTopic) => unknown.push(name),
                    Err(code) => {
                        let need = format!("DESCRIBE_CONFIGS on topic {name}");
                        return Err(broker_error_needing(
                            code,
                            &format!("{doing} of {name}"),
                            &need,
                        ));
                    }
                }
            }
            if unknown.is_empty() {
                return Ok(found);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let unknown = unknown.join(", ");
        Err(BrokerError::Unavailable(format!(
            "{doing}: {unknown} not visible yet"
        )))
    }

    /// Sets one setting of a topic.
    pub(crate) fn set(&self, topic: &str, setting: &str, value: &str) -> Result<(), BrokerError> {
        let set = set_topic_setting(self.client(), topic, (setting, value), ASK_AT_MOST);
        set.map_err(|(code, said)| {
            let need = format!("ALTER_CONFIGS on topic {topic}");
            let doing = format!("setting {setting}={value} of topic {topic} ({said})");
            broker_error_needing(code, &doing, &need)
        })
    }

    /// Gives a topic more partitions.
    pub(crate) fn grow(&self, topic: &str, partition_count: i32) -> Result<(), BrokerError> {
        let count = usize::try_from(partition_count).unwrap_or_default();
        let more = NewPartitions::new(topic, count);
        let doing = format!("giving topic {topic} {partition_count} partitions");
        let options = self.options(topic, &doing)?;
        let results = wait(self.client.create_partitions([&more], &options))?
            .map_err(|error| kafka_error(&error, &doing))?;
        one_answer(results, &doing)?.map_err(|code| {
            let need = format!("ALTER on topic {topic}");
            broker_error_needing(code, &doing, &need)
        })
    }

    /// Makes one topic; `false` if it existed.
    pub(crate) fn make(
        &self,
        topic: &str,
        partition_count: i32,
        replication: i32,
        settings: &[(&str, &str)],
    ) -> Result<bool, BrokerError> {
        let mut new = NewTopic::new(topic, partition_count, TopicReplication::Fixed(replication));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        let doing = format!("making topic {topic}");
        let options = self.options(topic, &doing)?;
        let results = wait(self.client.create_topics([&new], &options))?
            .map_err(|error| kafka_error(&error, &doing))?;
        match one_answer(results, &doing)? {
            Ok(()) => Ok(true),
            Err(RDKafkaErrorCode::TopicAlreadyExists) => Ok(false),
            Err(code) => {
                let need = format!("CREATE on topic {topic}");
                Err(broker_error_needing(code, &doing, &need))
            }
        }
    }

    /// Makes the progress topic if it is missing, then checks it in any case: somebody else may have
    /// made it, and with delete retention progress would vanish.
    pub(crate) fn ensure_progress_topic(&self, topic: &str) -> Result<(), BrokerError> {
        let names = [topic.to_owned()];
        let mut found = self.describe(&names)?;
        if found.is_empty() {
            let replication = self.copies_wanted()?;
            let made = self.make(
                topic,
                1,
                i32::try_from(replication).unwrap_or(1),
                &[
                    ("cleanup.policy", "compact"),
                    ("segment.bytes", &PROGRESS_SEGMENT_BYTES.to_string()),
                    (
                        "min.insync.replicas",
                        &min_in_sync_of(replication).to_string(),
                    ),
                    ("unclean.leader.election.enable", "false"),
                ],
            )?;
            tracing::info!(topic, made, replication, "progress topic was missing");
            found = self.describe_when_made(&names)?;
        }
        let Some(description) = found.get(topic) else {
            return Err(BrokerError::Unavailable(format!(
                "topic {topic} is not visible yet"
            )));
        };
        let settings = self.settings(&names)?.remove(topic).unwrap_or_default();
        let problems = progress_topic_problems(description, &settings);
        if problems.is_empty() {
            return Ok(());
        }
        Err(BrokerError::Configuration(format!(
            "topic {topic} can't hold progress: {}",
            problems.join("; ")
        )))
    }

    /// A new topic takes a moment until every broker knows it.
    pub(crate) fn describe_when_made(
        &self,
        names: &[String],
    ) -> Result<BTreeMap<String, TopicDescription>, BrokerError> {
        let mut found = BTreeMap::new();
        for _ in 0..100 {
            found = self.describe(names)?;
            let is_led = |topic: &TopicDescription| {
                !topic.partitions.is_empty() && topic.partitions.iter().all(|p| p.leader.is_some())
            };
            if found.len() == names.len() && found.values().all(is_led) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(found)
    }

    /// Makes data topics that are missing; existing ones are left as they are.
    pub(crate) fn make_topics(
        &self,
        names: &[String],
        partition_count: i32,
        replication: i32,
    ) -> Result<BTreeMap<String, TopicMade>, BrokerError> {
        let existing = self.describe(names)?;
        let min_in_sync = min_in_sync_of(usize::try_from(replication).unwrap_or(1)).to_string();
        let mut made = BTreeMap::new();
        for name in names {
            let is_new = !existing.contains_key(name)
                && self.make(
                    name,
                    partition_count,
                    replication,
                    &[
                        ("min.insync.replicas", &min_in_sync),
                        ("unclean.leader.election.enable", "false"),
                    ],
                )?;
            if is_new {
                made.insert(name.clone(), TopicMade::Created);
            }
        }
        let found = self.describe_when_made(names)?;
        for (name, topic) in found {
            let partition_count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
            made.entry(name)
                .or_insert(TopicMade::Existed { partition_count });
        }
        Ok(made)
    }
}

/// What became of the one topic that was asked about.
fn one_answer(
    results: Vec<TopicResult>,
    doing: &str,
) -> Result<Result<(), RDKafkaErrorCode>, BrokerError> {
    match results.into_iter().next() {
        Some(Ok(_)) => Ok(Ok(())),
        Some(Err((_, code))) => Ok(Err(code)),
        None => Err(BrokerError::Unavailable(format!("{doing}: no answer"))),
    }
}

/// With three copies one may be missing; with fewer there is none to spare.
pub(crate) fn min_in_sync_of(replication: usize) -> usize {
    if replication >= REPLICATION_WANTED {
        2
    } else {
        1
    }
}

/// What makes a topic unfit to hold progress.
pub(crate) fn progress_topic_problems(
    topic: &TopicDescription,
    settings: &TopicSettings,
) -> Vec<String> {
    let mut problems = Vec::new();
    if topic.partitions.len() != 1 {
        problems.push(format!(
            "it has {} partitions and must have 1",
            topic.partitions.len()
        ));
    }
    let policy = settings.text("cleanup.policy");
    if policy != "compact" {
        problems.push(format!(
            "cleanup.policy is {policy:?} and must be \"compact\": progress would be deleted by age"
        ));
    }
    problems.extend(loss_problems(topic, settings));
    problems
}

/// Settings under which Kafka may lose what it has confirmed.
pub(crate) fn loss_problems(topic: &TopicDescription, settings: &TopicSettings) -> Vec<String> {
    let mut problems = Vec::new();
    if settings.text("unclean.leader.election.enable") != "false" {
        problems.push("unclean.leader.election.enable must be false".to_owned());
    }
    let replication = topic
        .partitions
        .iter()
        .map(|partition| partition.replica_count)
        .min()
        .unwrap_or(0);
    let wanted = min_in_sync_of(replication);
    let min_in_sync = settings.number("min.insync.replicas").unwrap_or(0);
    if usize::try_from(min_in_sync).unwrap_or(0) < wanted {
        problems.push(format!(
            "min.insync.replicas is {min_in_sync} and must be at least {wanted} with {replication} \
             replicas"
        ));
    }
    problems
}

/// Waits for an admin call. Its answers come by a thread of the client, so no runtime is needed.
fn wait<T>(call: impl Future<Output = T>) -> Result<T, BrokerError> {
    tokio::runtime::Handle::try_current()
        .map(|handle| handle.block_on(call))
        .map_err(|_| BrokerError::Unavailable("no async runtime".into()))
}
