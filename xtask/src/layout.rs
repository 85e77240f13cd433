//! Names, ports and folders of everything that `./dev up` starts.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use onceward_testkit::wait;

use crate::Result;

/// A service of the shop and the port it listens on before the offset.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// Name of the service, its source and its log.
    pub name: &'static str,
    port: u16,
}

/// All services, in the order in which they are listed.
pub const SERVICES: [Service; 9] = [
    Service {
        name: "order",
        port: 8001,
    },
    Service {
        name: "inventory",
        port: 8002,
    },
    Service {
        name: "payment",
        port: 8003,
    },
    Service {
        name: "delivery",
        port: 8004,
    },
    Service {
        name: "customer",
        port: 8005,
    },
    Service {
        name: "shipping",
        port: 8006,
    },
    Service {
        name: "notification",
        port: 8007,
    },
    Service {
        name: "analytics",
        port: 8008,
    },
    Service {
        name: "saga-orchestrator",
        port: 8009,
    },
];

/// The name under which the mail server runs that shows mails instead of delivering them.
pub const MAIL: &str = "mail-sink";

/// The name under which the relay runs.
pub const RELAY: &str = "outbox-relay";

/// The names under which Kafka's brokers run, and of their folders.
pub fn kafka_names(brokers: u16) -> Vec<String> {
    match brokers {
        1 => vec!["kafka".to_owned()],
        several => (1..=several).map(|n| format!("kafka-{n}")).collect(),
    }
}

/// The one of `names` that is called so: its whole name, or one of its words (`relay`, `saga`).
pub fn called<'a>(given: &str, names: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    names.clone().find(|name| *name == given).or_else(|| {
        let mut found = names.filter(|name| name.split('-').any(|word| word == given));
        found.next().filter(|_| found.next().is_none())
    })
}

/// The ports of one run: the usual ones plus an offset, so that two runs can share a machine.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    offset: u16,
}

impl Ports {
    /// Adds `offset` to every port.
    pub fn new(offset: u16) -> Self {
        Self { offset }
    }

    /// An offset with which all ports of a shop are free, and those ports; away from the ports that
    /// [`onceward_testkit::ports`] gives out.
    pub fn free() -> Result<(u16, Self)> {
        let mut seed = u16::try_from(std::process::id() % 5000)?;
        wait::until("free ports for a shop", Duration::from_secs(30), || {
            seed = (seed + 37) % 5000;
            let offset = 3000 + seed;
            let ports = Self::new(offset);
            let mut all = SERVICES.map(|service| ports.service(service)).to_vec();
            all.extend([ports.relay(), ports.postgres(), ports.smtp(), ports.mail()]);
            let kafka = ports.kafka(3);
            all.extend(kafka.into_iter().flat_map(|(client, own)| [client, own]));
            let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
            Ok(all.iter().all(free).then_some((offset, ports)))
        })
    }

    /// Port of a service.
    pub fn service(self, service: Service) -> u16 {
        service.port + self.offset
    }

    /// Port of the relay's health and metrics.
    pub fn relay(self) -> u16 {
        9100 + self.offset
    }

    /// Port that takes mails, by SMTP.
    pub fn smtp(self) -> u16 {
        1025 + self.offset
    }

    /// Port that shows them, by HTTP.
    pub fn mail(self) -> u16 {
        8025 + self.offset
    }

    /// Kafka's ports, broker by broker: for clients, and of its controller.
    pub fn kafka(self, brokers: u16) -> Vec<(u16, u16)> {
        let first = (0..brokers).map(|n| 9092 + 2 * n + self.offset);
        first.map(|port| (port, port + 1)).collect()
    }

    /// Port of the local PostgreSQL.
    pub fn postgres(self) -> u16 {
        // Would leave the range of ports with an offset over 10,000.
        55432_u16.checked_add(self.offset).unwrap_or(self.offset)
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Cargo's target folder: this program stands in its `debug`.
pub fn target() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own.ancestors().nth(2).context("a target folder")?;
    Ok(folder.to_owned())
}

/// The data folder of one run and the files in it.
#[derive(Debug, Clone)]
pub struct Data {
    folder: PathBuf,
}

impl Data {
    /// The folder given, else `data` in the repository; made absolute, not created.
    pub fn at(folder: Option<&Path>) -> Result<Self> {
        let folder = match folder {
            Some(folder) => std::path::absolute(folder)?,
            None => root().join("data"),
        };
        Ok(Self { folder })
    }

    /// Creates the folder and its `logs`.
    pub fn create(&self) -> Result<()> {
        std::fs::create_dir_all(self.logs())
            .with_context(|| format!("cannot create the data folder {}", self.folder.display()))
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Folder of the log files.
    pub fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    /// Log file of one process.
    pub fn log(&self, name: &str) -> PathBuf {
        self.logs().join(format!("{name}.log"))
    }

    /// What runs and where; read by the command `onceward`.
    pub fn manifest(&self) -> PathBuf {
        self.folder.join("onceward.json")
    }

    /// Held by the running supervisor; contains its pid.
    pub fn lock(&self) -> PathBuf {
        self.folder.join("supervisor.lock")
    }

    /// Socket on which the running supervisor takes orders.
    pub fn socket(&self) -> PathBuf {
        let near = self.folder.join("supervisor.sock");
        // A socket's path holds about 100 bytes.
        if near.as_os_str().len() < 100 {
            return near;
        }
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hash = DefaultHasher::new();
        self.folder.hash(&mut hash);
        std::env::temp_dir().join(format!("onceward-{:016x}.sock", hash.finish()))
    }

    /// Folder of a broker, which is called as its process is.
    pub fn kafka(&self, broker: &str) -> PathBuf {
        self.folder.join(broker)
    }

    /// PostgreSQL's folder.
    pub fn postgres(&self) -> PathBuf {
        self.folder.join("postgres")
    }

    /// URL of a service's SQLite database.
    pub fn sqlite_url(&self, service: &str) -> String {
        format!(
            "sqlite://{}",
            self.folder.join(format!("{service}.db")).display()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::called;

    #[test]
    fn a_process_is_called_by_its_name_or_a_word_of_it() {
        let names = || ["kafka", "outbox-relay", "order", "saga-orchestrator"].into_iter();
        assert_eq!(called("order", names()), Some("order"));
        assert_eq!(called("relay", names()), Some("outbox-relay"));
        assert_eq!(called("saga", names()), Some("saga-orchestrator"));
        assert_eq!(called("ord", names()), None);
        assert_eq!(called("a", ["a-b", "a-c"].into_iter()), None);
    }
}
