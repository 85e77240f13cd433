//! How to reach Kafka: one definition for config files (serde), command lines and environment
//! variables (clap), shared by relay, services and tools.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use onceward::Secret;
use onceward::secret::read_secret;
use rdkafka::ClientConfig;
use serde::{Deserialize, Serialize};

mod properties;

pub use properties::Properties;
use properties::is_owned;

/// How to reach a Kafka cluster. Printing it (`Debug` and serde) never shows a secret.
///
/// Layers are merged with [`Self::or`]: what a command line leaves unset is taken from its config
/// file. [`Self::validate`] tells everything that is wrong at once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Kafka")]
pub struct KafkaConfig {
    /// Brokers to ask first: host:port, comma separated.
    #[arg(
        long = "kafka",
        env = "ONCEWARD_KAFKA",
        value_name = "HOST:PORT",
        default_value = "",
        hide_default_value = true
    )]
    pub bootstrap_servers: String,
    /// Plain TCP, TLS, and with or without SASL [default: plaintext].
    #[arg(
        id = "kafka_security_protocol",
        long = "kafka-security-protocol",
        env = "ONCEWARD_KAFKA_SECURITY_PROTOCOL"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_protocol: Option<SecurityProtocol>,
    /// File of the certificates (PEM) that sign the brokers'; without it the system's are used.
    #[arg(
        id = "kafka_ca_file",
        long = "kafka-ca-file",
        env = "ONCEWARD_KAFKA_CA_FILE"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// File of the client's certificate (PEM), for mutual TLS.
    #[arg(
        id = "kafka_cert_file",
        long = "kafka-cert-file",
        env = "ONCEWARD_KAFKA_CERT_FILE"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    /// File of the client's private key (PEM), for mutual TLS.
    #[arg(
        id = "kafka_key_file",
        long = "kafka-key-file",
        env = "ONCEWARD_KAFKA_KEY_FILE"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// File with the password of the private key.
    #[arg(
        id = "kafka_key_password_file",
        long = "kafka-key-password-file",
        env = "ONCEWARD_KAFKA_KEY_PASSWORD_FILE"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_password_file: Option<PathBuf>,
    /// How to prove who we are, with a sasl_* protocol.
    #[arg(
        id = "kafka_sasl_mechanism",
        long = "kafka-sasl-mechanism",
        env = "ONCEWARD_KAFKA_SASL_MECHANISM"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sasl_mechanism: Option<SaslMechanism>,
    /// SASL user name.
    #[arg(
        id = "kafka_username",
        long = "kafka-username",
        env = "ONCEWARD_KAFKA_USERNAME"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// SASL password. Better in a file: command lines and environments can be seen by others.
    #[arg(
        id = "kafka_password",
        long = "kafka-password",
        env = "ONCEWARD_KAFKA_PASSWORD",
        hide_env_values = true
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
    /// File with the SASL password, read at each connect.
    #[arg(
        id = "kafka_password_file",
        long = "kafka-password-file",
        env = "ONCEWARD_KAFKA_PASSWORD_FILE"
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// More librdkafka properties: name=value, comma separated. Those we own are refused.
    #[arg(
        id = "kafka_properties",
        long = "kafka-properties",
        env = "ONCEWARD_KAFKA_PROPERTIES",
        value_name = "NAME=VALUE,…",
        default_value = "",
        hide_default_value = true,
        hide_env_values = true
    )]
    #[serde(skip_serializing_if = "Properties::is_empty")]
    pub properties: Properties,
}

/// How connections are secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum SecurityProtocol {
    /// Plain TCP.
    Plaintext,
    /// TLS.
    Ssl,
    /// SASL over plain TCP.
    SaslPlaintext,
    /// SASL over TLS.
    SaslSsl,
}

impl SecurityProtocol {
    fn name(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Ssl => "ssl",
            Self::SaslPlaintext => "sasl_plaintext",
            Self::SaslSsl => "sasl_ssl",
        }
    }
    pub(crate) fn has_tls(self) -> bool {
        matches!(self, Self::Ssl | Self::SaslSsl)
    }
    pub(crate) fn has_sasl(self) -> bool {
        matches!(self, Self::SaslPlaintext | Self::SaslSsl)
    }
}

/// SASL mechanisms that need nothing but a name and a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum SaslMechanism {
    /// The password itself: only over TLS.
    #[serde(rename = "PLAIN")]
    #[value(name = "PLAIN")]
    Plain,
    /// RFC 7677.
    #[serde(rename = "SCRAM-SHA-256")]
    #[value(name = "SCRAM-SHA-256")]
    ScramSha256,
    /// The same with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    #[value(name = "SCRAM-SHA-512")]
    ScramSha512,
}

