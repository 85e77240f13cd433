//! The brokers of `./dev up`: Apache Kafka from Maven Central, else its docker image.

use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use onceward_testkit::kafka::{
    Cluster, ClusterOptions, Distribution, Kafka, KafkaOptions, VERSION,
};

use crate::Result;
use crate::layout::{Data, Ports, kafka_names};
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

/// Numbers of brokers that can be started: three keep copies of each other's data, two could not spare
/// any.
pub const BROKERS: [u16; 2] = [1, 3];

/// Fails if the folder holds the data of another number of brokers: its topics have as many copies.
pub fn fits(data: &Data, brokers: u16) -> Result<()> {
    let others = BROKERS.into_iter().filter(|number| *number != brokers);
    for number in others {
        let mut names = kafka_names(number).into_iter();
        if names.any(|name| data.kafka(&name).join("data").exists()) {
            bail!(
                "{} holds a Kafka of {number} broker{}: start with --brokers {number}, or anew with --fresh, or elsewhere with --data DIR",
                data.folder().display(),
                if number == 1 { "" } else { "s" },
            );
        }
    }
    Ok(())
}

/// Prepares Kafka's data and gives the processes to supervise, one per broker. Blocks, on the first
/// time for a download.
pub fn specs(
    data: &Data,
    ports: Ports,
    brokers: u16,
    restart_after: Duration,
) -> Result<Vec<Spec>> {
    let ports = ports.kafka(brokers);
    let names = kafka_names(brokers);
    let prepared = match (brokers, ports.as_slice()) {
        (1, [(port, controller_port)]) => Kafka::prepare(KafkaOptions {
            data_dir: Some(data.kafka(&names[0])),
            port: Some(*port),
            controller_port: Some(*controller_port),
            long_lived: true,
            ..KafkaOptions::default()
        })
        .map(|kafka| vec![kafka]),
        _ => Cluster::prepare(ClusterOptions {
            data_dir: Some(data.folder().to_owned()),
            ports: ports.clone(),
            brokers,
            long_lived: true,
            ..ClusterOptions::default()
        })
        .map(Cluster::into_nodes),
    };
    let named = |nodes: Vec<Kafka>| {
        let nodes = names.iter().zip(nodes);
        nodes
            .map(|(name, kafka)| Spec::new(name, move || kafka.command()))
            .collect()
    };
    let mut specs: Vec<Spec> = match (prepared, ports.as_slice()) {
        (Ok(nodes), _) => named(nodes),
        (Err(error), [(port, _)]) if docker_works() => {
            vec![in_docker(data, *port).context(error)?]
        }
        (Err(error), _) => return Err(error),
    };
    for (spec, (port, _)) in specs.iter_mut().zip(ports) {
        spec.port = Some(port);
        spec.ready = Ready::Kafka(format!("127.0.0.1:{port}"));
        spec.restart_after = restart_after;
        spec.stop_at_most = Duration::from_secs(30);
        // All at once: the last broker can't leave in order once the controllers of the others are gone.
        spec.stop_rank = 2;
    }
    Ok(specs)
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
fn in_docker(data: &Data, port: u16) -> Result<Spec> {
    let name = format!("onceward-kafka-{port}");
    // Tells the number of brokers, see `fits`.
    std::fs::create_dir_all(data.kafka("kafka").join("data"))?;
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
        "SOCKET_RECEIVE_BUFFER_BYTES=1048576".to_owned(),
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
