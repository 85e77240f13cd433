//! `docker-compose.yml` and the `Dockerfile`: sound, and in step with what `./dev up` starts.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use onceward_testkit::Result;
use onceward_testkit::kafka::{VERSION, settings};
use serde_json::Value;
use xtask::image::compose::{Compose, value};
use xtask::image::dockerfile::{Dockerfile, Step};
use xtask::layout::{Ports, SERVICES, kafka_names, root};

const BROKERS: u16 = 3;
/// What of a broker's environment says who and where it is.
const ADDRESSES: [&str; 10] = [
    "CLUSTER_ID",
    "KAFKA_PROCESS_ROLES",
    "KAFKA_NODE_ID",
    "KAFKA_CONTROLLER_QUORUM_VOTERS",
    "KAFKA_LISTENERS",
    "KAFKA_ADVERTISED_LISTENERS",
    "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP",
    "KAFKA_INTER_BROKER_LISTENER_NAME",
    "KAFKA_CONTROLLER_LISTENER_NAMES",
    "KAFKA_LOG_DIRS",
];

#[test]
fn docker_compose_yml_keeps_to_the_compose_specification() -> Result<()> {
    let schema: Value = serde_json::from_str(include_str!("compose-spec/schema.json"))?;
    let schema = jsonschema::validator_for(&schema)?;
    let file = value()?;
    let wrong: Vec<String> = schema
        .iter_errors(&file)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");

    let mut misspelt = file.clone();
    misspelt["services"]["order"]["restrat"] = "always".into();
    assert!(!schema.is_valid(&misspelt), "the schema finds nothing");
    Ok(())
}

#[test]
fn its_brokers_are_those_of_dev_up() -> Result<()> {
    let compose = Compose::read()?;
    let wanted: BTreeMap<String, String> = settings(BROKERS)
        .into_iter()
        .map(|(name, value)| {
            (
                format!("KAFKA_{}", name.replace('.', "_").to_uppercase()),
                value,
            )
        })
        .collect();
    let names = kafka_names(BROKERS);
    let kafkas = compose
        .services
        .iter()
        .filter(|(_, service)| service.image.contains("kafka"));
    assert_eq!(
        kafkas.map(|(name, _)| name).collect::<Vec<_>>(),
        names.iter().collect::<Vec<_>>()
    );
    let readme = std::fs::read_to_string(root().join("README.md"))?;
    assert!(readme.contains(&format!("kafka-{VERSION}/libs/")));
    for (name, (port, _)) in names.iter().zip(Ports::new(0).kafka(BROKERS)) {
        let broker = &compose.services[name];
        assert_eq!(broker.image, format!("apache/kafka:{VERSION}"));
        assert_eq!(broker.port(), Some((port, 9092)), "{name}");
        let mut environment = broker.environment.clone();
        let outside = format!("INSIDE://{name}:19092,OUTSIDE://127.0.0.1:{port}");
        assert_eq!(environment["KAFKA_ADVERTISED_LISTENERS"], outside);
        environment.retain(|name, _| !ADDRESSES.contains(&name.as_str()));
        assert_eq!(environment, wanted, "{name}");
    }
    let ids = names
        .iter()
        .map(|name| compose.services[name].environment["KAFKA_NODE_ID"].as_str());
    assert_eq!(ids.collect::<Vec<_>>(), ["1", "2", "3"]);
    Ok(())
}