impl SaslMechanism {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// Everything that is wrong with a [`KafkaConfig`], one sentence each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct ConfigProblems(pub Vec<String>);

impl KafkaConfig {
    /// Plain TCP to these brokers: host:port, comma separated.
    pub fn plaintext(bootstrap_servers: impl Into<String>) -> Self {
        Self {
            bootstrap_servers: bootstrap_servers.into(),
            ..Self::default()
        }
    }

    /// Takes from `fallback` what is not set here; properties one by one.
    #[must_use]
    pub fn or(self, fallback: Self) -> Self {
        let mut properties = fallback.properties.0;
        properties.extend(self.properties.0);
        // A password set here outranks a password file set there, and the other way round.
        let (password, password_file) = if self.password.is_some() || self.password_file.is_some() {
            (self.password, self.password_file)
        } else {
            (fallback.password, fallback.password_file)
        };
        Self {
            bootstrap_servers: if self.bootstrap_servers.is_empty() {
                fallback.bootstrap_servers
            } else {
                self.bootstrap_servers
            },
            security_protocol: self.security_protocol.or(fallback.security_protocol),
            ca_file: self.ca_file.or(fallback.ca_file),
            cert_file: self.cert_file.or(fallback.cert_file),
            key_file: self.key_file.or(fallback.key_file),
            key_password_file: self.key_password_file.or(fallback.key_password_file),
            sasl_mechanism: self.sasl_mechanism.or(fallback.sasl_mechanism),
            username: self.username.or(fallback.username),
            password,
            password_file,
            properties: Properties(properties),
        }
    }

    /// The variables by which a program that is started from here reads the same settings,
    /// passwords included.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let file = |path: &Option<PathBuf>| path.clone().map(PathBuf::into_os_string);
        let properties = self.properties.0.iter();
        let properties: Vec<String> = properties
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let settings = [
            (
                "ONCEWARD_KAFKA",
                Some(self.bootstrap_servers.clone().into()),
            ),
            (
                "ONCEWARD_KAFKA_SECURITY_PROTOCOL",
                self.security_protocol.map(|known| known.name().into()),
            ),
            ("ONCEWARD_KAFKA_CA_FILE", file(&self.ca_file)),
            ("ONCEWARD_KAFKA_CERT_FILE", file(&self.cert_file)),
            ("ONCEWARD_KAFKA_KEY_FILE", file(&self.key_file)),
            (
                "ONCEWARD_KAFKA_KEY_PASSWORD_FILE",
                file(&self.key_password_file),
            ),
            (
                "ONCEWARD_KAFKA_SASL_MECHANISM",
                self.sasl_mechanism.map(|known| known.name().into()),
            ),
            (
                "ONCEWARD_KAFKA_USERNAME",
                self.username.clone().map(Into::into),
            ),
            (
                "ONCEWARD_KAFKA_PASSWORD",
                self.password.as_ref().map(|secret| secret.reveal().into()),
            ),
            ("ONCEWARD_KAFKA_PASSWORD_FILE", file(&self.password_file)),
            (
                "ONCEWARD_KAFKA_PROPERTIES",
                (!properties.is_empty()).then(|| properties.join(",").into()),
            ),
        ];
        let set = settings.into_iter();
        set.filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }

