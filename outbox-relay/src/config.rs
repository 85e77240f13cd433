//! Settings of the program: flag over environment over file over default, one name for all four.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::Path;

use clap::ValueEnum;
use onceward::secret::{read_secret, without_password};
use onceward::{DatabaseUrl, Secret};
use onceward_http::Limits;
use onceward_kafka::{KafkaConfig, PublisherOptions};
use onceward_telemetry::{DEFAULT_LOG_FILTER, LogFormat};

use crate::options::{RelayOptions, SourceOptions};

/// Everything the program runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// How to reach Kafka.
    pub kafka: KafkaConfig,
    /// Which producer publishes, and how it compresses.
    pub publisher: PublisherOptions,
    /// Address of the HTTP server.
    pub http: String,
    /// What a client of that server may cost.
    pub limits: Limits,
    /// Form of the log.
    pub log_format: LogFormat,
    /// `tracing` filter, as in `RUST_LOG`.
    pub log_filter: String,
    /// Collector that spans are exported to, as in `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub otlp_endpoint: Option<Secret>,
    /// The relay's own settings.
    pub relay: RelayOptions,
}

/// One setting: its name in the file; the flag is the name with dashes, the environment variable
/// `ONCEWARD_` and the name in capitals, unless a standard says otherwise.
#[derive(Debug)]
pub struct Setting {
    /// Name in the file.
    pub name: &'static str,
    /// Flag, without its dashes in front.
    pub flag: &'static str,
    /// Environment variable.
    pub env: &'static str,
    /// Placeholder in the help.
    pub value: &'static str,
    /// Help text.
    pub help: &'static str,
}

const fn setting(
    name: &'static str,
    flag: &'static str,
    env: &'static str,
    value: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        name,
        flag,
        env,
        value,
        help,
    }
}

/// Every setting, in the order of the help.
pub const SETTINGS: &[Setting] = &[
    setting(
        "http",
        "http",
        "ONCEWARD_HTTP",
        "HOST:PORT",
        "Address for /healthz /readyz /metrics /status",
    ),
    setting(
        "instance_id",
        "instance-id",
        "ONCEWARD_INSTANCE_ID",
        "ID",
        "Name of this process among the relays; the same name after a restart takes its sources \
         back at once",
    ),
    setting(
        "publisher",
        "publisher",
        "ONCEWARD_PUBLISHER",
        "auto|native|rdkafka",
        "Which producer publishes: native is the faster one and needs Kafka's transactions V2 (4.0 \
         and later), rdkafka works with every Kafka, auto takes native where it can [default: auto]",
    ),
    setting(
        "compression",
        "compression",
        "ONCEWARD_COMPRESSION",
        "none|lz4|zstd",
        "How batches are compressed [default: none]",
    ),
    setting(
        "batch_rows",
        "batch-rows",
        "ONCEWARD_BATCH_ROWS",
        "N",
        "Rows of one Kafka transaction at most, 1 to 20000",
    ),
    setting(
        "batch_bytes",
        "batch-bytes",
        "ONCEWARD_BATCH_BYTES",
        "BYTES",
        "Payload bytes of one Kafka transaction at most",
    ),
    setting(
        "poll_busy_ms",
        "poll-busy-ms",
        "ONCEWARD_POLL_BUSY_MS",
        "MS",
        "Time between fetches of a busy source; an idle one polls each 25 ms, or 250 ms with hints",
    ),
    setting(
        "mirror_ms",
        "mirror-ms",
        "ONCEWARD_MIRROR_MS",
        "MS",
        "Least time between two writes of the progress mirror",
    ),
    setting(
        "topics_refresh_ms",
        "topics-refresh-ms",
        "ONCEWARD_TOPICS_REFRESH_MS",
        "MS",
        "Time between refreshes of partition counts",
    ),
    setting(
        "retention_seconds",
        "retention-seconds",
        "ONCEWARD_RETENTION_SECONDS",
        "S",
        "How long published rows stay in the outbox",
    ),
    setting(
        "janitor_schedule",
        "janitor-schedule",
        "ONCEWARD_JANITOR_SCHEDULE",
        "CRON",
        "When the janitor runs: cron expression with seconds, UTC",
    ),
    setting(
        "janitor_chunk_rows",
        "janitor-chunk-rows",
        "ONCEWARD_JANITOR_CHUNK_ROWS",
        "N",
        "Rows the janitor deletes in one transaction",
    ),
    setting(
        "accept_repartitioned",
        "accept-repartitioned",
        "ONCEWARD_ACCEPT_REPARTITIONED",
        "TOPIC,…",
        "Keyed topics whose changed partition count is accepted, after they were drained",
    ),
    setting(
        "stop_ms",
        "stop-ms",
        "ONCEWARD_STOP_MS",
        "MS",
        "Time a graceful stop gives the open Kafka transaction",
    ),
    setting(
        "request_timeout_ms",
        "request-timeout-ms",
        "ONCEWARD_REQUEST_TIMEOUT_MS",
        "MS",
        "Longest time an HTTP request may take; then it is answered 503",
    ),
    setting(
        "header_timeout_ms",
        "header-timeout-ms",
        "ONCEWARD_HEADER_TIMEOUT_MS",
        "MS",
        "Longest wait for the head of a request, and between two of a connection; then it is closed",
    ),
    setting(
        "send_timeout_ms",
        "send-timeout-ms",
        "ONCEWARD_SEND_TIMEOUT_MS",
        "MS",
        "Longest wait for a client that does not take its answer; then its connection is closed",
    ),
    setting(
        "max_requests",
        "max-requests",
        "ONCEWARD_MAX_REQUESTS",
        "N",
        "HTTP requests answered at the same time; one more is answered 503 at once",
    ),
    setting(
        "max_connections",
        "max-connections",
        "ONCEWARD_MAX_CONNECTIONS",
        "N",
        "HTTP connections open at the same time; one more is answered 503 and closed",
    ),
    setting(
        "max_body_bytes",
        "max-body-bytes",
        "ONCEWARD_MAX_BODY_BYTES",
        "BYTES",
        "Largest body of an HTTP request; a larger one is answered 413",
    ),
    setting(
        "max_uri_bytes",
        "max-uri-bytes",
        "ONCEWARD_MAX_URI_BYTES",
        "BYTES",
        "Longest path with query; a longer one is answered 414",
    ),
    setting(
        "max_header_bytes",
        "max-header-bytes",
        "ONCEWARD_MAX_HEADER_BYTES",
        "BYTES",
        "All header fields of an HTTP request together; more is answered 431",
    ),
    setting(
        "log_format",
        "log-format",
        "ONCEWARD_LOG_FORMAT",
        "auto|pretty|json",
        "Form of the log on stderr; auto is pretty on a terminal, else json",
    ),
    setting(
        "log_filter",
        "log-filter",
        "ONCEWARD_LOG_FILTER",
        "FILTER",
        "What is logged, as in RUST_LOG",
    ),
    setting(
        "otlp_endpoint",
        "otlp-endpoint",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "URL",
        "Collector that spans are exported to (OTLP over HTTP), such as http://127.0.0.1:4318; \
         without it nothing is. The standard's other OTEL_ variables count too, and \
         OTEL_EXPORTER_OTLP_HEADERS_FILE: a file with the headers, such as authorization=Bearer TOKEN",
    ),
];

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

