//! `./dev check image`: what the containers do, where there is no Docker.
//!
//! The `Dockerfile`'s steps are done in a folder, then the commands of `docker-compose.yml` are started
//! from there with its environment, as the image's user, against three real brokers and a real
//! PostgreSQL. Only addresses are replaced: names of containers by 127.0.0.1 and a free port.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use onceward_testkit::kafka::Cluster;
use onceward_testkit::ports::Port;
use onceward_testkit::postgres::{Postgres, create_database};
use onceward_testkit::process::{Process, tail};
use onceward_testkit::wait;

use crate::Result;
use crate::tool::{curl, text};

pub mod compose;
pub mod dockerfile;
mod linked;

use compose::{Compose, Service};
use dockerfile::{Dockerfile, Step};

const SOON: Duration = Duration::from_secs(90);
/// `stop_grace_period` of our containers.
const STOP_AT_MOST: Duration = Duration::from_secs(15);

/// Builds, starts, kills, verifies; fails at the first thing that is not as it should be.
///
/// With `no_build` the programs are those beside our own, and the Dockerfile's steps are left out.
pub fn check(no_build: bool) -> Result<()> {
    let begun = Instant::now();
    let say = |text: &str| println!("{:6.1} s  {text}", begun.elapsed().as_secs_f32());
    let folder = tempfile::Builder::new()
        .prefix("onceward-image-")
        .tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;

    let dockerfile = Dockerfile::read()?;
    let root = match no_build {
        true => beside_ours(folder.path())?,
        false => {
            say("doing the Dockerfile's steps");
            dockerfile.build(folder.path())?
        }
    };
    let image = Image::new(root, &dockerfile)?;
    say(&image.describe()?);
    let output = image.output(&image.default_command, &BTreeMap::new())?;
    ensure!(
        output.status.success(),
        "the image's own command: {}",
        text(&output)
    );

    let compose = Compose::read()?;
    let mut shop = Shop::new(image, compose, folder.path())?;
    say("three brokers and PostgreSQL are ready");
    shop.set_up()?;
    say("docker-compose.yml's setup has ended well");
    let names: Vec<String> = shop.compose.ours().map(|(name, _)| name.clone()).collect();
    for name in &names {
        shop.start(name)?;
    }
    for name in &names {
        shop.wait_healthy(name)?;
    }
    say(&format!("healthy: {}", names.join(", ")));

    shop.order_ends()?;
    let relays: Vec<&String> = names.iter().filter(|name| name.contains("relay")).collect();
    for relay in relays {
        shop.kill9(relay)?;
        shop.order_ends()
            .with_context(|| format!("without {relay}"))?;
        shop.start(relay)?;
        shop.wait_healthy(relay)?;
        say(&format!("{relay} was killed: the other one took over"));
    }
    let broker = shop.kafka.nodes().first_mut().context("no broker")?;
    broker.kill9()?;
    shop.order_ends().context("without a broker")?;
    say("a broker was killed: orders go on");
    say(&shop.verify()?);
    shop.stop()?;
    say("all stopped in order");
    Ok(())
}

/// The image's root with the programs that lie where ours does.
fn beside_ours(folder: &Path) -> Result<PathBuf> {
    let programs = folder.join("usr/local/bin");
    std::fs::create_dir_all(&programs)?;
    for name in ["outbox-relay", "shop", "onceward"] {
        let program = std::env::current_exe()?.with_file_name(name);
        std::fs::copy(&program, programs.join(name))
            .with_context(|| format!("copying {}: build it first", program.display()))?;
    }
    Ok(folder.to_owned())
}

/// A folder that stands for the image's root.
struct Image {
    programs: PathBuf,
    packages: Vec<String>,
    uid: u32,
    default_command: Vec<String>,
}

impl Image {
    fn new(root: PathBuf, dockerfile: &Dockerfile) -> Result<Self> {
        let stage = dockerfile.last()?;
        let default_command = stage.steps.iter().find_map(|step| match step {
            Step::Cmd(words) => Some(words.clone()),
            _ => None,
        });
        Ok(Self {
            programs: root.join("usr/local/bin"),
            packages: stage.packages().into_iter().map(str::to_owned).collect(),
            uid: stage.uid().context("the image runs as root")?,
            default_command: default_command.context("the image has no CMD")?,
        })
    }

