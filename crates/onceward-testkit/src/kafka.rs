//! Apache Kafka as processes: fetched from Maven Central, formatted, started, killed, restarted; one
//! broker alone ([`Kafka`]) or several ([`Cluster`]).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use nix::sys::signal::Signal;

use crate::ports::Port;
use crate::process::{OwnFolder, Process, asked_or_own, tail};
use crate::{Result, wait};

mod cluster;
mod distribution;
mod metadata;

pub use cluster::{Cluster, ClusterOptions, Member};
use distribution::SHORT_LIVED;
pub use distribution::{Distribution, LOG4J, cache_folder};

/// The release that is tested against.
pub const VERSION: &str = "4.3.1";

const START_AT_MOST: Duration = Duration::from_secs(90);
const STOP_AT_MOST: Duration = Duration::from_secs(30);

/// How to start a broker; `Default` is what tests want.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// Where logs and configuration live, kept when the broker ends; `None` = a folder that is removed.
    pub data_dir: Option<PathBuf>,
    /// Port for clients; `None` takes a free one.
    pub port: Option<u16>,
    /// Port of the controller; `None` takes a free one.
    pub controller_port: Option<u16>,
    /// Its place in a cluster; `None` = it stands alone.
    pub member: Option<Member>,
    /// Java heap in MiB.
    pub heap_mib: u32,
    /// Whether it runs for minutes under load: then the optimizing compiler and the concurrent collector
    /// are worth the two or three seconds of CPU that they take while it starts.
    pub long_lived: bool,
    /// Lines of `server.properties` that are added to ours or replace them.
    pub properties: Vec<(String, String)>,
    /// More words for the tool that formats the data folder, such as `--add-scram`.
    pub format_arguments: Vec<String>,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            data_dir: None,
            port: None,
            controller_port: None,
            member: None,
            heap_mib: 512,
            long_lived: false,
            properties: Vec::new(),
            format_arguments: Vec::new(),
        }
    }
}

/// One broker with its controller.
#[derive(Debug)]
pub struct Kafka {
    distribution: Distribution,
    folder: PathBuf,
    port: u16,
    member: Option<Member>,
    heap_mib: u32,
    long_lived: bool,
    process: Option<Process>,
    // Dropped last: they keep the ports and remove the folder.
    _ports: Vec<Port>,
    _own: Option<OwnFolder>,
}

impl Kafka {
    /// Starts a broker on a free port of 127.0.0.1 with data that is removed at the end, and waits
    /// until it answers.
    pub fn start() -> Result<Self> {
        Self::start_with(KafkaOptions::default())
    }

    /// Starts a broker as described and waits until it answers. A data folder that has been formatted
    /// before is used as it is.
    pub fn start_with(options: KafkaOptions) -> Result<Self> {
        let mut kafka = Self::prepare(options)?;
        kafka.start_again()?;
        Ok(kafka)
    }

    /// Everything but the start: jars, configuration, formatted data folder.
    pub fn prepare(options: KafkaOptions) -> Result<Self> {
        let distribution = Distribution::find_or_fetch()?;
        let mut ports = Vec::new();
        let mut port_or_free = |wanted: Option<u16>| -> Result<u16> {
            match wanted {
                Some(port) => Ok(port),
                None => {
                    ports.push(Port::take()?);
                    Ok(ports.last().map_or(0, Port::number))
                }
            }
        };
        let port = port_or_free(options.port)?;
        let controller_port = port_or_free(options.controller_port)?;
        let (folder, own) = asked_or_own(options.data_dir.clone(), "onceward-kafka-")?;
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {folder:?}"))?;
        let folder = folder.canonicalize()?;
        write_configuration(&folder, port, controller_port, &options)?;
        let kafka = Self {
            distribution,
            folder,
            port,
            member: options.member,
            heap_mib: options.heap_mib,
            long_lived: options.long_lived,
            process: None,
            _ports: ports,
            _own: own,
        };
        kafka.format(&options.format_arguments)?;
        Ok(kafka)
    }

    /// The command that starts the broker as its data stand now, for a supervisor of its own: make a
    /// new one for each start.
    ///
    /// After a crash it first runs the controller alone until that has fenced the dead broker. Else
    /// the restarted node sees itself as leader by its old metadata, begins to write the markers of a
    /// transaction it died in, loses the leadership when the controller fences it, takes the
    /// partitions for deleted and forgets the markers: readers hang for good. The member of a cluster
    /// needs none of this, see [`Cluster`].
    pub fn command(&self) -> Command {
        let data = self.folder.join("data");
        let has_run = data.join("__cluster_metadata-0").exists();
        let ended_in_order = data.join(".kafka_cleanshutdown").exists();
        if self.member.is_some() || !has_run || ended_in_order {
            return self.node("server.properties");
        }
        const FENCE_THEN_START: &str = r#"
            log=$1 server=$2 controller=$3; shift 3
            "$@" "$controller" >"$log" 2>&1 &
            alone=$!
            trap 'kill -9 $alone 2>/dev/null; exit 143' TERM INT HUP
            for i in $(seq 150); do
                grep -q "Fencing broker" "$log" 2>/dev/null && break
                kill -0 $alone 2>/dev/null || break
                sleep 0.1
            done
            sleep 0.3 # until what it says is in its log
            kill $alone 2>/dev/null; wait $alone
            trap - TERM INT HUP
            exec "$@" "$server""#;
        let node = self.node("controller.properties");
        let mut command = Command::new("sh");
        command
            .args(["-c", FENCE_THEN_START, "kafka"])
            .arg(self.folder.join("fence.log"))
            .arg(self.folder.join("server.properties"))
            .arg(self.folder.join("controller.properties"))
            .arg(node.get_program())
            .args(node.get_args().take(node.get_args().len() - 1));
        command
    }

