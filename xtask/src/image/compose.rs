//! `docker-compose.yml`, with its anchors and merges resolved as Compose does.

use std::collections::BTreeMap;

use anyhow::Context;
use serde::Deserialize;
use serde_json::Value;

use crate::Result;
use crate::layout::root;

/// As much of the file as is looked at.
#[derive(Debug, Deserialize)]
pub struct Compose {
    /// The containers.
    pub services: BTreeMap<String, Service>,
    /// Files that are written into containers.
    pub configs: BTreeMap<String, Config>,
    /// What outlives a container.
    pub volumes: BTreeMap<String, Value>,
}

/// One container.
#[derive(Debug, Deserialize)]
pub struct Service {
    /// Its image, with a tag unless it is ours.
    pub image: String,
    /// Program and arguments; empty = the image's own.
    #[serde(default)]
    pub command: Vec<String>,
    /// Its whole environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// `ADDRESS:PORT:PORT INSIDE`.
    #[serde(default)]
    pub ports: Vec<String>,
    /// How it shows that it works.
    pub healthcheck: Option<Healthcheck>,
    /// What has to be there before it is started, and in which state.
    #[serde(default)]
    pub depends_on: BTreeMap<String, Dependency>,
    /// When it is started again.
    #[serde(default)]
    pub restart: String,
    /// `VOLUME:PATH`.
    #[serde(default)]
    pub volumes: Vec<String>,
}

/// A command that fails while the container is not healthy.
#[derive(Debug, Deserialize)]
pub struct Healthcheck {
    /// `CMD`, program and arguments.
    pub test: Vec<String>,
}

/// The state in which another container must be.
#[derive(Debug, Deserialize)]
pub struct Dependency {
    /// `service_healthy` or `service_completed_successfully`.
    pub condition: String,
}

/// A file with this text.
#[derive(Debug, Deserialize)]
pub struct Config {
    /// Its text.
    pub content: String,
}

impl Service {
    /// The one published port: on this machine, and inside.
    pub fn port(&self) -> Option<(u16, u16)> {
        let mut numbers = self.ports.first()?.rsplit(':');
        let inside = numbers.next()?.parse().ok()?;
        Some((numbers.next()?.parse().ok()?, inside))
    }
}

impl Compose {
    /// Reads the repository's file.
    pub fn read() -> Result<Self> {
        Ok(serde_json::from_value(value()?)?)
    }

    /// Those of its containers that run our image, but for the one that sets up and ends.
    pub fn ours(&self) -> impl Iterator<Item = (&String, &Service)> {
        self.services
            .iter()
            .filter(|(name, service)| service.image == "onceward" && *name != "setup")
    }
}

/// The repository's file as plain data.
pub fn value() -> Result<Value> {
    let path = root().join("docker-compose.yml");
    let text = std::fs::read_to_string(&path).context("reading docker-compose.yml")?;
    serde_saphyr::from_str(&text).context("docker-compose.yml is no YAML")
}