    /// Sizes, and that the packages of the image are enough.
    fn describe(&self) -> Result<String> {
        let mut paths = Vec::new();
        let mut sizes = Vec::new();
        for entry in std::fs::read_dir(&self.programs)? {
            let entry = entry?;
            let mib = entry.metadata()?.len() / (1024 * 1024);
            sizes.push(format!("{} {mib} MiB", entry.file_name().to_string_lossy()));
            paths.push(entry.path());
        }
        sizes.sort();
        let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        let packages: Vec<&str> = self.packages.iter().map(String::as_str).collect();
        let linked = match linked::check(&paths, &packages)? {
            Some(needed) => format!(
                "linked to {}",
                needed.into_iter().collect::<Vec<_>>().join(", ")
            ),
            None => "no dpkg here, so its packages are not looked at".to_owned(),
        };
        Ok(format!(
            "image: {}; {linked}; user {}",
            sizes.join(", "),
            self.uid
        ))
    }

    /// A command as in a container: the image's user, no other environment than the one given.
    fn command(&self, words: &[String], environment: &BTreeMap<String, String>) -> Command {
        let mut command;
        if nix::unistd::geteuid().is_root() {
            let uid = self.uid.to_string();
            command = Command::new("setpriv");
            command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"]);
        } else {
            command = Command::new("env"); // we are another user already
        }
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.programs.display());
        command
            .args(words)
            .env_clear()
            .env("PATH", path)
            .envs(environment)
            .current_dir("/");
        command
    }

    fn output(&self, words: &[String], environment: &BTreeMap<String, String>) -> Result<Output> {
        let mut command = self.command(words, environment);
        command
            .output()
            .with_context(|| format!("starting {words:?}"))
    }
}

/// What `docker compose up` would start.
struct Shop {
    image: Image,
    compose: Compose,
    logs: PathBuf,
    running: BTreeMap<String, Process>,
    ports: BTreeMap<String, Port>,
    /// Addresses in docker-compose.yml and what stands for them here.
    addresses: Vec<(String, String)>,
    kafka: Cluster,
    _postgres: Postgres,
}

impl Shop {
    fn new(image: Image, compose: Compose, folder: &Path) -> Result<Self> {
        let mut kafka = Cluster::start()?;
        let postgres = Postgres::start()?;
        let mut addresses: Vec<(String, String)> = (1..)
            .zip(kafka.nodes())
            .map(|(id, broker)| (format!("kafka-{id}:19092"), broker.bootstrap()))
            .collect();
        let server = "postgres://onceward:onceward@postgres/".to_owned();
        addresses.push((server, postgres.url("")));
        let databases = compose.configs.get("databases").context("no databases")?;
        for line in databases.content.lines() {
            let name = line
                .strip_prefix("create database ")
                .context("no database")?;
            let name = name.trim_end_matches(';').trim_matches('"');
            create_database(&postgres.url("postgres"), name)?;
        }
        let mut ports = BTreeMap::new();
        for (name, _) in compose.ours() {
            ports.insert(name.clone(), Port::take()?);
        }
        let smtp = Port::take()?;
        for there in ["mail:1025", "0.0.0.0:1025"] {
            addresses.push((there.to_owned(), format!("127.0.0.1:{}", smtp.number())));
        }
        ports.insert("smtp".to_owned(), smtp);
        let logs = folder.join("logs");
        std::fs::create_dir_all(&logs)?;
        Ok(Self {
            image,
            compose,
            logs,
            running: BTreeMap::new(),
            ports,
            addresses,
            kafka,
            _postgres: postgres,
        })
    }

    fn service(&self, name: &str) -> Result<&Service> {
        let service = self.compose.services.get(name);
        service.with_context(|| format!("docker-compose.yml has no {name}"))
    }

