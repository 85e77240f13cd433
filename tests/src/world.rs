//! Starts, kills and restarts the processes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use onceward_testkit::kafka::Cluster;
use onceward_testkit::ports::Port;
use onceward_testkit::postgres::{self, Postgres};
use onceward_testkit::process::Process;
use serde_json::json;
use sqlx::{Connection, PgConnection, SqliteConnection};

use crate::brokers::Brokers;
use crate::{Client, PATIENCE, Result, Secrets};

/// The services, in the order in which an order meets them.
pub const SERVICES: [&str; 9] = [
    "order",
    "customer",
    "inventory",
    "payment",
    "delivery",
    "shipping",
    "notification",
    "analytics",
    "saga-orchestrator",
];

/// The mail server that shows mails instead of delivering them.
const MAIL: &str = "mail-sink";
/// Its port that takes them.
const SMTP: &str = "smtp";

const STOP_AT_MOST: Duration = Duration::from_secs(10);

/// Where the services keep their rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    /// A file per service.
    Sqlite,
    /// A database per service on one server.
    Postgres,
}

/// What a test may set.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Payments that fail by chance, in percent.
    pub payment_fail_percent: u8,
    /// Deliveries that fail by chance, in percent.
    pub delivery_fail_percent: u8,
    /// How long the saga waits for a reply.
    pub deadline: Duration,
    /// Kafka's brokers: one, called `kafka`, or several, called `kafka-1`, `kafka-2` …
    pub brokers: u16,
    /// Port of the collector that spans are exported to.
    pub collector: Option<u16>,
    /// What is logged, as JSON; pretty lines of the usual otherwise.
    pub log_filter: Option<&'static str>,
    /// Kafka and Postgres by TLS, each process a user of its own with no more rights than
    /// docs/SECURITY.md gives it, and every secret in a file; see [`crate::Secrets`].
    pub secure: bool,
    /// Everything begins as the version whose binaries stand in the folder named by
    /// `ONCEWARD_OTHER_BINARIES`; see [`World::replace`].
    pub other_version: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            payment_fail_percent: 0,
            delivery_fail_percent: 0,
            // Longer than a test waits: no deadline ends what hangs.
            deadline: 2 * PATIENCE,
            brokers: 1,
            collector: None,
            log_filter: None,
            secure: false,
            other_version: false,
        }
    }
}

/// A running shop. Everything is killed and removed when it is dropped.
#[derive(Debug)]
pub struct World {
    processes: BTreeMap<&'static str, Process>,
    kafka: Brokers,
    databases: BTreeMap<&'static str, String>,
    ports: BTreeMap<&'static str, Port>,
    settings: Settings,
    /// Processes that run the other version.
    others: BTreeSet<&'static str>,
    secrets: Option<Secrets>,
    // Dropped last: the processes write into them.
    _postgres: Option<Postgres>,
    folder: tempfile::TempDir,
}

impl World {
    /// Starts everything and waits until every process is ready.
    pub async fn start(database: Database, settings: Settings) -> Result<Self> {
        let mut folder = tempfile::Builder::new()
            .prefix("onceward-world-")
            .tempdir()?;
        // For the person who wants to read the logs of a test that failed.
        if std::env::var_os("ONCEWARD_KEEP_WORLD").is_some() {
            folder.disable_cleanup(true);
            println!("kept: {}", folder.path().display());
        }
        let (kafka, secrets) = match settings.secure {
            true => {
                let (kafka, secrets) = Secrets::start(folder.path())?;
                (kafka, Some(secrets))
            }
            false => (Brokers::start(settings.brokers)?, None),
        };
        let postgres = match (database, &secrets) {
            (Database::Postgres, None) => Some(Postgres::start()?),
            _ => None,
        };
        let mut databases = BTreeMap::new();
        for service in SERVICES {
            let url = match (&postgres, &secrets) {
                (_, Some(secrets)) => secrets.postgres().url(service),
                (None, None) => format!(
                    "sqlite://{}",
                    folder.path().join(service).with_extension("db").display()
                ),
                (Some(server), None) => {
                    postgres::create_database(&server.url("postgres"), service)?;
                    server.url(service)
                }
            };
            databases.insert(service, url);
        }
        let mut ports = BTreeMap::new();
        for name in SERVICES.into_iter().chain(["relay", MAIL, SMTP]) {
            ports.insert(name, Port::take()?);
        }
        let mut world = Self {
            processes: BTreeMap::new(),
            kafka,
            databases,
            ports,
            settings,
            others: match settings.other_version {
                true => SERVICES.into_iter().chain(["relay"]).collect(),
                false => BTreeSet::new(),
            },
            secrets,
            _postgres: postgres,
            folder,
        };
        world.prepare()?;
        for name in SERVICES.into_iter().chain(["relay", MAIL]) {
            world.spawn(name)?;
        }
        for name in SERVICES.into_iter().chain(["relay", MAIL]) {
            world.wait_ready(name).await?;
        }
        Ok(world)
    }

