//! What a cell has for itself, where its fault would spoil what the others share.

use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::Context;
use onceward_testkit::cutter::Cutter;
use onceward_testkit::disk::SmallDisk;
use onceward_testkit::kafka::{Cluster, Kafka, KafkaOptions};
use onceward_testkit::postgres::{Postgres, PostgresOptions};

use crate::Result;
use crate::database::Kind;
use crate::stage::Stage;

/// Big enough for an empty server of Postgres, small enough to be filled at once.
const DATABASE_MIB: u32 = 192;
const KAFKA_MIB: u32 = 96;

/// On what a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum World {
    /// The broker and the server of all cells.
    Shared,
    /// Three brokers, each partition three times.
    ThreeBrokers,
    /// A database on a disk of its own that can be filled.
    DatabaseDisk,
    /// A broker on such a disk.
    KafkaDisk,
    /// A server of Postgres with a standby, reached by an address that can move.
    Standby,
}

/// What was started for it; ends when it is dropped.
#[derive(Debug, Default)]
pub struct Own {
    /// Three brokers.
    pub cluster: Option<Cluster>,
    /// One.
    pub kafka: Option<Kafka>,
    /// The server.
    pub postgres: Option<Postgres>,
    /// The server that follows it.
    pub standby: Option<Postgres>,
    /// The address that can move.
    pub address: Option<Cutter>,
    // Last, when nobody uses it any more.
    /// The disk.
    pub disk: Option<SmallDisk>,
}

impl Own {
    /// Starts what this world needs.
    ///
    /// `logs` is a folder for what they tell.
    pub fn make(world: World, database: Kind, logs: &Path) -> Result<Self> {
        let mut own = Self::default();
        match world {
            World::Shared => {}
            World::ThreeBrokers => own.cluster = Some(Cluster::start()?),
            World::KafkaDisk => {
                let disk = own.disk.insert(SmallDisk::mount(KAFKA_MIB)?);
                let folder = logs.join("kafka");
                std::fs::create_dir(&folder)?;
                symlink(disk.path(), folder.join("data"))?;
                own.kafka = Some(Kafka::start_with(KafkaOptions {
                    data_dir: Some(folder),
                    ..KafkaOptions::default()
                })?);
            }
            World::DatabaseDisk => {
                let disk = own.disk.insert(SmallDisk::mount(DATABASE_MIB)?);
                if database == Kind::Postgres {
                    own.postgres = Some(Postgres::start_with(PostgresOptions {
                        data_dir: Some(disk.path().join("postgres")),
                        settings: [("min_wal_size", "32MB"), ("max_wal_size", "48MB")]
                            .map(|(name, value)| (name.to_owned(), value.to_owned()))
                            .into(),
                        ..PostgresOptions::default()
                    })?);
                }
            }
            World::Standby => {
                let server = own.postgres.insert(Postgres::start()?);
                own.address = Some(Cutter::start(&server.url("postgres"))?);
                own.standby = Some(server.base_backup(true)?);
            }
        }
        Ok(own)
    }

    /// Where its Kafka is: its own, or the one that all share.
    pub fn bootstrap(&self, stage: &Stage) -> String {
        match (&self.cluster, &self.kafka) {
            (Some(cluster), _) => cluster.bootstrap(),
            (None, Some(kafka)) => kafka.bootstrap(),
            (None, None) => stage.kafka.kafka.bootstrap(),
        }
    }

    /// A fresh database of its own server, if it has one.
    pub fn create_database(&self) -> Result<Option<String>> {
        let Some(server) = &self.postgres else {
            return Ok(None);
        };
        let url = server.create_database()?;
        Ok(Some(match &self.address {
            Some(address) => address.url(&url),
            None => url,
        }))
    }

    /// The disk.
    pub fn disk(&self) -> Result<&SmallDisk> {
        self.disk.as_ref().context("no disk of its own")
    }

    /// The three brokers.
    pub fn cluster(&mut self) -> Result<&mut Cluster> {
        self.cluster.as_mut().context("no cluster of its own")
    }

    /// One of them.
    pub fn broker(&mut self, number: usize) -> Result<&mut Kafka> {
        let broker = self.cluster()?.nodes().get_mut(number);
        broker.context("no such broker")
    }

    /// The only broker.
    pub fn kafka(&mut self) -> Result<&mut Kafka> {
        self.kafka.as_mut().context("no broker of its own")
    }

    /// The server and its standby.
    pub fn servers(&mut self) -> Result<(&mut Postgres, &mut Postgres)> {
        let both = self.postgres.as_mut().zip(self.standby.as_mut());
        both.context("no standby of its own")
    }
}
