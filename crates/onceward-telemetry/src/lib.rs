//! Logs, metrics and traces of a process, installed by one call. What relay and services share.
//!
//! - **Logs** go to stderr, for people on a terminal, else one JSON object a line.
//! - **Metrics** are Prometheus text, rendered from a handle.
//! - **Traces** are exported by OTLP (HTTP, protobuf), if an endpoint is set. They ride on
//!   [`onceward::trace`]: without an endpoint no bridge is installed and nothing is paid for.
//!
//! The exporter has a thread of its own and a bounded queue. A collector that is slow or dead loses
//! spans, which are counted, and holds nobody up.
//!
//! ```no_run
//! use std::time::Duration;
//! use onceward_telemetry::{DEFAULT_LOG_FILTER, LogFormat, Settings, init, traces_endpoint};
//!
//! # fn demo() -> Result<(), onceward_telemetry::TelemetryError> {
//! let telemetry = init(&Settings {
//!     service: "billing",
//!     instance: None,
//!     log_filter: DEFAULT_LOG_FILTER,
//!     log_format: LogFormat::Auto,
//!     traces: traces_endpoint(None),
//! })?;
//! // … run, and serve `telemetry.metrics().render()` at /metrics …
//! telemetry.stop(Duration::from_secs(1));
//! # Ok(())
//! # }
//! ```
#![deny(missing_docs)]

mod bridge;
mod export;
mod logs;
mod metrics;

use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use opentelemetry_sdk::trace::SdkTracerProvider;

pub use export::traces_endpoint;
pub use logs::{DEFAULT_LOG_FILTER, LogFormat};
pub use metrics::{SPANS_EXPORTED, SPANS_LOST};
use onceward::secret::without_password;

/// What a process tells of itself, and how.
#[derive(Debug, Clone)]
pub struct Settings<'a> {
    /// `service.name` of its spans, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` says
    /// otherwise.
    pub service: &'a str,
    /// `service.instance.id`.
    pub instance: Option<&'a str>,
    /// What is logged, as in `RUST_LOG`; see [`DEFAULT_LOG_FILTER`].
    pub log_filter: &'a str,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Where spans go, a whole URL; `None` exports nothing. See [`traces_endpoint`].
    pub traces: Option<String>,
}

/// Why telemetry can't be installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The log filter does not parse.
    #[error("the log filter {filter:?} is wrong; it must look like info or onceward=debug,info")]
    Filter {
        /// As it was given.
        filter: String,
        /// What is wrong.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The endpoint is no URL that can be spoken to.
    #[error("the OTLP endpoint must be http://HOST:PORT or https://HOST:PORT, not {endpoint:?}")]
    Endpoint {
        /// As it was given.
        endpoint: String,
    },
    /// An `OTEL_…` variable asks for what is not spoken here.
    #[error("{variable}={value}: spans are exported by http/protobuf only (port 4318 as a rule)")]
    Protocol {
        /// Its name.
        variable: &'static str,
        /// Its value.
        value: String,
    },
    /// The file with the collector's headers can't be used.
    #[error("OTEL_EXPORTER_OTLP_HEADERS_FILE: {0}")]
    Headers(String),
    /// The exporter can't be built.
    #[error("the OTLP exporter could not be made")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
    /// The metrics recorder can't be installed.
    #[error("the metrics recorder could not be installed")]
    Metrics(#[source] metrics_exporter_prometheus::BuildError),
    /// There is a logger in this process already.
    #[error("a logger is installed already")]
    Logger(#[source] tracing_subscriber::util::TryInitError),
}

/// The telemetry of this process. Dropping it changes nothing; [`Self::stop`] sends what waits.
#[derive(Debug)]
pub struct Telemetry {
    metrics: PrometheusHandle,
    provider: Option<SdkTracerProvider>,
}

/// Installs logger, metrics and, if `settings.traces` says so, the export of spans. Once a process.
///
/// # Errors
/// [`TelemetryError`]: settings that are wrong. A collector that is not there is no error.
pub fn init(settings: &Settings<'_>) -> Result<Telemetry, TelemetryError> {
    let filter = logs::filter(settings.log_filter)?;
    let provider = match &settings.traces {
        Some(endpoint) => Some(export::provider(endpoint, settings)?),
        None => None,
    };
    logs::install(filter, settings.log_format, provider.as_ref())?;
    let metrics = metrics::install()?;
    if let Some(endpoint) = &settings.traces {
        // False only where a program brought a bridge of its own, which then goes on.
        let _installed = onceward::trace::install(bridge::OpenTelemetry);
        tracing::info!(endpoint = without_password(endpoint), "spans are exported");
    }
    Ok(Telemetry { metrics, provider })
}

impl Telemetry {
    /// The metrics, to be rendered.
    pub fn metrics(&self) -> &PrometheusHandle {
        &self.metrics
    }

    /// Lets histograms forget what was rendered, for ever. Without it a process that nobody scrapes
    /// keeps every sample.
    pub fn upkeep(&self) -> impl Future<Output = ()> + Send + 'static {
        let metrics = self.metrics.clone();
        async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(10));
            loop {
                ticks.tick().await;
                metrics.run_upkeep();
            }
        }
    }

    /// Sends the spans that wait, for at most this long; what is left then is lost. Blocks.
    pub fn stop(self, at_most: Duration) {
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown_with_timeout(at_most)
        {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}