    /// Checks everything, without connecting or reading a secret.
    ///
    /// # Errors
    /// [`ConfigProblems`]: all that is wrong, one sentence each.
    pub fn validate(&self) -> Result<(), ConfigProblems> {
        let mut problems = Vec::new();
        let mut problem = |text: String| problems.push(text);
        if self.bootstrap_servers.trim().is_empty() {
            problem("bootstrap_servers (--kafka) is missing".into());
        } else {
            for server in self.bootstrap_servers.split(',').map(str::trim) {
                if !is_host_and_port(server) {
                    problem(format!("bootstrap_servers: {server:?} is not host:port"));
                }
            }
        }
        let protocol = self.protocol();
        for (name, file) in [
            ("ca_file", &self.ca_file),
            ("cert_file", &self.cert_file),
            ("key_file", &self.key_file),
            ("key_password_file", &self.key_password_file),
        ] {
            let Some(file) = file else { continue };
            if !protocol.has_tls() {
                problem(format!("{name} needs security_protocol ssl or sasl_ssl"));
            }
            check_readable(name, file, &mut problem);
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            problem("cert_file and key_file go together".into());
        }
        if self.key_password_file.is_some() && self.key_file.is_none() {
            problem("key_password_file needs key_file".into());
        }
        self.validate_sasl(&mut problem);
        if self.properties.0.contains_key("") {
            problem("properties must be NAME=VALUE, comma separated".into());
        }
        for name in self.properties.0.keys().filter(|name| is_owned(name)) {
            problem(format!("properties: {name} is not yours to set"));
        }
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigProblems(problems))
        }
    }

    fn validate_sasl(&self, problem: &mut impl FnMut(String)) {
        if let Some(file) = &self.password_file {
            check_readable("password_file", file, problem);
        }
        if self.password.is_some() && self.password_file.is_some() {
            problem("password and password_file exclude each other".into());
        }
        let fields = [
            ("sasl_mechanism", self.sasl_mechanism.is_some()),
            ("username", self.username.is_some()),
            (
                "password or password_file",
                self.password.is_some() || self.password_file.is_some(),
            ),
        ];
        let has_sasl = self.protocol().has_sasl();
        for (name, set) in fields {
            if has_sasl && !set {
                problem(format!(
                    "{name} is missing, security_protocol {} needs it",
                    self.protocol().name()
                ));
            } else if set && !has_sasl {
                problem(format!(
                    "{name} needs security_protocol sasl_ssl or sasl_plaintext"
                ));
            }
        }
    }

    pub(crate) fn protocol(&self) -> SecurityProtocol {
        self.security_protocol
            .unwrap_or(SecurityProtocol::Plaintext)
    }

    /// What every client of ours starts from: checks, then reads the secrets' files. The caller adds
    /// what makes it a producer, consumer or admin client. Call it anew for each connection, so that
    /// changed secrets are seen.
    pub fn client_config(&self) -> Result<ClientConfig, ConfigProblems> {
        self.validate()?;
        let mut config = ClientConfig::new();
        config
            .set("client.id", "onceward")
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("security.protocol", self.protocol().name())
            // Topics are made by the admin client only: auto-created ones have the wrong settings.
            .set("allow.auto.create.topics", "false")
            // After a broker's restart be back at once, not after ten seconds.
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "250");
        for (name, value) in &self.properties.0 {
            config.set(name, value);
        }
        for (name, file) in [
            ("ssl.ca.location", &self.ca_file),
            ("ssl.certificate.location", &self.cert_file),
            ("ssl.key.location", &self.key_file),
        ] {
            if let Some(file) = file {
                config.set(name, file.display().to_string());
            }
        }
        if let Some(file) = &self.key_password_file {
            config.set("ssl.key.password", secret_of("key_password_file", file)?);
        }
        if let Some(mechanism) = self.sasl_mechanism {
            config.set("sasl.mechanism", mechanism.name());
        }
        if let Some(username) = &self.username {
            config.set("sasl.username", username);
        }
        if let Some(password) = self.password()? {
            config.set("sasl.password", password.reveal());
        }
        Ok(config)
    }

    /// The SASL password, read from its file if it is in one.
    pub(crate) fn password(&self) -> Result<Option<Secret>, ConfigProblems> {
        match (&self.password, &self.password_file) {
            (Some(password), _) => Ok(Some(password.clone())),
            (None, Some(file)) => secret_of("password_file", file).map(|text| Some(text.into())),
            (None, None) => Ok(None),
        }
    }
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

fn check_readable(name: &str, file: &Path, problem: &mut impl FnMut(String)) {
    if let Err(error) = std::fs::File::open(file) {
        problem(format!("{name} {}: {error}", file.display()));
    }
}

