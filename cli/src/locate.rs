//! Where the databases and Kafka are: named on the command line, or found by `./data`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use onceward::secret::{read_secret, without_passwords};
use onceward::{DatabaseUrl, Secret};
use onceward_kafka::KafkaConfig;
use serde::Deserialize;

use crate::args::PlaceArgs;
use crate::outcome::usage;

/// A database with its source name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    pub name: String,
    pub url: DatabaseUrl,
}

/// What the command looks at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    pub sources: Vec<Source>,
    /// As given, or as the manifest says.
    pub kafka: Option<KafkaConfig>,
}

/// `data/onceward.json`, written by `./dev up`.
#[derive(Debug, Deserialize)]
struct Manifest {
    format: u32,
    kafka: Option<String>,
    sources: Vec<ManifestSource>,
}

#[derive(Debug, Deserialize)]
struct ManifestSource {
    name: String,
    url: DatabaseUrl,
}

impl Place {
    /// Finds everything. With `--database` nothing else is looked at.
    pub fn find(args: &PlaceArgs, kafka: &KafkaConfig, folder: &Path) -> Result<Self> {
        let given = match &args.database_file {
            Some(file) => sources_in(file)?,
            None => args.database.clone(),
        };
        let mut place = if given.is_empty() {
            Self::in_folder(args, folder)?
        } else {
            let sources = given.iter().map(|one| named(one.reveal()));
            Self {
                sources: sources.collect::<Result<_>>()?,
                kafka: None,
            }
        };
        if !kafka.bootstrap_servers.is_empty() {
            place.kafka = Some(kafka.clone());
        } else if let Some(found) = place.kafka.take() {
            place.kafka = Some(kafka.clone().or(found));
        }
        Ok(place)
    }

    fn in_folder(args: &PlaceArgs, folder: &Path) -> Result<Self> {
        let data = match &args.data {
            Some(given) => given.clone(),
            None => upward(folder).ok_or_else(|| {
                usage(
                    "no ./data found here or above; start one with `./dev up`, or name the \
                     databases: --database NAME=URL --kafka HOST:PORT",
                )
            })?,
        };
        let manifest = data.join("onceward.json");
        if manifest.exists() {
            let text = std::fs::read_to_string(&manifest)
                .with_context(|| format!("can't read {}", manifest.display()))?;
            let found: Manifest = serde_json::from_str(&text)
                .with_context(|| format!("{} can't be understood", manifest.display()))?;
            if found.format != 1 {
                return Err(usage(format!(
                    "{} has form {}, this onceward knows 1",
                    manifest.display(),
                    found.format
                )));
            }
            let sources = found.sources.into_iter();
            return Ok(Self {
                sources: sources
                    .map(|s| Source {
                        name: s.name,
                        url: s.url,
                    })
                    .collect(),
                kafka: found.kafka.map(KafkaConfig::plaintext),
            });
        }
        let sources = database_files(&data)?;
        if sources.is_empty() {
            return Err(usage(format!(
                "{} holds neither onceward.json nor *.db",
                data.display()
            )));
        }
        Ok(Self {
            sources,
            kafka: None,
        })
    }

    /// The source of this name.
    pub fn source(&self, name: &str) -> Result<&Source> {
        let found = self.sources.iter().find(|s| s.name == name);
        found.ok_or_else(|| {
            let known: Vec<&str> = self.sources.iter().map(|s| s.name.as_str()).collect();
            let known = known.join(", ");
            usage(format!("no source {name:?}; there are {known}"))
        })
    }
}

/// What `--database-file` holds.
fn sources_in(file: &Path) -> Result<Vec<Secret>> {
    let text = read_secret(file).map_err(|error| usage(format!("--database-file {error}")))?;
    let parts = text.split([',', '\n']).map(str::trim);
    let parts = parts.filter(|part| !part.is_empty());
    Ok(parts.map(|part| part.to_owned().into()).collect())
}

fn named(text: &str) -> Result<Source> {
    let (name, url) = text
        .split_once('=')
        // A URL without a name in front may hold a = as well.
        .filter(|(name, _)| !name.is_empty() && !name.contains(':'))
        .ok_or_else(|| {
            let shown = without_passwords(text);
            usage(format!("--database takes NAME=URL, not {shown:?}"))
        })?;
    let url = DatabaseUrl::from(url);
    url.check()
        .map_err(|error| usage(format!("{name}: {error}")))?;
    Ok(Source {
        name: name.to_owned(),
        url,
    })
}

/// The nearest `data` folder that is ours, from `folder` up.
fn upward(folder: &Path) -> Option<PathBuf> {
    folder.ancestors().map(|a| a.join("data")).find(|data| {
        data.join("onceward.json").exists()
            || database_files(data).is_ok_and(|found| !found.is_empty())
    })
}

/// `order.db` is source `order`.
fn database_files(data: &Path) -> Result<Vec<Source>> {
    let entries =
        std::fs::read_dir(data).with_context(|| format!("can't read {}", data.display()))?;
    let mut sources = vec![];
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "db")
            && let Some(name) = path.file_stem().and_then(|n| n.to_str())
        {
            let absolute = path.canonicalize().unwrap_or_else(|_| path.clone());
            sources.push(Source {
                name: name.to_owned(),
                url: format!("sqlite://{}", absolute.display()).into(),
            });
        }
    }
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(sources)
}
