//! The order in which everything starts, and with which arguments.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use onceward_testkit::process::tail;

use super::{Hints, Options};
use crate::Result;
use crate::databases::{self, Databases};
use crate::kafka;
use crate::layout::{Data, MAIL, Ports, RELAY, SERVICES, kafka_names, root};
use crate::manifest::{Manifest, Source};
use crate::probe::Ready;
use crate::supervisor::{Handle, Spec};

const LOG_FORMAT: &str = "ONCEWARD_LOG_FORMAT";
const ROUTING: &str = "ONCEWARD_ROUTING";

/// One run's plan.
pub(super) struct Run {
    options: Options,
    data: Data,
    ports: Ports,
    binaries: PathBuf,
    databases: Databases,
}

impl Run {
    pub(super) fn new(options: Options, data: Data) -> Result<Self> {
        let ports = Ports::new(options.port_offset);
        let databases = match &options.database {
            Some(url) => databases::parse_server(url)?,
            None if options.postgres => Databases::Postgres(format!(
                "postgres://postgres@127.0.0.1:{}/postgres",
                ports.postgres()
            )),
            None => Databases::Sqlite,
        };
        let binaries = binaries(options.release)?;
        Ok(Self {
            options,
            data,
            ports,
            binaries,
            databases,
        })
    }

    fn kafka_address(&self) -> String {
        match &self.options.kafka {
            Some(address) => address.clone(),
            None => {
                // All of them: whoever starts while the first is down asks another.
                let ports = self.ports.kafka(self.options.brokers).into_iter();
                let addresses = ports.map(|(port, _)| format!("127.0.0.1:{port}"));
                addresses.collect::<Vec<_>>().join(",")
            }
        }
    }

    /// The manifest before anything runs. Refuses databases that the Kafka in the data folder has
    /// never seen: it holds the progress of others.
    pub(super) fn manifest(&self) -> Result<Manifest> {
        let old = Manifest::read(&self.data.manifest())?;
        let old_sources = old.map(|manifest| manifest.sources).unwrap_or_default();
        let mut sources: Vec<Source> = SERVICES
            .iter()
            .map(|service| Source {
                name: service.name.to_owned(),
                url: self.databases.url(&self.data, service.name),
            })
            .collect();
        if self.options.only_kafka {
            sources = old_sources;
        } else if let Some(old) = old_sources.iter().find(|old| !sources.contains(old)) {
            bail!(
                "{} was used with other databases ({}): start as before, or anew with --fresh, or elsewhere with --data DIR",
                self.data.folder().display(),
                hide_password(&old.url)
            );
        }
        Ok(Manifest {
            format: 1,
            kafka: self.kafka_address(),
            relay: format!("http://127.0.0.1:{}", self.ports.relay()),
            sources,
            processes: Vec::new(),
        })
    }

    pub(super) async fn start(&self, handle: &Handle, say: &impl Fn(&str)) -> Result<()> {
        // Kafka takes longest, so the databases are made meanwhile.
        tokio::try_join!(
            self.start_kafka(handle, say),
            self.start_databases(handle, say)
        )?;
        if self.options.only_kafka {
            return Ok(());
        }
        handle.add(self.relay());
        for service in SERVICES {
            handle.add(self.service(service.name, self.ports.service(service)));
        }
        handle.add(self.mail());
        let services = SERVICES.map(|service| service.name);
        for name in [RELAY].into_iter().chain(services).chain([MAIL]) {
            say(&format!("{} is ready", handle.ready(name).await?));
        }
        Ok(())
    }

    async fn start_kafka(&self, handle: &Handle, say: &impl Fn(&str)) -> Result<()> {
        if self.options.kafka.is_none() {
            let (data, ports, brokers) = (self.data.clone(), self.ports, self.options.brokers);
            let seconds = self.options.kafka_restart_after.max(0.0);
            let restart_after = Duration::try_from_secs_f32(seconds)
                .context("--kafka-restart-after is no number of seconds")?;
            let specs = move || kafka::specs(&data, ports, brokers, restart_after);
            for spec in blocking(specs).await? {
                handle.add(spec);
            }
            for name in kafka_names(brokers) {
                say(&format!("{} is ready", handle.ready(&name).await?));
            }
        }
        if !self.options.only_kafka {
            let address = self.kafka_address();
            let mut arguments = vec!["topics", "--kafka", &address];
            if self.options.brokers > 1 {
                // Said, so that a broker that is lost by now is an error and no topic with two copies.
                arguments.extend(["--replication", "3"]);
            }
            self.shop(&arguments).await?;
            say("topics are there");
        }
        Ok(())
    }

    async fn start_databases(&self, handle: &Handle, say: &impl Fn(&str)) -> Result<()> {
        if self.options.only_kafka {
            return Ok(());
        }
        if self.options.postgres {
            let (data, ports) = (self.data.clone(), self.ports);
            let (_, spec) = blocking(move || databases::local_server(&data, ports)).await?;
            handle.add(spec);
            say(&format!("{} is ready", handle.ready("postgres").await?));
        }
        let databases = self.databases.clone();
        blocking(move || databases.create()).await?;
        // Side by side: each has a database of its own.
        futures::future::try_join_all(SERVICES.map(|service| self.migrate(service.name))).await?;
        say("databases are migrated");
        Ok(())
    }

    async fn migrate(&self, service: &str) -> Result<()> {
        let url = self.databases.url(&self.data, service);
        self.shop(&["migrate", service, "--database", &url]).await
    }

