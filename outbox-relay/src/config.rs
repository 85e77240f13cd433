//! Settings of the program: flag over environment over file over default, one name for all four.

use std::fmt::Write as _;

use clap::ValueEnum;
use onceward::Secret;
use onceward::secret::without_password;
use onceward_http::Limits;
use onceward_kafka::{KafkaConfig, PublisherOptions};
use onceward_telemetry::{DEFAULT_LOG_FILTER, LogFormat};

use crate::options::{RelayOptions, SourceOptions};

pub use layer::{Layer, read_file, sources_in};
pub use settings::{SETTINGS, Setting};

mod layer;
mod settings;

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
            ("topic_hold_ms", &mut relay.topic_hold_ms),
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
        line("topic_hold_ms", relay.topic_hold_ms.to_string());
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