impl Config {
    /// Merges layers, the strongest first, over the defaults; returns every problem found, after
    /// those found while reading the layers.
    pub fn from_layers(layers: &[Layer], mut problems: Vec<String>) -> Result<Self, Vec<String>> {
        let get = |name: &str| {
            layers
                .iter()
                .find_map(|layer| layer.values.get(name))
                .map(String::as_str)
        };
        let (mut relay, mut limits) = (RelayOptions::default(), Limits::default());
        let mut numbers = [
            ("batch_bytes", &mut relay.batch_bytes),
            ("poll_busy_ms", &mut relay.poll_busy_ms),
            ("mirror_ms", &mut relay.mirror_ms),
            ("topics_refresh_ms", &mut relay.topics_refresh_ms),
            ("retention_seconds", &mut relay.retention_seconds),
            ("stop_ms", &mut relay.stop_ms),
            ("request_timeout_ms", &mut limits.request_timeout_ms),
            ("header_timeout_ms", &mut limits.header_timeout_ms),
            ("send_timeout_ms", &mut limits.send_timeout_ms),
            ("max_requests", &mut limits.max_requests),
            ("max_connections", &mut limits.max_connections),
            ("max_body_bytes", &mut limits.max_body_bytes),
            ("max_uri_bytes", &mut limits.max_uri_bytes),
            ("max_header_bytes", &mut limits.max_header_bytes),
        ];
        for (name, slot) in &mut numbers {
            read_number(get(name), name, *slot, &mut problems);
        }
        read_number(
            get("batch_rows"),
            "batch_rows",
            &mut relay.batch_rows,
            &mut problems,
        );
        read_number(
            get("janitor_chunk_rows"),
            "janitor_chunk_rows",
            &mut relay.janitor_chunk_rows,
            &mut problems,
        );
        if let Some(id) = get("instance_id") {
            relay.instance_id = id.to_owned();
        }
        if let Some(cron) = get("janitor_schedule") {
            relay.janitor_schedule = cron.to_owned();
        }
        if let Some(topics) = get("accept_repartitioned") {
            relay.accept_repartitioned = list(topics);
        }
        let sources = layers
            .iter()
            .map(|layer| &layer.sources)
            .find(|sources| !sources.is_empty());
        for text in sources.into_iter().flatten() {
            match text.reveal().parse::<SourceOptions>() {
                Ok(source) => relay.sources.push(source),
                Err(problem) => problems.push(format!("source: {problem}")),
            }
        }
        let format = get("log_format").unwrap_or(LogFormat::Auto.as_str());
        let log_format = LogFormat::from_str(format, false).unwrap_or_else(|_| {
            problems.push(format!(
                "log_format must be auto, pretty or json, not {format:?}"
            ));
            LogFormat::Auto
        });
        let mut publisher = PublisherOptions::default();
        read_choice(
            get("publisher"),
            "publisher",
            &mut publisher.kind,
            &mut problems,
        );
        read_choice(
            get("compression"),
            "compression",
            &mut publisher.compression,
            &mut problems,
        );
        let http = get("http").unwrap_or("127.0.0.1:9100").to_owned();
        if http
            .rsplit_once(':')
            .is_none_or(|(_, port)| port.parse::<u16>().is_err())
        {
            problems.push(format!("http must be HOST:PORT, not {http:?}"));
        }
        problems.extend(relay.validate());
        problems.extend(limits.validate());
        let kafka = layers.iter().fold(KafkaConfig::default(), |strong, weak| {
            strong.or(weak.kafka.clone())
        });
        if let Err(found) = kafka.validate() {
            problems.extend(
                found
                    .0
                    .into_iter()
                    .map(|problem| format!("kafka: {problem}")),
            );
        }
        if problems.is_empty() {
            Ok(Self {
                kafka,
                publisher,
                http,
                limits,
                log_format,
                log_filter: get("log_filter").unwrap_or(DEFAULT_LOG_FILTER).to_owned(),
                otlp_endpoint: get("otlp_endpoint")
                    .filter(|url| !url.is_empty())
                    .map(|url| url.to_owned().into()),
                relay,
            })
        } else {
            Err(problems)
        }
    }

