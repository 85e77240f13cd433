//! A Kafka cluster as the relay uses it: topics, progress, publishers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use onceward::SourceName;
use onceward::publisher::{Broker, BrokerError, CommittedProgress, TopicInfo};

use crate::KafkaConfig;
use crate::admin::{Admin, TopicMade};
use crate::check::{Finding, check};
use crate::choice::{KafkaPublisher, PublisherOptions};
use crate::fault::config_error;
use crate::progress::{Upto, read};
use crate::topics::{TopicChange, WantedTopic};

/// A Kafka cluster, for the relay. Cheap to clone; connects when first used, and anew after trouble.
#[derive(Clone)]
pub struct KafkaBroker {
    config: Arc<KafkaConfig>,
    options: PublisherOptions,
    admin: Arc<Mutex<Option<Admin>>>,
}

impl std::fmt::Debug for KafkaBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaBroker")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl KafkaBroker {
    /// A cluster reached as `config` says. Fails if that is not valid; does not connect.
    pub fn new(config: KafkaConfig) -> Result<Self, crate::ConfigProblems> {
        config.validate()?;
        Ok(Self {
            config: Arc::new(config),
            options: PublisherOptions::default(),
            admin: Arc::default(),
        })
    }

    /// The same with publishers made like this.
    #[must_use]
    pub fn with_publisher(mut self, options: PublisherOptions) -> Self {
        self.options = options;
        self
    }

    /// How the cluster is reached.
    pub fn config(&self) -> &KafkaConfig {
        &self.config
    }

    /// Kafka's id of the cluster.
    pub async fn cluster_id(&self) -> Result<String, BrokerError> {
        self.admin(|admin| admin.cluster_id()).await
    }

    /// Kafka's ids of the named topics, base64 as Kafka's tools print them; a topic that does not
    /// exist is left out. A topic deleted and made anew has another id.
    pub async fn topic_ids(
        &self,
        names: Vec<String>,
    ) -> Result<BTreeMap<String, String>, BrokerError> {
        self.admin(move |admin| {
            let topics = admin.describe(&names)?;
            Ok(topics
                .into_iter()
                .map(|(name, topic)| (name, topic.id))
                .collect())
        })
        .await
    }

    /// The copies that a new topic should have: three, or as many as there are brokers at the moment.
    pub async fn copies_wanted(&self) -> Result<i32, BrokerError> {
        let copies = self.admin(Admin::copies_wanted).await?;
        Ok(i32::try_from(copies).unwrap_or(i32::MAX))
    }

    /// Makes the data topics among `names` that are missing, with this many partitions and copies;
    /// those that exist are left as they are, whatever their settings. Tells what became of each. May
    /// be repeated.
    ///
    /// # Errors
    /// [`BrokerError`]: Kafka is not reachable, or refuses (a missing right is named).
    pub async fn make_topics(
        &self,
        names: impl IntoIterator<Item = impl Into<String>>,
        partition_count: i32,
        replication: i32,
    ) -> Result<BTreeMap<String, TopicMade>, BrokerError> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        self.admin(move |admin| admin.make_topics(&names, partition_count, replication))
            .await
    }

    /// What must change so that these topics are as they are wanted; nothing if they are. Changes
    /// nothing. More partitions move keys, so a keyed topic may grow only if it is among the `drained`:
    /// its writers wait, and all of it is published and read.
    ///
    /// # Errors
    /// [`BrokerError`]: Kafka is not reachable, or refuses (a missing right is named).
    pub async fn plan_topics(
        &self,
        wanted: Vec<WantedTopic>,
        drained: Vec<String>,
    ) -> Result<Vec<TopicChange>, BrokerError> {
        self.admin(move |admin| admin.plan_topics(&wanted, &drained))
            .await
    }

    /// Carries out what [`Self::plan_topics`] told; what it refused is passed over. An error leaves the
    /// changes before it done: plan and apply again.
    ///
    /// # Errors
    /// As [`Self::plan_topics`].
    pub async fn apply_topics(&self, changes: Vec<TopicChange>) -> Result<(), BrokerError> {
        self.admin(move |admin| admin.apply_topics(&changes)).await
    }

    /// Holds the cluster, the sources' progress topics and the data topics against what exactly-once
    /// needs of them. Changes nothing. An unreachable cluster is a finding as well.
    pub async fn check(&self, sources: Vec<SourceName>, data_topics: Vec<String>) -> Vec<Finding> {
        let findings = self
            .admin(move |admin| Ok(check(admin, &sources, &data_topics)))
            .await;
        findings.unwrap_or_else(|error| vec![Finding::error("Kafka", error.to_string())])
    }

    /// Runs a blocking call of the admin client off the async threads. The client is kept, and made
    /// anew after trouble, so that changed secrets are read again.
    pub(crate) async fn admin<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Admin) -> Result<T, BrokerError> + Send + 'static,
    ) -> Result<T, BrokerError> {
        let this = self.clone();
        blocking(move || {
            let kept = this
                .admin
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            let admin = match kept {
                Some(admin) => admin,
                None => Admin::connect(&this.config)?,
            };
            let answer = ask(&admin);
            if answer.is_ok() {
                *this.admin.lock().unwrap_or_else(PoisonError::into_inner) = Some(admin);
            }
            answer
        })
        .await
    }

    async fn read(
        &self,
        source: &SourceName,
        from_offset: Option<i64>,
        upto: Upto,
    ) -> Result<CommittedProgress, BrokerError> {
        let topic = source.progress_topic();
        let names = vec![topic.clone()];
        let place = self.admin(move |admin| {
            let topic_id = admin.describe(&names)?.remove(&topic).map(|found| found.id);
            let missing = || BrokerError::Configuration(format!("topic {topic} does not exist"));
            Ok((topic_id.ok_or_else(missing)?, admin.cluster_id()?))
        });
        let config = self.config.clone();
        let source = source.clone();
        // Side by side, as each connects anew after trouble. A topic made anew meanwhile shows in either.
        let reading = blocking(move || {
            let client = config
                .client_config()
                .map_err(|problems| config_error(&problems))?;
            read(&client, &source, from_offset, upto)
        });
        let (topic_id, cluster_id) = place.await?;
        let record = reading.await?;
        Ok(CommittedProgress {
            record,
            topic_id,
            cluster_id,
        })
    }
}