fn secret_of(name: &str, file: &Path) -> Result<String, ConfigProblems> {
    read_secret(file).map_err(|error| ConfigProblems(vec![format!("{name} {error}")]))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::{KafkaConfig, Secret, SecurityProtocol};

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        kafka: KafkaConfig,
    }

    #[test]
    fn a_command_line_and_a_config_file_say_the_same_by_the_same_names() {
        let cli = Cli::parse_from([
            "x",
            "--kafka=a:1,b:2",
            "--kafka-security-protocol=sasl_ssl",
            "--kafka-sasl-mechanism=SCRAM-SHA-512",
            "--kafka-username=relay",
            "--kafka-password=open sesame",
            "--kafka-properties=socket.timeout.ms=1000,socket.keepalive.enable=true",
        ]);
        let file: KafkaConfig = serde_json::from_str(
            r#"{"bootstrap_servers": "a:1,b:2", "security_protocol": "sasl_ssl",
                "sasl_mechanism": "SCRAM-SHA-512", "username": "relay", "password": "open sesame",
                "properties": {"socket.timeout.ms": 1000, "socket.keepalive.enable": true}}"#,
        )
        .unwrap();
        assert_eq!(cli.kafka, file);
        assert_eq!(file.validate(), Ok(()));
        let client = file.client_config().unwrap();
        assert_eq!(client.get("sasl.password"), Some("open sesame"));
        assert_eq!(client.get("socket.timeout.ms"), Some("1000"));
    }

    #[test]
    fn the_environment_of_another_program_says_the_same() {
        let config: KafkaConfig = serde_json::from_str(
            r#"{"bootstrap_servers": "a:1", "security_protocol": "sasl_ssl", "ca_file": "/ca",
                "cert_file": "/cert", "key_file": "/key", "key_password_file": "/word",
                "sasl_mechanism": "PLAIN", "username": "me", "password": "open sesame",
                "password_file": "/pass", "properties": {"a": "1", "b": "2"}}"#,
        )
        .unwrap();
        let (command, variables) = (Cli::command(), config.environment());
        assert_eq!(variables.len(), command.get_arguments().count());
        let flags = variables.iter().map(|(name, value)| {
            let mut all = command.get_arguments();
            let flag = all.find(|arg| arg.get_env().is_some_and(|env| env == *name));
            let flag = flag.and_then(|arg| arg.get_long()).unwrap();
            format!("--{flag}={}", value.to_str().unwrap())
        });
        let read = Cli::parse_from(std::iter::once("x".to_owned()).chain(flags));
        assert_eq!(read.kafka, config);
    }

    #[test]
    fn secrets_are_never_printed() {
        let mut config = KafkaConfig::plaintext("a:1");
        config.password = Some(Secret::from("open sesame".to_owned()));
        let wrong = "sasl.password=sesame,sesame".parse();
        config.properties = wrong.unwrap();
        let refused = config.validate().unwrap_err();
        let printed = format!(
            "{config:?} {} {refused}",
            serde_json::to_string(&config).unwrap()
        );
        assert!(!printed.contains("sesame"), "{printed}");
        assert!(printed.contains("must be NAME=VALUE"), "{printed}");
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let config: KafkaConfig = serde_json::from_str(
            r#"{"bootstrap_servers": "nowhere", "cert_file": "/does/not/exist", "username": "me",
                "properties": {"acks": "1", "sasl.password": "x", "compression.type": "lz4"}}"#,
        )
        .unwrap();
        let problems = config.validate().unwrap_err().0;
        let all = problems.join("\n");
        for part in [
            "\"nowhere\" is not host:port",
            "cert_file needs security_protocol",
            "/does/not/exist",
            "cert_file and key_file go together",
            "username needs security_protocol",
            "acks is not yours",
            "compression.type is not yours",
            "sasl.password is not yours",
        ] {
            assert!(all.contains(part), "{part} not in\n{all}");
        }
        assert_eq!(problems.len(), 8, "{all}");
        assert!(
            serde_json::from_str::<KafkaConfig>(r#"{"bootstrap": "a:1"}"#).is_err(),
            "unknown names are refused"
        );
    }

    #[test]
    fn a_command_line_outranks_its_config_file() {
        let file: KafkaConfig = serde_json::from_str(
            r#"{"bootstrap_servers": "file:1", "security_protocol": "ssl",
                "properties": {"a": "file", "b": "file"}}"#,
        )
        .unwrap();
        let line = Cli::parse_from(["x", "--kafka=line:1", "--kafka-properties=a=line"]).kafka;
        let both = line.or(file);
        assert_eq!(both.bootstrap_servers, "line:1");
        assert_eq!(both.security_protocol, Some(SecurityProtocol::Ssl));
        assert_eq!(both.properties.0["a"], "line");
        assert_eq!(both.properties.0["b"], "file");
    }

    #[test]
    fn a_password_file_is_read_without_its_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "open sesame\n").unwrap();
        let mut config: KafkaConfig = serde_json::from_str(
            r#"{"bootstrap_servers": "a:1", "security_protocol": "sasl_plaintext",
                "sasl_mechanism": "PLAIN", "username": "relay"}"#,
        )
        .unwrap();
        config.password_file = Some(file);
        let client = config.client_config().unwrap();
        assert_eq!(client.get("sasl.password"), Some("open sesame"));
    }
}