#[test]
fn its_services_and_two_relays_are_those_of_dev_up() -> Result<()> {
    let compose = Compose::read()?;
    let ports = Ports::new(0);
    let all: Vec<String> = kafka_names(BROKERS)
        .iter()
        .map(|name| format!("{name}:19092"))
        .collect();
    let bootstrap = all.join(",");
    let (relays, mut services): (BTreeMap<_, _>, BTreeMap<_, _>) =
        compose.ours().partition(|(name, _)| name.contains("relay"));
    let mail = services
        .remove(&"mail".to_owned())
        .context("no mail server")?;
    assert_eq!(mail.port(), Some((ports.mail(), ports.mail())));
    let smtp = &services[&"notification".to_owned()].environment["ONCEWARD_SMTP"];
    assert_eq!(*smtp, format!("smtp://mail:{}", ports.smtp()));

    let names: BTreeSet<&str> = SERVICES.iter().map(|service| service.name).collect();
    assert_eq!(
        services
            .keys()
            .map(|name| name.as_str())
            .collect::<BTreeSet<_>>(),
        names
    );
    for service in SERVICES {
        let (name, port) = (service.name, ports.service(service));
        let found = &services[&name.to_owned()];
        assert_eq!(found.port(), Some((port, port)), "{name}");
        let listen = format!("0.0.0.0:{port}");
        assert_eq!(found.command, ["shop", name, "--listen", &listen]);
        assert_eq!(found.environment["ONCEWARD_KAFKA"], bootstrap);
        assert!(found.environment["ONCEWARD_DATABASE"].ends_with(&format!("/{name}")));
    }

    assert_eq!(relays.len(), 2, "one takes over from the other");
    let published: Vec<_> = relays.values().map(|relay| relay.port()).collect();
    assert_eq!(
        published,
        [Some((ports.relay(), 9100)), Some((ports.relay() + 1, 9100))]
    );
    let ids: BTreeSet<_> = relays
        .values()
        .map(|relay| &relay.environment["ONCEWARD_INSTANCE_ID"])
        .collect();
    assert_eq!(
        ids.len(),
        2,
        "two living relays must not share an instance id"
    );
    for relay in relays.values() {
        let sources = relay.environment["ONCEWARD_SOURCES"].split(',');
        let sources = sources.filter_map(|source| source.split('=').next());
        assert_eq!(sources.collect::<BTreeSet<_>>(), names);
        assert_eq!(relay.environment["ONCEWARD_KAFKA"], bootstrap);
    }

    let setup = compose.services["setup"].command.join(" ");
    for name in names {
        assert!(
            setup.contains(&format!(" {name}")),
            "no tables for {name}: {setup}"
        );
        let databases = &compose.configs["databases"].content;
        assert!(databases.contains(name), "no database for {name}");
    }
    assert!(setup.contains("shop topics --replication 3"), "{setup}");
    Ok(())
}

#[test]
fn what_runs_on_is_watched_restarted_and_kept() -> Result<()> {
    let compose = Compose::read()?;
    let mut kept = BTreeSet::new();
    for (name, service) in &compose.services {
        kept.extend(
            service
                .volumes
                .iter()
                .filter_map(|volume| volume.split(':').next()),
        );
        for (other, dependency) in &service.depends_on {
            let healthy = compose.services[other].healthcheck.is_some();
            let sound = healthy == (dependency.condition == "service_healthy");
            assert!(
                sound,
                "{name} waits for {other} to be {}",
                dependency.condition
            );
        }
        for port in &service.ports {
            assert!(
                port.starts_with("127.0.0.1:"),
                "{name} is open to the world: {port}"
            );
        }
        if name == "setup" {
            assert_eq!(service.restart, "on-failure");
            assert_eq!(service.depends_on.len(), usize::from(BROKERS) + 1);
            continue;
        }
        assert_eq!(service.restart, "unless-stopped", "{name}");
        assert!(service.healthcheck.is_some(), "{name} has no health check");
    }
    assert_eq!(kept, compose.volumes.keys().map(String::as_str).collect());
    assert_eq!(
        kept.len(),
        usize::from(BROKERS) + 1,
        "each broker and PostgreSQL"
    );
    Ok(())
}

#[test]
fn the_dockerfile_builds_what_is_started_and_runs_it_as_somebody() -> Result<()> {
    let dockerfile = Dockerfile::read()?;
    let [build, image] = &dockerfile.stages[..] else {
        panic!("{dockerfile:?}")
    };
    let manifest = std::fs::read_to_string(root().join("Cargo.toml"))?;
    let dev = std::fs::read_to_string(root().join("dev"))?;
    let rust = build
        .base
        .trim_start_matches("rust:")
        .trim_end_matches("-bookworm");
    assert!(
        manifest.contains(&format!("rust-version = \"{rust}\"")),
        "{rust}"
    );
    assert!(dev.contains(&format!("RUST={rust}\n")), "{rust}");

    let line = build.steps.iter().find_map(|step| match step {
        Step::Run(line) => line.contains("cargo build").then_some(line),
        _ => None,
    });
    let line = line.unwrap();
    assert!(line.contains("--release --locked"), "{line}");
    let compose = Compose::read()?;
    let mut programs: BTreeSet<&str> = compose
        .ours()
        .map(|(_, one)| one.command[0].as_str())
        .collect();
    programs.insert("onceward"); // to look inside: docker compose exec order onceward …
    for program in programs {
        assert!(
            line.contains(&format!("target/release/{program} ")),
            "{program}: {line}"
        );
    }
    assert!(image.uid().is_some_and(|uid| uid != 0), "it runs as root");
    // What the health checks and the setup job start beside our own.
    assert!(image.packages().contains(&"curl"));
    Ok(())
}
