//! A Kafka that asks who you are (TLS with SASL, or with a client certificate) and what you may
//! (an authorizer that denies all that is not allowed).

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::anyhow;

use crate::Result;
use crate::acl::Acl;
use crate::certificates::{Authority, Request};
use crate::kafka::{Kafka, KafkaOptions};
use crate::ports::Port;
use crate::process::OwnFolder;

/// The user whose password the broker keeps in its own configuration: SASL PLAIN knows no other.
pub const PLAIN_USER: &str = "plain";

/// A broker with four doors, all on 127.0.0.1.
///
/// | door | who comes in |
/// |---|---|
/// | [`super_user`](Self::super_user) | anybody, and may do all: for setting things up |
/// | [`sasl`](Self::sasl) | SCRAM-SHA-512 users and the PLAIN user |
/// | [`mutual_tls`](Self::mutual_tls) | whoever has a certificate of ours; its common name is the user |
/// | [`expired`](Self::expired) | nobody: the broker's certificate ended yesterday |
#[derive(Debug)]
pub struct SecureKafka {
    kafka: Kafka,
    authority: Authority,
    ca_file: PathBuf,
    sasl: Port,
    mutual_tls: Port,
    expired: Port,
    folder: OwnFolder,
    // The broker's own ports stay ours as long as it may start again.
    _ports: [Port; 2],
}

impl SecureKafka {
    /// Starts a broker that knows these users by SCRAM-SHA-512. None may do anything yet.
    pub fn start(users: &[&str]) -> Result<Self> {
        let folder = OwnFolder::new("onceward-secure-")?;
        let authority = Authority::new("broker-authority")?;
        let ca_file = authority.write(folder.path())?;
        let keystore = |name: &str, expired: bool| -> Result<String> {
            let file = folder.path().join(name);
            // By its address only: `localhost` is a wrong host name.
            let request = Request {
                name: "kafka",
                addresses: &["127.0.0.1"],
                expired,
                ..Request::default()
            };
            authority.issue(request)?.write_keystore(&file)?;
            Ok(file.display().to_string())
        };
        let (valid, outdated) = (
            keystore("valid.pem", false)?,
            keystore("expired.pem", true)?,
        );
        let port = Port::take()?;
        let controller_port = Port::take()?;
        let (sasl, mutual_tls, expired) = (Port::take()?, Port::take()?, Port::take()?);
        let listeners = [
            ("PLAINTEXT", port.number()),
            ("SASL", sasl.number()),
            ("MUTUAL", mutual_tls.number()),
            ("EXPIRED", expired.number()),
        ]
        .map(|(name, port)| format!("{name}://127.0.0.1:{port}"))
        .join(",");
        let controller = format!("CONTROLLER://127.0.0.1:{}", controller_port.number());
        let plain_login = format!(
            "org.apache.kafka.common.security.plain.PlainLoginModule required user_{PLAIN_USER}=\"{}\";",
            password(PLAIN_USER)
        );
        let properties = [
            ("listeners", format!("{listeners},{controller}")),
            ("advertised.listeners", listeners),
            (
                "listener.security.protocol.map",
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_SSL,MUTUAL:SSL,EXPIRED:SSL"
                    .to_owned(),
            ),
            ("sasl.enabled.mechanisms", "SCRAM-SHA-512,PLAIN".to_owned()),
            (
                "listener.name.sasl.scram-sha-512.sasl.jaas.config",
                "org.apache.kafka.common.security.scram.ScramLoginModule required;".to_owned(),
            ),
            ("listener.name.sasl.plain.sasl.jaas.config", plain_login),
            ("ssl.keystore.type", "PEM".to_owned()),
            ("ssl.keystore.location", valid),
            ("ssl.truststore.type", "PEM".to_owned()),
            ("ssl.truststore.location", ca_file.display().to_string()),
            ("listener.name.expired.ssl.keystore.type", "PEM".to_owned()),
            ("listener.name.expired.ssl.keystore.location", outdated),
            (
                "listener.name.mutual.ssl.client.auth",
                "required".to_owned(),
            ),
            (
                "ssl.principal.mapping.rules",
                "RULE:^CN=([^,]*).*$/$1/".to_owned(),
            ),
            (
                "authorizer.class.name",
                "org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned(),
            ),
            // Who comes by the plain door: ourselves, and the broker to its controller.
            ("super.users", "User:ANONYMOUS".to_owned()),
        ];
        let mut format_arguments = Vec::new();
        for user in users {
            format_arguments.push("--add-scram".to_owned());
            format_arguments.push(format!(
                "SCRAM-SHA-512=[name={user},password={}]",
                password(user)
            ));
        }
        let kafka = Kafka::start_with(KafkaOptions {
            port: Some(port.number()),
            controller_port: Some(controller_port.number()),
            properties: properties
                .map(|(name, value)| (name.to_owned(), value))
                .to_vec(),
            format_arguments,
            ..KafkaOptions::default()
        })?;
        Ok(Self {
            kafka,
            authority,
            ca_file,
            sasl,
            mutual_tls,
            expired,
            folder,
            _ports: [port, controller_port],
        })
    }

    /// The broker itself.
    pub fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    /// `127.0.0.1:port` of the plain listener, on which everybody may do everything.
    pub fn super_user(&self) -> String {
        self.kafka.bootstrap()
    }

    /// `127.0.0.1:port` of the listener with TLS and SASL.
    pub fn sasl(&self) -> String {
        format!("127.0.0.1:{}", self.sasl.number())
    }

    /// The same place by a name that its certificate does not have.
    pub fn sasl_by_wrong_name(&self) -> String {
        format!("localhost:{}", self.sasl.number())
    }

    /// `127.0.0.1:port` of the listener that wants a client's certificate.
    pub fn mutual_tls(&self) -> String {
        format!("127.0.0.1:{}", self.mutual_tls.number())
    }

    /// `127.0.0.1:port` of the listener whose certificate has expired.
    pub fn expired(&self) -> String {
        format!("127.0.0.1:{}", self.expired.number())
    }

    /// The certificate of the authority that signed the broker's.
    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// Who signs what this broker trusts.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A folder for files of one's own, gone with the broker.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Allows it.
    pub fn allow(&self, rule: &Acl) -> Result<()> {
        rule.add(&self.super_user())
    }

    /// Allows it no more.
    pub fn disallow(&self, rule: &Acl) -> Result<()> {
        rule.remove(&self.super_user())
    }
}

/// A user's password, which looks like no other text: tests search logs for it.
pub fn password(user: &str) -> String {
    format!("pass-of-{user}-Zq7x")
}

/// The one secure broker that the tests of this binary share, with the user `alice` and those of
/// docs/SECURITY.md.
pub fn shared() -> Result<&'static SecureKafka> {
    const USERS: &[&str] = &[
        "alice",
        "setup",
        "relay",
        "order",
        "inventory",
        "payment",
        "delivery",
        "customer",
        "analytics",
        "notification",
        "saga-orchestrator",
        "onceward",
        "operator",
    ];
    static SHARED: OnceLock<std::result::Result<SecureKafka, String>> = OnceLock::new();
    SHARED
        .get_or_init(|| SecureKafka::start(USERS).map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|error| anyhow!("{error}"))
}
