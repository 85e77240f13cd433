//! What one place says: the file, the environment or the flags.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use onceward::secret::read_secret;
use onceward::{DatabaseUrl, Secret};
use onceward_kafka::KafkaConfig;

use super::{SETTINGS, list};

/// What one layer says: setting name → text; sources beside it.
#[derive(Default, Clone)]
pub struct Layer {
    /// Scalar settings.
    pub values: BTreeMap<String, String>,
    /// `NAME=URL`; a layer that names any replaces those of the layers below.
    pub sources: Vec<Secret>,
    /// How to reach Kafka.
    pub kafka: KafkaConfig,
}

/// Names alone: a value may be a URL with a password.
impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer")
            .field("values", &self.values.keys())
            .field("sources", &self.sources)
            .field("kafka", &self.kafka)
            .finish()
    }
}

/// The sources that a file holds: `NAME=URL`, comma separated as in `ONCEWARD_SOURCES`, or one a line.
pub fn sources_in(file: &Path) -> Result<Vec<Secret>, String> {
    let text = read_secret(file).map_err(|error| format!("sources: {error}"))?;
    Ok(list(&text.replace('\n', ","))
        .into_iter()
        .map(Secret::from)
        .collect())
}

/// Reads the file's layer. Unknown names are problems, not silence.
pub fn read_file(path: &Path, problems: &mut Vec<String>) -> Layer {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            problems.push(format!("{}: {error}", path.display()));
            return Layer::default();
        }
    };
    match text.parse::<toml::Table>() {
        Ok(table) => file_layer(table, problems),
        Err(error) => {
            // The parser's text quotes the line, which may hold a password: name the place only.
            let line = error
                .span()
                .map_or(0, |span| text[..span.start.min(text.len())].lines().count());
            problems.push(format!(
                "{}: line {line}: {}",
                path.display(),
                error.message()
            ));
            Layer::default()
        }
    }
}

fn file_layer(table: toml::Table, problems: &mut Vec<String>) -> Layer {
    let mut layer = Layer::default();
    for (name, value) in table {
        match (name.as_str(), value) {
            ("sources", toml::Value::Table(sources)) => {
                for (source, url) in sources {
                    match database_url(url) {
                        Ok(url) => {
                            let named = format!("{source}={}", url.reveal());
                            layer.sources.push(named.into());
                        }
                        Err(problem) => problems.push(format!("sources.{source}: {problem}")),
                    }
                }
            }
            ("sources", _) => problems.push("sources must be a table of NAME = \"URL\"".into()),
            ("kafka", toml::Value::String(servers)) => {
                layer.kafka.bootstrap_servers = servers;
            }
            ("kafka", value) => match value.try_into::<KafkaConfig>() {
                Ok(kafka) => layer.kafka = kafka,
                // `message` alone: the whole text would quote the line, secrets included.
                Err(error) => problems.push(format!("kafka: {}", error.message())),
            },
            (known, value) if SETTINGS.iter().any(|setting| setting.name == known) => {
                let text = match value {
                    toml::Value::String(text) => Some(text),
                    toml::Value::Integer(number) => Some(number.to_string()),
                    toml::Value::Boolean(flag) => Some(flag.to_string()),
                    toml::Value::Array(items) => items
                        .into_iter()
                        .map(|item| item.as_str().map(str::to_owned))
                        .collect::<Option<Vec<_>>>()
                        .map(|items| items.join(",")),
                    toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => {
                        None
                    }
                };
                match text {
                    Some(text) => {
                        layer.values.insert(name, text);
                    }
                    None => problems.push(format!("{name} must be text, a number or a list")),
                }
            }
            _ => problems.push(format!("{name} is not a setting")),
        }
    }
    layer
}

/// `"URL"`, or `{ file = "PATH" }` of the file that holds it.
fn database_url(value: toml::Value) -> Result<DatabaseUrl, String> {
    match value {
        toml::Value::String(url) => Ok(url.into()),
        toml::Value::Table(table) if table.len() == 1 => match table.get("file") {
            Some(toml::Value::String(file)) => {
                DatabaseUrl::from_file(Path::new(file)).map_err(|error| error.to_string())
            }
            _ => Err("must be \"URL\" or { file = \"PATH\" }".into()),
        },
        _ => Err("must be \"URL\" or { file = \"PATH\" }".into()),
    }
}