    fn prepare(&self) -> Result<()> {
        if let Some(secrets) = &self.secrets {
            run(program("shop")?.arg("topics").envs(secrets.of("setup")))?;
            for service in SERVICES {
                let environment = secrets.of(service);
                run(program("shop")?
                    .args(["migrate", service])
                    .envs(environment))?;
            }
            return Ok(());
        }
        let topics = ["topics", "--kafka", &self.kafka.bootstrap()];
        run(self.program_of("order", "shop")?.args(topics))?;
        for (service, url) in &self.databases {
            run(self
                .program_of(service, "shop")?
                .args(["migrate", service, "--database", url]))?;
        }
        let sources: Vec<_> = self
            .databases
            .iter()
            .map(|(name, url)| json!({"name": name, "url": url}))
            .collect();
        let manifest = json!({
            "format": 1,
            "kafka": self.kafka.bootstrap(),
            "relay": self.url("relay"),
            "sources": sources,
            "processes": [],
        });
        std::fs::write(
            self.folder.path().join("onceward.json"),
            manifest.to_string(),
        )?;
        Ok(())
    }

    /// Starts a process that is not running; does not wait until it is ready.
    pub fn spawn(&mut self, name: &'static str) -> Result<()> {
        let listen = format!("127.0.0.1:{}", self.port(name)?);
        let smtp = format!("127.0.0.1:{}", self.port(SMTP)?);
        let mut command;
        if name == MAIL {
            command = program("shop")?;
            command.args([
                name, "--smtp", &smtp, "--listen", &listen, "--keep", "100000",
            ]);
            let process = Process::spawn(name, command, &self.log_file(name))?;
            self.processes.insert(name, process);
            return Ok(());
        }
        if name == "relay" {
            command = self.program_of(name, "outbox-relay")?;
            command.args(["run", "--http", &listen]);
            if self.secrets.is_none() {
                for (source, url) in &self.databases {
                    command.args(["--source", &format!("{source}={url}")]);
                }
            }
        } else {
            command = self.program_of(name, "shop")?;
            command.args([name, "--listen", &listen]);
            if self.secrets.is_none() {
                command.args(["--database", &self.databases[name]]);
            }
            match name {
                // Another version may not know it.
                "order" if !self.others.contains(name) => {
                    // A choreographed order has one deadline for all its services.
                    let deadline = 2 * self.settings.deadline.as_millis();
                    command.args(["--order-deadline-ms", &deadline.to_string()]);
                }
                "payment" => {
                    command.args([
                        "--fail-percent",
                        &self.settings.payment_fail_percent.to_string(),
                    ]);
                }
                "delivery" => {
                    command.args([
                        "--fail-percent",
                        &self.settings.delivery_fail_percent.to_string(),
                    ]);
                }
                // A secured one has it from a file.
                "notification" if self.secrets.is_none() => {
                    command.args(["--smtp", &format!("smtp://{smtp}")]);
                }
                "saga-orchestrator" => {
                    command.args([
                        "--deadline-ms",
                        &self.settings.deadline.as_millis().to_string(),
                    ]);
                    if self.settings.other_version && !self.others.contains(name) {
                        // As OPERATIONS.md says: the other version could not end such sagas.
                        command.args(["--validate", "false"]);
                    }
                }
                _ => {}
            }
        }
        match &self.secrets {
            Some(secrets) => command.envs(secrets.of(name)),
            None => command.args(["--kafka", &self.kafka.bootstrap()]),
        };
        match self.settings.log_filter {
            Some(filter) => command.args(["--log-format", "json", "--log-filter", filter]),
            // Another version may not know it.
            None if self.others.contains(name) => &mut command,
            None => command.args(["--log-format", "pretty"]),
        };
        if let Some(port) = self.settings.collector {
            command.args(["--otlp-endpoint", &format!("http://127.0.0.1:{port}")]);
            command.env("OTEL_BSP_SCHEDULE_DELAY", "200");
        }
        let process = Process::spawn(name, command, &self.log_file(name))?;
        self.processes.insert(name, process);
        Ok(())
    }

