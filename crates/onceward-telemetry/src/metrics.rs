//! The recorder behind `/metrics`.

use metrics::describe_counter;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::TelemetryError;

/// Counter: spans the collector took.
pub const SPANS_EXPORTED: &str = "onceward_trace_exported_spans_total";
/// Counter: spans the collector did not take.
pub const SPANS_LOST: &str = "onceward_trace_lost_spans_total";

/// Upper bounds of histograms of durations, in seconds.
const SECONDS: [f64; 14] = [
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0,
];
/// Upper bounds of histograms of how many went together.
const MEMBERS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

pub(crate) fn install() -> Result<PrometheusHandle, TelemetryError> {
    let suffix = |text: &str| Matcher::Suffix(text.to_owned());
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(suffix("_seconds"), &SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(suffix("_members"), &MEMBERS))
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(TelemetryError::Metrics)?;
    onceward::metrics::describe();
    describe_counter!(SPANS_EXPORTED, "Spans the collector took");
    describe_counter!(SPANS_LOST, "Spans the collector did not take");
    Ok(handle)
}