impl Broker for KafkaBroker {
    type Publisher = KafkaPublisher;

    async fn ensure_progress_topic(&self, source: &SourceName) -> Result<(), BrokerError> {
        let topic = source.progress_topic();
        self.admin(move |admin| admin.ensure_progress_topic(&topic))
            .await
    }

    async fn read_progress(
        &self,
        source: &SourceName,
        from_offset: Option<i64>,
    ) -> Result<CommittedProgress, BrokerError> {
        self.read(source, from_offset, Upto::HighWatermark).await
    }

    async fn look(
        &self,
        source: &SourceName,
        from_offset: Option<i64>,
    ) -> Result<CommittedProgress, BrokerError> {
        self.read(source, from_offset, Upto::LastStable).await
    }

    async fn open(&self, source: &SourceName) -> Result<KafkaPublisher, BrokerError> {
        KafkaPublisher::open(&self.config, self.options, source).await
    }

    async fn topics(&self, names: Vec<String>) -> Result<BTreeMap<String, TopicInfo>, BrokerError> {
        self.admin(move |admin| {
            let topics = admin.describe(&names)?;
            Ok(topics
                .into_iter()
                .map(|(name, topic)| {
                    let partition_count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
                    (name, TopicInfo { partition_count })
                })
                .collect())
        })
        .await
    }
}

/// Off the async threads, on a thread of its own: a dead broker keeps a call waiting for 10 s and
/// more, and a runtime's end would wait for its own blocking threads, so that no program with a relay
/// inside could stop quickly. It begins at once, not when its answer is first waited for.
pub(crate) fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, BrokerError> + Send + 'static,
) -> impl Future<Output = Result<T, BrokerError>> + Send {
    let runtime = tokio::runtime::Handle::current();
    let (answer, answered) = tokio::sync::oneshot::channel();
    let started = std::thread::Builder::new()
        .name("kafka call".to_owned())
        .spawn(move || {
            let _entered = runtime.enter();
            // Nobody may wait any more.
            let _ = answer.send(call());
        })
        .map_err(|error| BrokerError::Unavailable(format!("starting a thread: {error}")));
    async move {
        started?;
        answered
            .await
            .unwrap_or_else(|_| Err(BrokerError::Unavailable("the call ended".into())))
    }
}