    /// The program that a process runs, in its version.
    fn program_of(&self, process: &str, name: &str) -> Result<Command> {
        if !self.others.contains(process) {
            return program(name);
        }
        let folder = std::env::var_os("ONCEWARD_OTHER_BINARIES")
            .context("ONCEWARD_OTHER_BINARIES is not set: run ./dev check upgrade REV")?;
        let other = Path::new(&folder).join(name);
        // A service that the other version does not have runs as this one's.
        if name == "shop" {
            let knows = Command::new(&other).args([process, "--help"]).output()?;
            if !knows.status.success() {
                return program(name);
            }
        }
        Ok(Command::new(other))
    }

    /// Runs SQL in a service's database, as somebody would by hand.
    pub async fn execute(&self, service: &str, sql: &'static str) -> Result<()> {
        let url = self.database(service);
        match url.starts_with("sqlite:") {
            true => {
                let mut conn = SqliteConnection::connect(url).await?;
                sqlx::raw_sql(sql).execute(&mut conn).await?;
                conn.close().await?;
            }
            false => {
                let mut conn = PgConnection::connect(url).await?;
                sqlx::raw_sql(sql).execute(&mut conn).await?;
                conn.close().await?;
            }
        }
        Ok(())
    }

    /// Restarts those who wait for replies; they do for this long from now on.
    pub async fn wait_for_replies(&mut self, deadline: Duration) -> Result<()> {
        self.settings.deadline = deadline;
        self.replace("order", false).await?;
        self.replace("saga-orchestrator", false).await
    }

    /// Brings every service's tables to this version, under whatever runs.
    pub fn migrate(&self) -> Result<()> {
        for (service, url) in &self.databases {
            run(program("shop")?.args(["migrate", service, "--database", url]))?;
        }
        Ok(())
    }

    /// Stops a process, and starts it again as the other version or as this one.
    pub async fn replace(&mut self, name: &'static str, other_version: bool) -> Result<()> {
        self.stop(name)?;
        match other_version {
            true => self.others.insert(name),
            false => self.others.remove(name),
        };
        self.spawn(name)?;
        self.wait_ready(name).await
    }

