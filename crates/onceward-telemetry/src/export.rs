//! Spans to a collector: OTLP over HTTP, protobuf.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::{Key, KeyValue};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, SpanData, SpanExporter,
};

use crate::metrics::{SPANS_EXPORTED, SPANS_LOST};
use crate::{Settings, TelemetryError, without_user};

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

/// Batches spans on a thread of its own and sends them to `endpoint`. Sampler, limits, time-outs,
/// headers and resource attributes come from the standard's environment variables.
pub(crate) fn provider(
    endpoint: &str,
    settings: &Settings<'_>,
) -> Result<SdkTracerProvider, TelemetryError> {
    if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
        return Err(TelemetryError::Endpoint {
            endpoint: without_user(endpoint),
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
    use super::resolve;

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