    /// The JVM with one of the two configurations, which is its last argument.
    fn node(&self, properties: &str) -> Command {
        let log_configuration = self.log_configuration();
        let mut options = vec![
            format!("-Xmx{}m", self.heap_mib),
            "-Djava.awt.headless=true".into(),
            format!("-Dlog4j2.configurationFile={}", log_configuration.display()),
        ];
        if !self.long_lived {
            options.extend(SHORT_LIVED.map(String::from));
        }
        let mut command = self.distribution.jvm(options);
        command.arg("kafka.Kafka").arg(self.folder.join(properties));
        command
    }

    /// The log4j2 configuration of the broker, fit for whatever runs beside it: all goes to stdout.
    pub fn log_configuration(&self) -> PathBuf {
        self.folder.join("log4j2.properties")
    }

    /// `127.0.0.1:port`, for clients.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The clients' port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its data, configuration and `kafka.log`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The broker's process id, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Whether it runs: a broker whose disk is full ends by itself.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// Kills the broker at once. The page cache stays: this is a process crash, not a power loss.
    pub fn kill9(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill9()?;
        }
        Ok(())
    }

    /// Freezes the broker: connections stay open, nothing is answered.
    pub fn pause(&self) -> Result<()> {
        self.running()?.pause()
    }

    /// Lets a frozen broker go on.
    pub fn resume(&self) -> Result<()> {
        self.running()?.resume()
    }

    /// Stops the broker in order.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.stop(Signal::SIGTERM, STOP_AT_MOST)?;
        }
        Ok(())
    }

    /// Starts the broker on the same ports and data after [`kill9`](Self::kill9) or
    /// [`stop`](Self::stop), and waits until it answers.
    pub fn start_again(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_ready()
    }

    /// Starts the process; the members of a cluster need each other to become ready.
    fn launch(&mut self) -> Result<()> {
        if self.process.is_some() {
            bail!("Kafka at {} runs already", self.bootstrap());
        }
        let process = Process::spawn("kafka", self.command(), &self.folder.join("kafka.log"))?;
        self.process = Some(process);
        Ok(())
    }

    fn wait_ready(&mut self) -> Result<()> {
        let address = self.bootstrap();
        let process = self.process.as_mut().context("Kafka does not run")?;
        wait::until("an answer of Kafka", START_AT_MOST, || {
            if !process.is_running() {
                bail!("Kafka ended while starting:\n{}", process.log_tail(15));
            }
            Ok(answers(&address).then_some(()))
        })
    }

    /// Stops in order and starts again.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start_again()
    }

    /// Runs one of Kafka's tools, e.g. `org.apache.kafka.tools.TopicCommand` with
    /// `["--bootstrap-server", …, "--list"]`, and gives its output; fails if the tool does.
    pub fn run_tool(&self, main_class: &str, arguments: &[&str]) -> Result<String> {
        let output = self
            .distribution
            .tool(main_class)
            .args(arguments)
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("{main_class} {arguments:?} failed:\n{text}{errors}");
        }
        Ok(text)
    }

    fn running(&self) -> Result<&Process> {
        self.process.as_ref().context("Kafka does not run")
    }

    /// Writes the cluster's identity into an empty data folder.
    fn format(&self, more: &[String]) -> Result<()> {
        if self.folder.join("data/meta.properties").exists() {
            return Ok(());
        }
        let cluster_id = match &self.member {
            Some(member) => member.cluster_id.clone(),
            None => cluster_id(),
        };
        let output = self
            .distribution
            .tool("kafka.tools.StorageTool")
            .args(["format", "--ignore-formatted", "-t", &cluster_id, "-c"])
            .arg(self.folder.join("server.properties"))
            .args(more)
            .output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            bail!(
                "formatting Kafka's data in {:?} failed:\n{}",
                self.folder,
                tail(&text, 10)
            );
        }
        Ok(())
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let _ = self.kill9();
    }
}

/// The one broker that the tests of this binary share; started on first use, gone with the binary.
/// Don't kill or pause it: take [`Kafka::start`] for that.
pub fn shared() -> Result<&'static Kafka> {
    static SHARED: OnceLock<std::result::Result<Kafka, String>> = OnceLock::new();
    SHARED
        .get_or_init(|| Kafka::start().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|error| anyhow!("{error}"))
}

