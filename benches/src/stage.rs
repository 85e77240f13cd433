//! What everything runs on: one Kafka, one Postgres, a folder.

use anyhow::{Context, Result};
use onceward_testkit::kafka::{Kafka, KafkaOptions};
use onceward_testkit::machine;
use onceward_testkit::postgres::{Postgres, PostgresOptions};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use sqlx::{Connection, PgConnection};

use crate::cli::Options;
use crate::debezium;
use crate::programs::{Served, program};
use crate::relay::Whose;

/// Partitions of a topic where they aren't what varies.
pub(crate) const PARTITIONS: i32 = 3;

/// Settings of the Postgres under test beside those of the test kit.
const POSTGRES_SETTINGS: [(&str, &str); 4] = [
    ("shared_buffers", "512MB"),
    ("max_wal_size", "4GB"),
    ("checkpoint_timeout", "30min"),
    ("autovacuum", "on"),
];
/// Heap of the broker under test.
pub(crate) const KAFKA_HEAP_MIB: u32 = 1024;

pub(crate) struct Stage {
    pub(crate) kafka: Kafka,
    pub(crate) postgres: Postgres,
    pub(crate) folder: tempfile::TempDir,
    relay_args: Vec<String>,
    made: u32,
}

/// CPU seconds of all that takes part, at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) relay: f64,
    pub(crate) database: f64,
    pub(crate) broker: f64,
    /// This program: writers and readers, without the programs it started.
    pub(crate) bench: f64,
}

impl Cpu {
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            relay: self.relay - earlier.relay,
            database: self.database - earlier.database,
            broker: self.broker - earlier.broker,
            bench: self.bench - earlier.bench,
        }
    }
}

/// A broker as all cases have it.
pub(crate) fn start_kafka() -> Result<Kafka> {
    start_kafka_with(&[])
}

fn start_kafka_with(properties: &[(&str, &str)]) -> Result<Kafka> {
    Kafka::start_with(KafkaOptions {
        heap_mib: KAFKA_HEAP_MIB,
        long_lived: true,
        properties: own(properties),
        ..KafkaOptions::default()
    })
}

fn own(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    settings.iter().map(own).collect()
}

/// Settings of the Postgres of this call.
pub(crate) fn postgres_settings(against: Option<Whose>) -> Vec<(&'static str, &'static str)> {
    let mut settings = POSTGRES_SETTINGS.to_vec();
    if against == Some(Whose::Debezium) {
        settings.extend(debezium::POSTGRES_SETTINGS);
    }
    settings
}

impl Stage {
    pub(crate) fn set(options: &Options) -> Result<Self> {
        println!("starting Kafka and Postgres");
        let kafka = match options.against {
            Some(Whose::Debezium) => {
                debezium::jars()?;
                start_kafka_with(&debezium::KAFKA_SETTINGS)?
            }
            _ => start_kafka()?,
        };
        let postgres = Postgres::start_with(PostgresOptions {
            settings: own(&postgres_settings(options.against)),
            ..PostgresOptions::default()
        })?;
        let words = options.relay_args.split_whitespace();
        Ok(Self {
            kafka,
            postgres,
            folder: tempfile::Builder::new()
                .prefix("onceward-bench-")
                .tempdir()?,
            relay_args: words.map(str::to_owned).collect(),
            made: 0,
        })
    }

    pub(crate) async fn postgres_version(&self) -> Result<String> {
        let mut conn = PgConnection::connect(&self.postgres.url("postgres")).await?;
        let version = sqlx::query_scalar("show server_version")
            .fetch_one(&mut conn)
            .await?;
        conn.close().await?;
        Ok(version)
    }

    /// A name that was not used before.
    pub(crate) fn name(&mut self, what: &str) -> String {
        self.made += 1;
        format!("{what}-{}", self.made)
    }

    pub(crate) async fn make_topic(&self, name: &str, partitions: i32) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", self.kafka.bootstrap())
            .create()?;
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let made = admin.create_topics([&topic], &AdminOptions::new()).await?;
        for outcome in made {
            outcome.map_err(|(topic, code)| anyhow::anyhow!("topic {topic}: {code}"))?;
        }
        Ok(())
    }

    pub(crate) async fn delete_topic(&self, name: &str) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", self.kafka.bootstrap())
            .create()?;
        admin.delete_topics(&[name], &AdminOptions::new()).await?;
        Ok(())
    }

    /// Starts a relay of these sources, `NAME=URL` each. It is not waited for.
    pub(crate) fn relay(&self, sources: &[String]) -> Result<Served> {
        self.relay_with(&self.kafka, sources, &[])
    }

    /// The same at another Kafka.
    pub(crate) fn relay_at(&self, kafka: &Kafka, sources: &[String]) -> Result<Served> {
        self.relay_with(kafka, sources, &[])
    }

    /// The same with more arguments.
    pub(crate) fn relay_with(
        &self,
        kafka: &Kafka,
        sources: &[String],
        arguments: &[String],
    ) -> Result<Served> {
        let mut command = program("outbox-relay")?;
        // One that is started again has the name of the one that was killed.
        command.args(["run", "--instance-id", "bench"]);
        command.args(["--kafka", &kafka.bootstrap()]);
        for source in sources {
            command.args(["--source", source]);
        }
        command.args(&self.relay_args).args(arguments);
        Served::start("outbox-relay", command, "--http", self.folder.path())
    }

    /// Kafka's process.
    pub(crate) fn broker(&self) -> Result<u32> {
        pid_of(&self.kafka)
    }

    pub(crate) fn cpu(&self, relay: u32) -> Result<Cpu> {
        Ok(Cpu {
            relay: machine::cpu_seconds(relay)?,
            database: machine::cpu_seconds(self.postgres.pid().context("Postgres does not run")?)?,
            broker: machine::cpu_seconds(self.broker()?)?,
            bench: machine::own_cpu_seconds(std::process::id())?,
        })
    }
}

/// A broker's process.
pub(crate) fn pid_of(broker: &Kafka) -> Result<u32> {
    broker.pid().context("Kafka does not run")
}
