//! Logs, metrics and traces of a service; the doing is `onceward-telemetry`'s.

use std::sync::OnceLock;

use clap::Args;
use metrics_exporter_prometheus::PrometheusHandle;
use onceward::Secret;
use onceward_telemetry::{DEFAULT_LOG_FILTER, LogFormat, Settings, Telemetry, traces_endpoint};

use crate::Definition;

static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();

/// What is logged and traced, and how.
#[derive(Debug, Clone, Args)]
pub struct TelemetryOptions {
    /// What is logged: info, or filters such as onceward=debug,info.
    #[arg(
        long,
        env = "ONCEWARD_LOG_FILTER",
        default_value = DEFAULT_LOG_FILTER,
        value_name = "FILTER"
    )]
    pub log_filter: String,
    /// How log lines look.
    #[arg(long, env = "ONCEWARD_LOG_FORMAT", value_enum, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
    /// Collector that spans are exported to (OTLP over HTTP), such as http://127.0.0.1:4318; without
    /// it nothing is. The standard's other OTEL_ variables count too, and
    /// OTEL_EXPORTER_OTLP_HEADERS_FILE: a file with the headers, such as authorization=Bearer TOKEN.
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub otlp_endpoint: Option<Secret>,
}

/// Installs logger, metrics and export of spans of this process. Once.
///
/// # Errors
/// Settings that are wrong; a collector that is not there is none.
pub fn init(
    options: &TelemetryOptions,
    definition: &Definition,
    instance: Option<&str>,
) -> anyhow::Result<Telemetry> {
    let telemetry = onceward_telemetry::init(&Settings {
        service: definition.name,
        instance,
        log_filter: &options.log_filter,
        log_format: options.log_format,
        traces: traces_endpoint(options.otlp_endpoint.as_ref().map(Secret::reveal)),
    })?;
    let _first = METRICS.set(telemetry.metrics().clone());
    Ok(telemetry)
}

/// The metrics of this process in Prometheus' text format; empty before [`init`].
pub(crate) fn render_metrics() -> String {
    METRICS
        .get()
        .map(PrometheusHandle::render)
        .unwrap_or_default()
}

/// Lets histograms forget old samples; to be called every few seconds.
pub(crate) fn metrics_upkeep() {
    if let Some(handle) = METRICS.get() {
        handle.run_upkeep();
    }
}