    /// Runs the shop's binary to its end; on failure its last lines are the reason.
    async fn shop(&self, arguments: &[&str]) -> Result<()> {
        let command = self.command("shop", arguments.iter().map(|a| (*a).to_owned()).collect());
        let mut command = tokio::process::Command::from(command());
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = command.output().await.context("starting shop")?;
        if !output.status.success() {
            let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.push_str(&String::from_utf8_lossy(&output.stderr));
            let what = arguments
                .iter()
                .take(2)
                .copied()
                .collect::<Vec<_>>()
                .join(" ");
            bail!("shop {what} failed: {}", tail(text.trim(), 8));
        }
        Ok(())
    }

    fn mail(&self) -> Spec {
        let address = |port: u16| format!("127.0.0.1:{port}");
        let (smtp, http) = (address(self.ports.smtp()), address(self.ports.mail()));
        let arguments = [MAIL, "--smtp", &smtp, "--listen", &http];
        let mut spec = Spec::new(
            MAIL,
            self.command("shop", arguments.map(str::to_owned).to_vec()),
        );
        spec.port = Some(self.ports.mail());
        spec.url = Some(format!("http://{http}"));
        spec.ready = Ready::Http(self.ports.mail());
        spec
    }

    fn relay(&self) -> Spec {
        let http = format!("127.0.0.1:{}", self.ports.relay());
        let mut arguments = vec!["run".to_owned(), "--kafka".to_owned(), self.kafka_address()];
        for service in SERVICES {
            let url = self.databases.url(&self.data, service.name);
            arguments.extend(["--source".to_owned(), format!("{}={url}", service.name)]);
        }
        // The same id after each restart, so that it takes its own sources back at once.
        arguments.extend(["--http", &http, "--instance-id", "dev"].map(str::to_owned));
        let mut spec = Spec::new(RELAY, self.command(RELAY, arguments));
        spec.port = Some(self.ports.relay());
        spec.url = Some(format!("http://{http}"));
        spec.ready = Ready::Http(self.ports.relay());
        spec.stop_rank = 1;
        spec
    }

    fn service(&self, name: &str, port: u16) -> Spec {
        let listen = format!("127.0.0.1:{port}");
        let database = self.databases.url(&self.data, name);
        let kafka = self.kafka_address();
        let arguments = [
            name,
            "--kafka",
            &kafka,
            "--database",
            &database,
            "--listen",
            &listen,
            // After kill -9 it gets its partitions back at once, not after a session time-out.
            "--instance-id",
            "dev",
        ];
        let mut arguments = arguments.map(str::to_owned).to_vec();
        if name == "notification" {
            let smtp = format!("smtp://127.0.0.1:{}", self.ports.smtp());
            arguments.extend(["--smtp".to_owned(), smtp]);
        }
        let mut spec = Spec::new(name, self.command("shop", arguments));
        spec.port = Some(port);
        spec.url = Some(format!("http://{listen}"));
        spec.ready = Ready::Http(port);
        spec
    }

    fn command(
        &self,
        binary: &str,
        arguments: Vec<String>,
    ) -> impl Fn() -> Command + Send + 'static {
        let program = self.binaries.join(binary);
        let routing = self.options.routing.clone();
        let routing = routing.map(|named| (ROUTING.to_owned(), named));
        let settings: Vec<_> = routing
            .into_iter()
            .chain(self.options.set.clone())
            .collect();
        move || {
            let mut command = Command::new(&program);
            // Log files here are read by people.
            if std::env::var_os(LOG_FORMAT).is_none() {
                command.env(LOG_FORMAT, "pretty");
            }
            command.args(&arguments).envs(settings.iter().cloned());
            command
        }
    }

    pub(super) fn hints(&self) -> Hints {
        // Found by itself in the usual place only.
        let data = match self.data.folder() == root().join("data") {
            true => String::new(),
            false => format!(" --data {}", self.data.folder().display()),
        };
        let end = match self.options.in_background {
            true => format!(
                "Running in the background: ./dev ps{data}, ./dev logs{data} -f, ./dev down{data}"
            ),
            false => "Ctrl-C stops everything and keeps the data.".to_owned(),
        };
        let onceward = self.binaries.join("onceward");
        let onceward = onceward.strip_prefix(root()).unwrap_or(&onceward).display();
        Hints {
            kafka: self.options.only_kafka.then(|| self.kafka_address()),
            orders: format!(
                "http://127.0.0.1:{}/orders",
                self.ports.service(SERVICES[0])
            ),
            onceward: format!("{onceward}{data}"),
            data,
            end,
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// Folder of the binaries: ours, or its sibling for optimised ones.
fn binaries(release: bool) -> Result<PathBuf> {
    let ours = std::env::current_exe()?;
    let folder = ours.parent().context("our own binary lies nowhere")?;
    Ok(match release {
        true => folder.with_file_name("release"),
        false => folder.to_owned(),
    })
}

fn hide_password(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(start), Some(end)) if start + 3 < end => {
            let user = url[start + 3..end].split(':').next().unwrap_or("");
            format!("{}{user}{}", &url[..start + 3], &url[end..])
        }
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::hide_password;

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(
            hide_password("postgres://u:secret@h:1/d"),
            "postgres://u@h:1/d"
        );
        assert_eq!(hide_password("postgres://u@h:1/d"), "postgres://u@h:1/d");
        assert_eq!(hide_password("sqlite:///a/b.db"), "sqlite:///a/b.db");
    }
}