    /// The effective settings in the form of the config file, passwords replaced.
    pub fn to_toml(&self) -> String {
        let relay = &self.relay;
        let mut out = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "{name} = {value}");
        };
        line("http", quoted(&self.http));
        line("instance_id", quoted(&relay.instance_id));
        line("publisher", quoted(self.publisher.kind.name()));
        line("compression", quoted(self.publisher.compression.name()));
        line("batch_rows", relay.batch_rows.to_string());
        line("batch_bytes", relay.batch_bytes.to_string());
        line("poll_busy_ms", relay.poll_busy_ms.to_string());
        line("mirror_ms", relay.mirror_ms.to_string());
        line("topics_refresh_ms", relay.topics_refresh_ms.to_string());
        line("retention_seconds", relay.retention_seconds.to_string());
        line("janitor_schedule", quoted(&relay.janitor_schedule));
        line("janitor_chunk_rows", relay.janitor_chunk_rows.to_string());
        let accepted: Vec<String> = relay
            .accept_repartitioned
            .iter()
            .map(|t| quoted(t))
            .collect();
        line("accept_repartitioned", format!("[{}]", accepted.join(", ")));
        line("stop_ms", relay.stop_ms.to_string());
        let limits = &self.limits;
        for (name, limit) in [
            ("request_timeout_ms", limits.request_timeout_ms),
            ("header_timeout_ms", limits.header_timeout_ms),
            ("send_timeout_ms", limits.send_timeout_ms),
            ("max_requests", limits.max_requests),
            ("max_connections", limits.max_connections),
            ("max_body_bytes", limits.max_body_bytes),
            ("max_uri_bytes", limits.max_uri_bytes),
            ("max_header_bytes", limits.max_header_bytes),
        ] {
            line(name, limit.to_string());
        }
        line("log_format", quoted(self.log_format.as_str()));
        line("log_filter", quoted(&self.log_filter));
        let endpoint = self.otlp_endpoint.as_ref();
        let endpoint = endpoint.map(|url| without_password(url.reveal()));
        line("otlp_endpoint", quoted(&endpoint.unwrap_or_default()));
        out.push_str("\n[sources]\n");
        for source in &relay.sources {
            let _ = writeln!(
                out,
                "{} = {}",
                quoted(source.name.as_str()),
                quoted(&source.url.to_string())
            );
        }
        out.push_str("\n[kafka]\n");
        // Its secrets print themselves as `***`.
        out.push_str(&toml::to_string(&self.kafka).unwrap_or_default());
        out
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Comma separated, blanks dropped.
pub fn list(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

fn read_choice<T: ValueEnum>(
    text: Option<&str>,
    name: &str,
    slot: &mut T,
    problems: &mut Vec<String>,
) {
    let Some(text) = text else { return };
    match T::from_str(text, false) {
        Ok(choice) => *slot = choice,
        Err(_) => {
            let names: Vec<String> = T::value_variants()
                .iter()
                .filter_map(ValueEnum::to_possible_value)
                .map(|value| value.get_name().to_owned())
                .collect();
            problems.push(format!(
                "{name} must be {}, not {text:?}",
                names.join(" or ")
            ));
        }
    }
}

fn read_number<T: std::str::FromStr>(
    text: Option<&str>,
    name: &str,
    slot: &mut T,
    problems: &mut Vec<String>,
) {
    if let Some(text) = text {
        match text.parse() {
            Ok(number) => *slot = number,
            Err(_) => problems.push(format!("{name} must be a whole number, not {text:?}")),
        }
    }
}
