//! Spans to a collector: OTLP over HTTP, protobuf.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use onceward::secret::{read_secret, without_password};
use opentelemetry::{Key, KeyValue};
use opentelemetry_otlp::{WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, SpanData, SpanExporter,
};

use crate::metrics::{SPANS_EXPORTED, SPANS_LOST};
use crate::{Settings, TelemetryError};

/// Spans that wait for the collector, unless `OTEL_BSP_MAX_QUEUE_SIZE` says otherwise: OpenTelemetry's
/// own 2,048 are less than one batch of a busy relay.
const QUEUE: usize = 8_192;

/// Where spans go, by the standard's rules: `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` as it stands, else
/// `base` (`--otlp-endpoint`, `OTEL_EXPORTER_OTLP_ENDPOINT`) and `/v1/traces`, else nowhere. Nowhere
/// too with `OTEL_SDK_DISABLED=true` or `OTEL_TRACES_EXPORTER=none`.
pub fn traces_endpoint(base: Option<&str>) -> Option<String> {
    resolve(base, variable)
}

fn resolve(base: Option<&str>, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let says = |name, wanted| variable(name).is_some_and(|v| v.eq_ignore_ascii_case(wanted));
    if says("OTEL_SDK_DISABLED", "true") || says("OTEL_TRACES_EXPORTER", "none") {
        return None;
    }
    let base = base.map(str::trim).filter(|base| !base.is_empty());
    variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        .or_else(|| base.map(|base| format!("{}/v1/traces", base.trim_end_matches('/'))))
}

/// An environment variable; an empty one counts as unset, as the standard asks.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The standard's headers, which hold a token as a rule, and ours: the file that holds the same.
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
const HEADERS_FILE: &str = "OTEL_EXPORTER_OTLP_HEADERS_FILE";

/// What the file says, if there is one: `name=value`, comma separated or one a line.
fn secret_headers(
    file: Option<String>,
    plain: Option<String>,
) -> Result<HashMap<String, String>, TelemetryError> {
    let Some(file) = file else {
        return Ok(HashMap::new());
    };
    let wrong = |what: String| TelemetryError::Headers(what);
    if plain.is_some() {
        return Err(wrong(format!("{HEADERS} is set as well: keep one")));
    }
    let text = read_secret(Path::new(&file)).map_err(|error| wrong(error.to_string()))?;
    let pairs = text.split([',', '\n']).map(str::trim);
    pairs
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
            None => Err(wrong(format!(
                "{file} must hold name=value, comma separated"
            ))),
        })
        .collect()
}

/// Batches spans on a thread of its own and sends them to `endpoint`. Sampler, limits, time-outs,
/// headers and resource attributes come from the standard's environment variables.
pub(crate) fn provider(
    endpoint: &str,
    settings: &Settings<'_>,
) -> Result<SdkTracerProvider, TelemetryError> {
    if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
        return Err(TelemetryError::Endpoint {
            endpoint: without_password(endpoint),
        });
    }
    for name in [
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
    ] {
        match variable(name) {
            Some(value) if value != "http/protobuf" => {
                return Err(TelemetryError::Protocol {
                    variable: name,
                    value,
                });
            }
            Some(_) => break,
            None => {}
        }
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_endpoint(endpoint)
        .with_headers(secret_headers(variable(HEADERS_FILE), variable(HEADERS))?)
        .build()
        .map_err(TelemetryError::Exporter)?;
    let mut batches = BatchConfigBuilder::default();
    if variable("OTEL_BSP_MAX_QUEUE_SIZE").is_none() {
        batches = batches.with_max_queue_size(QUEUE);
    }
    let processor = BatchSpanProcessor::builder(Watched {
        exporter,
        failing: AtomicBool::new(false),
    })
    .with_batch_config(batches.build())
    .build();
    Ok(SdkTracerProvider::builder()
        .with_resource(resource(settings))
        .with_span_processor(processor)
        .build())
}

fn resource(settings: &Settings<'_>) -> Resource {
    let named = Resource::builder().build();
    let name = named.get(&Key::from_static_str("service.name"));
    let unnamed = name.is_none_or(|name| name.as_str().starts_with("unknown_service"));
    let mut builder = Resource::builder()
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if unnamed {
        builder = builder.with_service_name(settings.service.to_owned());
    }
    if let Some(instance) = settings.instance {
        builder = builder.with_attribute(KeyValue::new("service.instance.id", instance.to_owned()));
    }
    builder.build()
}

/// Counts what came through, and says once when nothing does and once when it does again.
#[derive(Debug)]
struct Watched {
    exporter: opentelemetry_otlp::SpanExporter,
    failing: AtomicBool,
}

impl SpanExporter for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        let outcome = self.exporter.export(batch).await;
        match &outcome {
            Ok(()) => {
                metrics::counter!(SPANS_EXPORTED).increment(count);
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("spans are exported again");
                }
            }
            Err(error) => {
                metrics::counter!(SPANS_LOST).increment(count);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "spans can't be exported and are lost; all else goes on");
                }
            }
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::{resolve, secret_headers};

    #[test]
    fn headers_come_from_a_file_and_a_wrong_one_is_not_quoted() {
        let folder = std::env::temp_dir();
        let file = folder.join(format!("onceward-headers-{}", std::process::id()));
        let read = |text: &str, plain: Option<&str>| {
            std::fs::write(&file, text).unwrap();
            secret_headers(Some(file.display().to_string()), plain.map(str::to_owned))
        };
        let found = read("authorization=Bearer a=b, x=1\n", None).unwrap();
        assert_eq!(found["authorization"], "Bearer a=b");
        assert_eq!(found["x"], "1");
        for (text, plain) in [("hush", None), ("a=hush", Some("a=hush"))] {
            let told = read(text, plain).unwrap_err().to_string();
            assert!(!told.contains("hush"), "{told}");
        }
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn spans_go_where_the_standard_variables_say() {
        let traces = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        for (base, variables, expected) in [
            (None, vec![], None),
            (Some(""), vec![], None),
            (
                Some("http://c:4318/"),
                vec![],
                Some("http://c:4318/v1/traces"),
            ),
            (
                Some("http://c:4318"),
                vec![(traces, "http://t/x")],
                Some("http://t/x"),
            ),
            (None, vec![(traces, "http://t/x")], Some("http://t/x")),
            (
                Some("http://c:4318"),
                vec![("OTEL_SDK_DISABLED", "TRUE")],
                None,
            ),
            (
                Some("http://c:4318"),
                vec![("OTEL_TRACES_EXPORTER", "none")],
                None,
            ),
            (
                Some("http://c:4318"),
                vec![("OTEL_TRACES_EXPORTER", "otlp")],
                Some("http://c:4318/v1/traces"),
            ),
        ] {
            let variable = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(
                resolve(base, variable).as_deref(),
                expected,
                "{base:?} {variables:?}"
            );
        }
    }
}