/// Whether the broker at `address` answers and takes itself for one that may lead.
pub fn answers(address: &str) -> bool {
    let port = address
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok());
    metadata::brokers(address).is_ok_and(|brokers| {
        // A member that is not let in yet lists the others.
        brokers.iter().any(|broker| Some(broker.port) == port)
    })
}

/// What a broker is told beside ids, addresses and folders, for a Kafka of so many of them.
pub fn settings(brokers: u16) -> Vec<(&'static str, String)> {
    // Three copies outlive one broker, and two of them must have what is acknowledged.
    let copies = brokers.min(3).to_string();
    let min_in_sync = if brokers >= 3 { "2" } else { "1" };
    let all = [
        ("auto.create.topics.enable", "false"),
        ("unclean.leader.election.enable", "false"),
        ("default.replication.factor", &copies),
        ("min.insync.replicas", min_in_sync),
        ("offsets.topic.replication.factor", &copies),
        ("transaction.state.log.replication.factor", &copies),
        ("transaction.state.log.min.isr", min_in_sync),
        ("share.coordinator.state.topic.replication.factor", &copies),
        ("share.coordinator.state.topic.min.isr", min_in_sync),
        // 50 by default, each a folder of files: 4 start much faster.
        ("offsets.topic.num.partitions", "4"),
        ("transaction.state.log.num.partitions", "4"),
        ("group.initial.rebalance.delay.ms", "0"),
        // A killed producer's open transaction is aborted about when its own time-out says.
        (
            "transaction.abort.timed.out.transaction.cleanup.interval.ms",
            "1000",
        ),
        // 100 kB by default: a request of some megabytes then needs the broker's attention for each of
        // them, and a busy broker gives it late.
        ("socket.receive.buffer.bytes", "1048576"),
        // After kill -9 the broker waits for its former session to end: 4 s instead of 12.
        ("broker.session.timeout.ms", "2000"),
        ("broker.heartbeat.interval.ms", "500"),
    ];
    all.map(|(name, value)| (name, value.to_owned())).into()
}

fn write_configuration(
    folder: &Path,
    port: u16,
    controller_port: u16,
    options: &KafkaOptions,
) -> Result<()> {
    let member = options.member.as_ref();
    let id = member.map_or(1, |member| member.id).to_string();
    let brokers = member.map_or(1, |member| member.controller_ports.len());
    let settings = settings(u16::try_from(brokers)?);
    let listeners =
        format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}");
    let advertised = format!("PLAINTEXT://127.0.0.1:{port}");
    let voters = match member {
        Some(member) => member.voters(),
        None => format!("1@127.0.0.1:{controller_port}"),
    };
    let data = folder.join("data").display().to_string();
    let mut properties: Vec<(&str, &str)> = vec![
        ("process.roles", "broker,controller"),
        ("node.id", &id),
        ("controller.quorum.voters", &voters),
        ("listeners", &listeners),
        ("advertised.listeners", &advertised),
        ("controller.listener.names", "CONTROLLER"),
        ("inter.broker.listener.name", "PLAINTEXT"),
        (
            "listener.security.protocol.map",
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        ),
        ("log.dirs", &data),
    ];
    properties.extend(settings.iter().map(|(name, value)| (*name, value.as_str())));
    for (name, value) in &options.properties {
        properties.retain(|(known, _)| known != name);
        properties.push((name, value));
    }
    let text: String = properties
        .iter()
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    std::fs::write(folder.join("server.properties"), text)?;
    // The same node without its broker, see `Kafka::command`.
    let controller_listener = format!("CONTROLLER://127.0.0.1:{controller_port}");
    for (name, value) in &mut properties {
        match *name {
            "process.roles" => *value = "controller",
            "listeners" => *value = &controller_listener,
            _ => {}
        }
    }
    let text: String = properties
        .iter()
        .filter(|(name, _)| !["advertised.listeners", "inter.broker.listener.name"].contains(name))
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    std::fs::write(folder.join("controller.properties"), text)?;
    std::fs::write(folder.join("log4j2.properties"), LOG_CONFIGURATION)?;
    Ok(())
}

const LOG_CONFIGURATION: &str = "\
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%d %p %m (%c{1})%n
rootLogger.level=INFO
rootLogger.appenderRef.out.ref=out
logger.state.name=state.change.logger
logger.state.level=WARN
logger.config.name=org.apache.kafka.common.config
logger.config.level=WARN
logger.kafkaconfig.name=kafka.server.KafkaConfig
logger.kafkaconfig.level=WARN
";

/// 16 random bytes in URL-safe base64, as Kafka writes its ids.
fn cluster_id() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = rand::random::<u128>();
    // 22 digits of 6 bits; the first is a letter (an id must not begin with a dash), the last holds
    // the 2 bits that are left, followed by zeros.
    let digit = |value: u128| char::from(ALPHABET[usize::try_from(value & 63).unwrap_or(0)]);
    let mut id: String = (0..21).map(|i| digit(bits >> (122 - 6 * i))).collect();
    id.push(digit((bits & 3) << 4));
    if id.starts_with('-') || id.starts_with('_') {
        id.replace_range(0..1, "K");
    }
    id
}