    /// What stands for a text of docker-compose.yml here.
    fn here(&self, name: &str, text: &str) -> Result<String> {
        let mut text = text.replace("$$", "$");
        for (there, here) in &self.addresses {
            text = text.replace(there, here);
        }
        if let (Some(port), Some((_, inside))) = (self.ports.get(name), self.service(name)?.port())
        {
            for host in ["0.0.0.0", "127.0.0.1"] {
                let port = format!("127.0.0.1:{}", port.number());
                text = text.replace(&format!("{host}:{inside}"), &port);
            }
        }
        Ok(text)
    }

    fn words(&self, name: &str, words: &[String]) -> Result<Vec<String>> {
        words.iter().map(|word| self.here(name, word)).collect()
    }

    fn environment(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let environment = self.service(name)?.environment.iter();
        environment
            .map(|(variable, value)| Ok((variable.clone(), self.here(name, value)?)))
            .collect()
    }

    fn set_up(&self) -> Result<()> {
        let words = self.words("setup", &self.service("setup")?.command)?;
        let environment = self.environment("setup")?;
        // Twice, as `docker compose up` does it on the next day.
        for _ in 0..2 {
            let output = self.image.output(&words, &environment)?;
            ensure!(output.status.success(), "setup failed: {}", text(&output));
        }
        Ok(())
    }

    fn start(&mut self, name: &str) -> Result<()> {
        let words = self.words(name, &self.service(name)?.command)?;
        let command = self.image.command(&words, &self.environment(name)?);
        let log = self.logs.join(format!("{name}.log"));
        self.running
            .insert(name.to_owned(), Process::spawn(name, command, &log)?);
        Ok(())
    }

    /// Asks as its health check does.
    fn wait_healthy(&mut self, name: &str) -> Result<()> {
        let check = self.service(name)?.healthcheck.as_ref();
        let check = check.with_context(|| format!("{name} has no health check"))?;
        let words = self.words(name, check.test.get(1..).unwrap_or_default())?;
        let none = BTreeMap::new();
        let process = self.running.get_mut(name).context("it does not run")?;
        wait::until(&format!("{name} to be healthy"), SOON, || {
            if !process.is_running() {
                bail!("{name} ended:\n{}", process.log_tail(15));
            }
            let output = self.image.output(&words, &none)?;
            Ok(output.status.success().then_some(()))
        })
        .with_context(|| process.log_tail(15))
    }

    fn kill9(&mut self, name: &str) -> Result<()> {
        let process = self.running.remove(name);
        process.context("it does not run")?.kill9()?;
        Ok(())
    }

    /// Places an order and waits until it is completed or failed: one payment in five is declined.
    fn order_ends(&self) -> Result<()> {
        let orders = self.ports.get("order").context("no order service")?;
        let orders = format!("http://127.0.0.1:{}/orders", orders.number());
        let body =
            r#"{"user_id":"user_123","product_id":"product_1","quantity":1,"amount":199.99}"#;
        let placed = curl(&["-H", "content-type: application/json", "-d", body, &orders])?;
        let id = placed["order_id"].as_str().context("no order_id")?;
        let order = format!("{orders}/{id}");
        wait::until("the end of an order", SOON, || {
            let status = curl(&[&order])?["status"].as_str().map(str::to_owned);
            Ok(matches!(status.as_deref(), Some("completed" | "failed")).then_some(()))
        })
    }

    /// What `onceward verify` says when all is well.
    fn verify(&self) -> Result<String> {
        let (name, _) = self
            .compose
            .ours()
            .find(|(name, _)| name.contains("relay"))
            .context("no relay")?;
        let words = ["onceward", "verify"].map(str::to_owned);
        let output = self.image.output(&words, &self.environment(name)?)?;
        ensure!(
            output.status.success(),
            "onceward verify: {}",
            text(&output)
        );
        Ok(format!("onceward verify: {}", tail(&text(&output), 1)))
    }

    fn stop(&mut self) -> Result<()> {
        for (name, process) in &mut self.running {
            let status = process.stop(Signal::SIGTERM, STOP_AT_MOST)?;
            ensure!(
                status.success(),
                "{name} ended with {status}:\n{}",
                process.log_tail(15)
            );
        }
        Ok(())
    }
}
