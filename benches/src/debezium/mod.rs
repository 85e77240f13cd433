//! Debezium beside our relay: its Postgres connector with the outbox router, in a distributed Kafka
//! Connect worker whose source connectors write in Kafka transactions.

mod config;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hyper::Method;
use onceward_testkit::kafka::{Distribution, Kafka};
use onceward_testkit::ports::Port;
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::programs::Served;
use crate::source::Source;

pub(crate) use config::{CONNECTOR, JVM, VERSION, WORKER};

const AT_MOST: Duration = Duration::from_secs(90);

/// Settings of Postgres that Debezium needs, and more memory for decoding than the default.
pub(crate) const POSTGRES_SETTINGS: [(&str, &str); 4] = [
    ("wal_level", "logical"),
    ("max_wal_senders", "30"),
    ("max_replication_slots", "30"),
    ("logical_decoding_work_mem", "256MB"),
];

/// Settings of the broker that make Debezium quicker.
pub(crate) const KAFKA_SETTINGS: [(&str, &str); 2] = [
    // Else a worker's session can't be shorter than 6 s.
    ("group.min.session.timeout.ms", "1000"),
    // Rows that come before the markers of the transaction before wait so long for them: 20 by default.
    ("add.partitions.to.txn.retry.backoff.ms", "1"),
];

/// Debezium's jars and Connect's, 41 MB; fetched once.
pub(crate) fn jars() -> Result<Distribution> {
    let artifacts = config::artifacts();
    let artifacts: Vec<&str> = artifacts.iter().map(String::as_str).collect();
    Distribution::find_or_fetch_of(&format!("debezium-{VERSION}"), &artifacts)
}

/// A worker with one connector a source.
pub(crate) struct Worker {
    pub(crate) served: Served,
    databases: Vec<Database>,
}

struct Database {
    name: String,
    url: String,
    postgres_port: u16,
}

impl Worker {
    /// Starts the JVM. The group, its topics and the connectors in them are named by the first source: a
    /// worker that is started again goes on where the one before was killed.
    pub(crate) fn start(
        kafka: &Kafka,
        postgres_port: u16,
        folder: &std::path::Path,
        sources: &[&Source],
    ) -> Result<Self> {
        let group = format!("connect-{}", sources.first().context("no source")?.name);
        let port = Port::take()?;
        let file = folder.join(&group).with_extension("properties");
        std::fs::write(
            &file,
            config::worker(&group, &kafka.bootstrap(), port.number()),
        )?;
        let mut command = jars()?.jvm(JVM);
        command
            .arg(format!(
                "-Dlog4j2.configurationFile={}",
                kafka.log_configuration().display()
            ))
            .arg("org.apache.kafka.connect.cli.ConnectDistributed")
            .arg(file);
        let database = |source: &&Source| Database {
            name: source.name.clone(),
            url: source.url.clone(),
            postgres_port,
        };
        Ok(Self {
            served: Served::start_on(port, "debezium", command, folder)?,
            databases: sources.iter().map(database).collect(),
        })
    }

    /// Waits until every connector streams; those that the worker does not know yet are made.
    pub(crate) async fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + AT_MOST;
        let mut waiting = None;
        loop {
            let error = match self.is_ready().await {
                Ok(true) => return Ok(()),
                Ok(false) => None,
                Err(error) => Some(error),
            };
            waiting = error.or(waiting);
            ensure!(
                self.served.process.is_running() && Instant::now() < deadline,
                "Debezium does not stream ({waiting:?}):\n{}",
                self.served.process.log_tail(40)
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn is_ready(&self) -> Result<bool> {
        let mut client = Client::connect(&self.served.address()).await?;
        let mut all = true;
        for database in &self.databases {
            let path = format!("/connectors/{}", database.name);
            let (status, answer) = client
                .ask(Method::GET, &format!("{path}/status"), Bytes::new())
                .await?;
            if status == 404 {
                let config = config::connector(&database.name, database.postgres_port)?;
                let (status, answer) = client
                    .ask(Method::PUT, &format!("{path}/config"), config.into())
                    .await?;
                // 409: the group has just changed.
                ensure!(
                    [200, 201, 409].contains(&status),
                    "the connector was refused: {status} {}",
                    String::from_utf8_lossy(&answer)
                );
                all = false;
            } else {
                all &= status == 200 && runs(&answer)? && database.is_streaming().await?;
            }
        }
        Ok(all)
    }

    /// Kills it, and drops what it has left in Postgres, which would keep the WAL for it.
    pub(crate) async fn end(mut self) -> Result<()> {
        self.served.process.kill9()?;
        for database in &self.databases {
            database.drop_slot().await?;
        }
        Ok(())
    }
}

/// Whether a connector's status says that its one task runs. Fails with what the task died of.
fn runs(status: &[u8]) -> Result<bool> {
    let status: Value = serde_json::from_slice(status)?;
    let task = status.pointer("/tasks/0").unwrap_or(&Value::Null);
    ensure!(
        task["state"] != "FAILED",
        "its task failed: {}",
        task["trace"].as_str().unwrap_or("without a reason")
    );
    Ok(task["state"] == "RUNNING")
}

impl Database {
    async fn is_streaming(&self) -> Result<bool> {
        let mut conn = PgConnection::connect(&self.url).await?;
        let active =
            "select exists (select from pg_replication_slots where slot_name = $1 and active)";
        let active = sqlx::query_scalar(active)
            .bind(config::slot(&self.name))
            .fetch_one(&mut conn)
            .await?;
        conn.close().await?;
        Ok(active)
    }

    async fn drop_slot(&self) -> Result<()> {
        let deadline = Instant::now() + AT_MOST;
        while self.is_streaming().await? {
            ensure!(Instant::now() < deadline, "{} is still in use", self.name);
            sleep(Duration::from_millis(20)).await;
        }
        let mut conn = PgConnection::connect(&self.url).await?;
        let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1";
        sqlx::query(drop)
            .bind(config::slot(&self.name))
            .execute(&mut conn)
            .await?;
        Ok(conn.close().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connector_runs_when_its_task_does_and_a_failed_task_says_why() -> Result<()> {
        assert!(!runs(br#"{"connector":{"state":"RUNNING"},"tasks":[]}"#)?);
        assert!(!runs(br#"{"tasks":[{"id":0,"state":"UNASSIGNED"}]}"#)?);
        assert!(runs(br#"{"tasks":[{"id":0,"state":"RUNNING"}]}"#)?);
        let failed = runs(br#"{"tasks":[{"id":0,"state":"FAILED","trace":"no slot"}]}"#);
        assert!(failed.is_err_and(|error| error.to_string().contains("no slot")));
        Ok(())
    }
}
