//! What all cells share: one Kafka with a proxy before it, one Postgres, a folder.

use std::time::Duration;

use anyhow::{Context, anyhow};
use onceward_testkit::cutter::Cutter;
use onceward_testkit::postgres::{Postgres, PostgresOptions};
use onceward_testkit::proxy::ProxiedKafka;
use onceward_testkit::wait;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use sqlx::{Connection, PgConnection};
use tokio::runtime::Runtime;

use crate::Result;
use crate::rig::PATIENCE;

/// Partitions of every topic.
pub const PARTITIONS: i32 = 3;

/// Everything that outlives a cell.
#[derive(Debug)]
pub struct Stage {
    /// The broker; who wants its faults goes through the proxy.
    pub kafka: ProxiedKafka,
    /// The server, started by the first cell that needs it.
    postgres: Option<Postgres>,
    cutter: Option<Cutter>,
    /// Runs what is asynchronous.
    pub runtime: Runtime,
    /// Databases and logs.
    pub folder: tempfile::TempDir,
    made: u32,
}

impl Stage {
    /// Starts Kafka.
    pub fn set() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        Ok(Self {
            kafka: ProxiedKafka::start()?,
            postgres: None,
            cutter: None,
            runtime,
            folder: tempfile::Builder::new()
                .prefix("onceward-faults-")
                .tempdir()?,
            made: 0,
        })
    }

    /// The server.
    pub fn postgres(&mut self) -> Result<&mut Postgres> {
        if self.postgres.is_none() {
            // For what faults prepare, and for the many that one opens at once.
            let settings = [
                ("max_prepared_transactions", "10"),
                ("max_connections", "400"),
                // What was rolled back is not durable until somebody commits.
                ("wal_writer_delay", "10s"),
            ];
            let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let settings = settings.to_vec();
            self.postgres = Some(Postgres::start_with(PostgresOptions {
                settings,
                ..PostgresOptions::default()
            })?);
        }
        self.postgres.as_mut().context("Postgres was just started")
    }

    /// The proxy before the server, which cuts at COMMIT.
    pub fn cutter(&mut self) -> Result<Cutter> {
        if self.cutter.is_none() {
            let url = self.postgres()?.url("postgres");
            self.cutter = Some(Cutter::start(&url)?);
        }
        self.cutter.clone().context("the proxy was just started")
    }

    /// The server's version, if it was started.
    pub fn postgres_version(&self) -> Result<Option<String>> {
        let Some(server) = &self.postgres else {
            return Ok(None);
        };
        let url = server.url("postgres");
        self.runtime.block_on(async {
            let mut conn = PgConnection::connect(&url).await?;
            let version = sqlx::query_scalar("show server_version");
            Ok(Some(version.fetch_one(&mut conn).await?))
        })
    }

    /// Keeps databases and logs, Kafka's and Postgres's too, for who wants to know why; where they are.
    pub fn keep(&mut self) -> std::path::PathBuf {
        self.folder.disable_cleanup(true);
        let folder = self.folder.path();
        let mut logs = vec![self.kafka.kafka.folder().join("kafka.log")];
        logs.extend((self.postgres.iter()).map(|server| server.folder().join("postgres.log")));
        for log in logs {
            if let Some(name) = log.file_name() {
                // What is not there can't tell anything.
                let _ = std::fs::copy(&log, folder.join(name));
            }
        }
        folder.to_owned()
    }

    /// Brings back what a cell that failed may have left dead.
    pub fn mend(&mut self) -> Result<()> {
        self.kafka.proxy.disarm();
        let kafka = &mut self.kafka.kafka;
        if kafka.pid().is_none() {
            kafka.start_again()?;
        }
        let _ = kafka.resume();
        if let Some(postgres) = &mut self.postgres
            && postgres.pid().is_none()
        {
            postgres.start_again()?;
        }
        Ok(())
    }

    /// A name that was not used before on this stage.
    pub fn name(&mut self) -> String {
        self.made += 1;
        format!("faults-{}", self.made)
    }

    /// From now on the topic takes records up to so many bytes.
    pub fn limit_records(&self, topic: &str, bytes: &str) -> Result<()> {
        let limited = AlterConfig::new(ResourceSpecifier::Topic(topic));
        let limited = limited.set("max.message.bytes", bytes);
        let (admin, options) = (admin(&self.kafka.kafka.bootstrap())?, AdminOptions::new());
        let altered = self
            .runtime
            .block_on(admin.alter_configs([&limited], &options))?;
        for outcome in altered {
            outcome.map_err(|(_, code)| anyhow!("topic {topic}: {code}"))?;
        }
        Ok(())
    }

    /// Makes a topic with as many copies as the brokers give it by default.
    pub fn make_topic(&self, kafka: &str, name: &str) -> Result<()> {
        let admin = admin(kafka)?;
        let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(-1));
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
        let made = self
            .runtime
            .block_on(admin.create_topics([&topic], &options))?;
        for outcome in made {
            outcome.map_err(|(topic, code)| anyhow!("topic {topic}: {code}"))?;
        }
        Ok(())
    }

    /// Deletes a topic, and waits until nobody knows it any more.
    pub fn delete_topic(&self, kafka: &str, name: &str) -> Result<()> {
        let admin = admin(kafka)?;
        let deleted = admin.delete_topics(&[name], &AdminOptions::new());
        for outcome in self.runtime.block_on(deleted)? {
            outcome.map_err(|(topic, code)| anyhow!("topic {topic}: {code}"))?;
        }
        wait::until("the topic to be gone", PATIENCE, || {
            let all = admin.inner().fetch_metadata(None, PATIENCE)?;
            let is_there = all.topics().iter().any(|topic| topic.name() == name);
            Ok((!is_there).then_some(()))
        })
    }
}

/// Who makes and changes topics there.
pub fn admin(kafka: &str) -> Result<AdminClient<DefaultClientContext>> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", kafka)
        .create()?)
}