    /// Waits until `/readyz` says so.
    pub async fn wait_ready(&mut self, name: &'static str) -> Result<()> {
        let url = format!("{}/readyz", self.url(name));
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut last = String::from("no answer");
        while tokio::time::Instant::now() < deadline {
            let process = self.processes.get_mut(name).context("not started")?;
            if !process.is_running() {
                bail!("{name} ended:\n{}", process.log_tail(20));
            }
            match reqwest::get(&url).await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => last = answer.text().await.unwrap_or_default(),
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!(
            "{name} is not ready after {PATIENCE:?}: {last}\n{}",
            self.log_tail(name, 20)
        )
    }

    /// `kill -9`.
    pub fn kill9(&mut self, name: &'static str) -> Result<()> {
        if let Some(broker) = self.kafka.called(name) {
            return broker.kill9();
        }
        let mut process = self
            .processes
            .remove(name)
            .with_context(|| format!("{name} is not running"))?;
        process.kill9()?;
        Ok(())
    }

    /// `kill -9`, then a start, as a supervisor does it.
    pub fn kill9_and_restart(&mut self, name: &'static str) -> Result<()> {
        self.kill9(name)?;
        match self.kafka.called(name) {
            Some(broker) => broker.start_again(),
            None => self.spawn(name),
        }
    }

    /// SIGTERM, and an end within ten seconds.
    pub fn stop(&mut self, name: &'static str) -> Result<Duration> {
        let mut process = self
            .processes
            .remove(name)
            .with_context(|| format!("{name} is not running"))?;
        let start = std::time::Instant::now();
        let status = process.stop(Signal::SIGTERM, STOP_AT_MOST)?;
        ensure!(
            status.success(),
            "{name} ended with {status}:\n{}",
            process.log_tail(20)
        );
        Ok(start.elapsed())
    }

    /// Stops a broker in order, and starts it again.
    pub fn restart_broker(&mut self, name: &str) -> Result<()> {
        let broker = self.kafka.called(name);
        broker
            .with_context(|| format!("no broker {name}"))?
            .restart()
    }

    /// The brokers of a world that has several.
    pub fn cluster(&mut self) -> Result<&mut Cluster> {
        self.kafka.cluster()
    }

    /// What one of Kafka's tools says about this Kafka.
    pub fn run_kafka_tool(&mut self, main_class: &str, arguments: &[&str]) -> Result<String> {
        self.kafka.run_tool(main_class, arguments)
    }

    /// A client of the order service and its neighbours.
    pub fn client(&self) -> Client {
        Client::new(
            self.ports
                .iter()
                .map(|(name, port)| (*name, url(port.number())))
                .collect(),
        )
    }

    /// `onceward ARGUMENTS` on this shop: exit code, output, errors.
    pub fn onceward(&self, arguments: &[&str]) -> Result<(i32, String, String)> {
        let mut command = program("onceward")?;
        match &self.secrets {
            Some(secrets) => command.envs(secrets.of("onceward")),
            None => command.arg("--data").arg(self.folder.path()),
        };
        said(command.args(arguments))
    }

    /// Runs a program in the environment of this process, with more variables, to its end: exit code,
    /// output, errors. Only of a world whose processes find all in their environments.
    pub fn run_as(
        &self,
        process: &str,
        program_name: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<(i32, String, String)> {
        let secrets = self.secrets()?;
        let mut command = program(program_name)?;
        command.envs(secrets.of(process));
        for (name, value) in variables {
            match value.is_empty() {
                true => command.env_remove(name),
                false => command.env(name, value),
            };
        }
        said(command.args(arguments))
    }

    /// The secrets of a world that has some.
    pub fn secrets(&self) -> Result<&Secrets> {
        self.secrets.as_ref().context("this world has no secrets")
    }

    /// Fails unless `onceward verify` finds everything in order.
    pub fn verify(&self) -> Result<()> {
        let (code, out, err) = self.onceward(&["verify"])?;
        ensure!(
            code == 0,
            "onceward verify ended with {code}:\n{out}\n{err}"
        );
        Ok(())
    }

    /// The last lines of a process's log.
    pub fn log_tail(&self, name: &str, lines: usize) -> String {
        let text = std::fs::read_to_string(self.log_file(name)).unwrap_or_default();
        onceward_testkit::process::tail(&text, lines)
    }

    /// The whole log of a process.
    pub fn log(&self, name: &str) -> Result<String> {
        std::fs::read_to_string(self.log_file(name)).with_context(|| format!("log of {name}"))
    }

    /// URL of a service's database.
    pub fn database(&self, service: &str) -> &str {
        &self.databases[service]
    }

    /// Where its files are, and more of a test's may be.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn log_file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name).with_extension("log")
    }

    fn port(&self, name: &str) -> Result<u16> {
        Ok(self
            .ports
            .get(name)
            .with_context(|| format!("no process {name}"))?
            .number())
    }

    fn url(&self, name: &str) -> String {
        url(self.ports[name].number())
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// A binary of the workspace, built before the tests (`./dev test` does).
fn program(name: &str) -> Result<Command> {
    let test = std::env::current_exe()?;
    let folder = test
        .ancestors()
        .nth(2)
        .context("test binary stands in target/PROFILE/deps")?;
    let path: &Path = &folder.join(name);
    ensure!(
        path.exists(),
        "{} is missing: run `cargo build --bins` first",
        path.display()
    );
    Ok(Command::new(path))
}

fn said(command: &mut Command) -> Result<(i32, String, String)> {
    let output = command
        .output()
        .with_context(|| format!("running {:?}", command.get_program()))?;
    Ok((
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("running {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
