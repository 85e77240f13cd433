//! The broker of `./dev up`: Apache Kafka from Maven Central, else its docker image.

use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use onceward_testkit::kafka::{Distribution, Kafka, KafkaOptions, VERSION};

use crate::Result;
use crate::layout::{Data, Ports};
use crate::probe::Ready;
use crate::supervisor::Spec;

/// Fetches Kafka's jars, which may take a minute the first time: on a thread, so that the build goes on.
/// `None` if they are there. Fails at once if Java is missing and docker is, too.
pub fn fetch() -> Result<Option<JoinHandle<Result<()>>>> {
    let or_docker = |error| match docker_works() {
        true => Ok(()),
        false => Err(error),
    };
    match Distribution::find() {
        Ok(Some(_)) => Ok(None),
        Err(error) => or_docker(error).map(|()| None),
        Ok(None) => {
            println!("fetching Apache Kafka {VERSION} from Maven Central (54 MB, once)");
            let work = move || Distribution::find_or_fetch().map_or_else(or_docker, |_| Ok(()));
            Ok(Some(std::thread::spawn(work)))
        }
    }
}

/// Prepares Kafka's data and gives the process to supervise. Blocks, on the first time for a
/// download.
pub fn spec(data: &Data, ports: Ports, restart_after: Duration) -> Result<Spec> {
    let options = KafkaOptions {
        data_dir: Some(data.kafka()),
        port: Some(ports.kafka()),
        controller_port: Some(ports.kafka_controller()),
        ..KafkaOptions::default()
    };
    let mut spec = match Kafka::prepare(options) {
        Ok(kafka) => Spec::new("kafka", move || kafka.command()),
        Err(error) => {
            if !docker_works() {
                return Err(error);
            }
            in_docker(data, ports).context(error)?
        }
    };
    spec.port = Some(ports.kafka());
    spec.ready = Ready::Kafka(format!("127.0.0.1:{}", ports.kafka()));
    spec.restart_after = restart_after;
    spec.stop_at_most = Duration::from_secs(30);
    spec.stop_rank = 2;
    Ok(spec)
}

fn docker_works() -> bool {
    let quiet = |command: &mut Command| {
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    quiet(Command::new("docker").arg("info"))
}

/// The image runs as user 1000 and keeps its data in a named volume.
fn in_docker(data: &Data, ports: Ports) -> Result<Spec> {
    let port = ports.kafka();
    let name = format!("onceward-kafka-{port}");
    std::fs::create_dir_all(data.kafka())?;
    let settings = [
        "NODE_ID=1".to_owned(),
        "PROCESS_ROLES=broker,controller".to_owned(),
        "CONTROLLER_QUORUM_VOTERS=1@127.0.0.1:19093".to_owned(),
        format!("LISTENERS=PLAINTEXT://0.0.0.0:{port},CONTROLLER://127.0.0.1:19093"),
        format!("ADVERTISED_LISTENERS=PLAINTEXT://127.0.0.1:{port}"),
        "CONTROLLER_LISTENER_NAMES=CONTROLLER".to_owned(),
        "LISTENER_SECURITY_PROTOCOL_MAP=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned(),
        "LOG_DIRS=/var/lib/kafka/data".to_owned(),
        "AUTO_CREATE_TOPICS_ENABLE=false".to_owned(),
        "OFFSETS_TOPIC_REPLICATION_FACTOR=1".to_owned(),
        "TRANSACTION_STATE_LOG_REPLICATION_FACTOR=1".to_owned(),
        "TRANSACTION_STATE_LOG_MIN_ISR=1".to_owned(),
        "GROUP_INITIAL_REBALANCE_DELAY_MS=0".to_owned(),
        "TRANSACTION_ABORT_TIMED_OUT_TRANSACTION_CLEANUP_INTERVAL_MS=1000".to_owned(),
    ];
    Ok(Spec::new("kafka", move || {
        let mut command = Command::new("sh");
        // A container outlives a killed docker client, so a former one goes first.
        command.args([
            "-c",
            r#"docker rm -f "$0" >/dev/null 2>&1; exec docker run --rm "$@""#,
        ]);
        command.arg(&name).arg("--name").arg(&name);
        command.arg("-p").arg(format!("127.0.0.1:{port}:{port}"));
        command.arg("-v").arg(format!("{name}:/var/lib/kafka/data"));
        for setting in &settings {
            command.arg("-e").arg(format!("KAFKA_{setting}"));
        }
        command.arg(format!("apache/kafka:{VERSION}"));
        command
    }))
}
