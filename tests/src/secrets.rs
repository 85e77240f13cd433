//! A shop whose every secret is a file, whose every process is a user of its own, in Kafka as in
//! Postgres, and whose every connection is TLS.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use onceward_testkit::acl::Acl;
use onceward_testkit::secure::{SecureKafka, password};
use onceward_testkit::secure_postgres::SecurePostgres;

use crate::brokers::Brokers;
use crate::{Result, SERVICES};

/// In every secret, and nowhere else: no output, log or page may have it.
pub const MARK: &str = "Zq7x";

/// What each process needs to know, as environment variables that name files.
#[derive(Debug)]
pub struct Secrets {
    postgres: SecurePostgres,
    folder: PathBuf,
    kafka: String,
    kafka_ca: PathBuf,
}

impl Secrets {
    /// Starts Kafka and Postgres, makes the users, and gives them the rights of docs/SECURITY.md.
    pub(crate) fn start(folder: &Path) -> Result<(Brokers, Self)> {
        let others = ["setup", "relay", "onceward"];
        let users: Vec<&str> = SERVICES.into_iter().chain(others).collect();
        let kafka = SecureKafka::start(&users)?;
        for rule in documented_rules()? {
            kafka.allow(&rule)?;
        }
        let postgres = SecurePostgres::start()?;
        for user in SERVICES.into_iter().chain(["relay", "onceward"]) {
            postgres.add_user(user)?;
        }
        for service in SERVICES {
            postgres.run(&format!("grant \"{service}\" to relay"))?;
        }
        postgres.run("grant pg_read_all_data to onceward")?;
        let folder = folder.join("secrets");
        std::fs::create_dir(&folder)?;
        let secrets = Self {
            folder,
            kafka: kafka.sasl(),
            kafka_ca: kafka.ca_file().to_owned(),
            postgres,
        };
        for user in users {
            secrets.write(&format!("{user}-kafka"), &password(user))?;
        }
        for service in SERVICES {
            let url = secrets.postgres.url(service);
            secrets.write(&format!("{service}-database"), &url)?;
        }
        secrets.write("relay-sources", &secrets.sources("relay", true))?;
        // Without passwords: Postgres' own file has them.
        secrets.write("onceward-sources", &secrets.sources("onceward", false))?;
        let line = format!("127.0.0.1:*:*:onceward:{}", password("onceward"));
        secrets.write("pgpass", &line)?;
        secrets.write("operator-token", &secrets.token())?;
        // A mail server that nobody runs: the mails wait.
        let mail = format!("smtp://shop:{}@127.0.0.1:1", password("mail"));
        secrets.write("smtp", &mail)?;
        let headers = format!("authorization=Bearer {}", password("collector"));
        secrets.write("otlp-headers", &headers)?;
        Ok((Brokers::Secure(Box::new(kafka)), secrets))
    }

    /// Every service's database as this user sees it.
    fn sources(&self, user: &str, with_password: bool) -> String {
        let word = password(user);
        let lines = SERVICES.map(|service| {
            let url = self.postgres.url_of(user, &word, "127.0.0.1", service);
            let url = match with_password {
                true => url,
                false => url.replace(&format!(":{word}"), ""),
            };
            format!("{service}={url}")
        });
        lines.join("\n")
    }

    /// What operators send.
    pub fn token(&self) -> String {
        password("the-operators")
    }

    /// The server of all databases.
    pub fn postgres(&self) -> &SecurePostgres {
        &self.postgres
    }

    /// Replaces a secret: `order-kafka`, `order-database`, `relay-sources` …
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let file = self.folder.join(name);
        std::fs::write(&file, format!("{text}\n")).with_context(|| format!("{file:?}"))?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))?;
        Ok(())
    }

    /// The environment of a process.
    pub(crate) fn of(&self, process: &str) -> BTreeMap<String, String> {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let mut all = BTreeMap::from([
            ("ONCEWARD_KAFKA", self.kafka.clone()),
            ("ONCEWARD_KAFKA_SECURITY_PROTOCOL", "sasl_ssl".into()),
            (
                "ONCEWARD_KAFKA_CA_FILE",
                self.kafka_ca.display().to_string(),
            ),
            ("ONCEWARD_KAFKA_SASL_MECHANISM", "SCRAM-SHA-512".into()),
            ("ONCEWARD_KAFKA_USERNAME", process.to_owned()),
            (
                "ONCEWARD_KAFKA_PASSWORD_FILE",
                file(&format!("{process}-kafka")),
            ),
        ]);
        match process {
            "relay" => drop(all.insert("ONCEWARD_SOURCES_FILE", file("relay-sources"))),
            "onceward" => {
                all.insert("ONCEWARD_SOURCES_FILE", file("onceward-sources"));
                all.insert("PGPASSFILE", file("pgpass"));
            }
            "setup" => {}
            service => {
                let database = file(&format!("{service}-database"));
                all.insert("ONCEWARD_DATABASE_FILE", database);
                all.insert("ONCEWARD_OPERATOR_TOKEN_FILE", file("operator-token"));
                if service == "notification" {
                    all.insert("ONCEWARD_SMTP_FILE", file("smtp"));
                }
            }
        }
        // A collector that nobody runs: what can't be sent must not be told either.
        let collector = format!("http://me:{}@127.0.0.1:1", password("me"));
        all.insert("OTEL_EXPORTER_OTLP_ENDPOINT", collector);
        all.insert("OTEL_EXPORTER_OTLP_HEADERS_FILE", file("otlp-headers"));
        all.into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }
}

/// Those of docs/SECURITY.md, and no others.
fn documented_rules() -> Result<Vec<Acl>> {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/SECURITY.md");
    let text = std::fs::read_to_string(document)?;
    let lines = text.lines().filter_map(|line| line.strip_prefix("acl "));
    let mut rules = Vec::new();
    for line in lines {
        rules.extend(Acl::of_command(&format!("--add {line}"))?);
    }
    ensure!(!rules.is_empty(), "docs/SECURITY.md has no rules");
    Ok(rules)
}
