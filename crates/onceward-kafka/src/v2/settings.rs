//! What the producer has to know of a cluster, and how that is read from [`KafkaConfig`]: the only
//! file here that knows librdkafka's configuration.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::config::{KafkaConfig, SaslMechanism, Secret};

/// How batches are compressed. What a broker's topic says in `compression.type` comes after.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Fast.
    Lz4,
    /// Smaller, for three to four times the work.
    Zstd,
}

impl Compression {
    /// Its name, as configuration files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// How to reach a cluster, with all secrets read.
pub(super) struct Settings {
    /// host:port, at least one.
    pub(super) bootstrap: Vec<String>,
    pub(super) client_id: String,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) sasl: Option<Sasl>,
    pub(super) compression: Compression,
}

/// Name and password, and how to prove them.
pub(super) struct Sasl {
    pub(super) mechanism: SaslMechanism,
    pub(super) username: String,
    pub(super) password: Secret,
}

/// Why this publisher can't be used with these settings.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    /// rdkafka could.
    #[error("{0}")]
    Here(String),
    /// Nobody could.
    #[error("{0}")]
    Anywhere(String),
}

impl Settings {
    /// Reads certificates and passwords; blocks for as long as files take.
    pub(super) fn read(config: &KafkaConfig, compression: Compression) -> Result<Self, Unusable> {
        let mut client_id = "onceward".to_owned();
        for (name, value) in &config.properties.0 {
            match name.as_str() {
                "client.id" => client_id.clone_from(value),
                // Of no meaning here, and nobody misses it.
                "debug" | "log_level" => {}
                _ => {
                    return Err(Unusable::Here(format!(
                        "property {name} is known to librdkafka only"
                    )));
                }
            }
        }
        if config.key_password_file.is_some() {
            let text = "an encrypted key_file (key_password_file) can be read by librdkafka only";
            return Err(Unusable::Here(text.into()));
        }
        let sasl = match (config.protocol().has_sasl(), config.sasl_mechanism) {
            (true, Some(mechanism)) => Some(Sasl {
                mechanism,
                username: config.username.clone().unwrap_or_default(),
                password: config
                    .password()
                    .map_err(|problems| Unusable::Anywhere(problems.to_string()))?
                    .unwrap_or_else(|| Secret::from(String::new())),
            }),
            _ => None,
        };
        let tls = config
            .protocol()
            .has_tls()
            .then(|| tls(config))
            .transpose()
            .map_err(Unusable::Anywhere)?;
        Ok(Self {
            bootstrap: config
                .bootstrap_servers
                .split(',')
                .map(|server| server.trim().to_owned())
                .filter(|server| !server.is_empty())
                .collect(),
            client_id,
            tls,
            sasl,
            compression,
        })
    }
}

fn tls(config: &KafkaConfig) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match &config.ca_file {
        Some(file) => {
            for certificate in certificates("ca_file", file)? {
                roots
                    .add(certificate)
                    .map_err(|error| format!("ca_file {}: {error}", file.display()))?;
            }
        }
        None => {
            // Some of a system's certificates are often unusable; what is missing shows in the handshake.
            let (_usable, _ignored) =
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err("no certificates to check the brokers' by; give ca_file".into());
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let client = match (&config.cert_file, &config.key_file) {
        (Some(cert), Some(key)) => {
            let chain = certificates("cert_file", cert)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| format!("key_file {}: {error}", key.display()))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("cert_file {}: {error}", cert.display()))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Arc::new(client))
}

fn certificates(name: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let told = |error: String| format!("{name} {}: {error}", file.display());
    let found = CertificateDer::pem_file_iter(file)
        .map_err(|error| told(error.to_string()))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| told(error.to_string()))?;
    if found.is_empty() {
        return Err(told("no certificate in it".into()));
    }
    Ok(found)
}
