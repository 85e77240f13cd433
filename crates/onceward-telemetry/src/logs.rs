//! Log lines on stderr.

use std::io::IsTerminal;

use clap::ValueEnum;
use onceward::trace::{EXPORT_ONLY, LOG_ONLY};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{EnvFilter, FilterExt, dynamic_filter_fn, filter_fn};
use tracing_subscriber::layer::{Filter, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, registry};

use crate::TelemetryError;

/// What is logged unless told otherwise. librdkafka's own words are told by those who ask it, and the
/// janitor's scheduler says at each start how it was built.
pub const DEFAULT_LOG_FILTER: &str = "info,rdkafka=off,librdkafka=off,tokio_cron_scheduler=warn";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// Pretty on a terminal, else JSON.
    #[default]
    Auto,
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// As settings spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Pretty => "pretty",
            Self::Json => "json",
        }
    }
}

pub(crate) fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(text).map_err(|source| TelemetryError::Filter {
        filter: text.to_owned(),
        source,
    })
}

/// Installs the logger and, beside it, whoever turns spans into those of `provider`.
pub(crate) fn install(
    filter: EnvFilter,
    format: LogFormat,
    provider: Option<&SdkTracerProvider>,
) -> Result<(), TelemetryError> {
    let installed = match provider {
        None => registry().with(lines(filter, format)).try_init(),
        Some(provider) => {
            let spans = tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("onceward"))
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                .with_tracked_inactivity(false)
                // Contexts are passed on by hand, never by thread-locals.
                .with_context_activation(false)
                .with_filter(filter_fn(is_exported).with_max_level_hint(LevelFilter::INFO));
            registry()
                .with(spans)
                .with(lines(filter, format))
                .try_init()
        }
    };
    installed.map_err(TelemetryError::Logger)
}

/// Spans whatever the log shows; of events only what went wrong.
fn is_exported(metadata: &Metadata<'_>) -> bool {
    let least = if metadata.is_span() {
        Level::INFO
    } else {
        Level::WARN
    };
    *metadata.level() <= least && metadata.target() != LOG_ONLY
}

/// What becomes a line. Asked anew for each event, not once for all: `tracing::enabled!` about something
/// unwanted (sqlx asks so before it tells what Postgres notices) leaves a mark in the thread's per-layer
/// state of tracing-subscriber 0.3, which swallows the next event, unless that one asks as well.
fn wanted<S>(filter: EnvFilter) -> impl Filter<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    filter.and(dynamic_filter_fn(|metadata, _| {
        metadata.target() != EXPORT_ONLY
    }))
}

fn lines<S>(filter: EnvFilter, format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let terminal = std::io::stderr().is_terminal();
    let wanted = wanted(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(terminal); // no colours in log files
    match (format, terminal) {
        (LogFormat::Pretty, _) | (LogFormat::Auto, true) => {
            lines.with_target(false).with_filter(wanted).boxed()
        }
        (LogFormat::Json, _) | (LogFormat::Auto, false) => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(true)
            .with_filter(wanted)
            .boxed(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::{Layer, registry};

    use super::{DEFAULT_LOG_FILTER, filter, wanted};

    /// Targets of the events that come through.
    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<&'static str>>>);

    impl<S: tracing::Subscriber> Layer<S> for Heard {
        fn on_event(
            &self,
            event: &tracing::Event<'_>,
            _: tracing_subscriber::layer::Context<'_, S>,
        ) {
            self.0.lock().unwrap().push(event.metadata().target());
        }
    }

    fn heard(text: &str, talk: impl FnOnce()) -> Vec<&'static str> {
        let heard = Heard::default();
        let layer = heard.clone().with_filter(wanted(filter(text).unwrap()));
        tracing::subscriber::with_default(registry().with(layer), talk);
        heard.0.lock().unwrap().clone()
    }

    fn talk() {
        tracing::info!(target: "outbox_relay", "relay starts");
        tracing::info!(target: "tokio_cron_scheduler::job_scheduler", "Uninited");
        tracing::error!(target: "rdkafka::client", "Connection refused");
    }

    #[test]
    fn libraries_that_talk_about_themselves_are_heard_only_if_asked_for() {
        assert_eq!(heard(DEFAULT_LOG_FILTER, talk), ["outbox_relay"]);
        assert_eq!(heard("info", talk).len(), 3);
    }

    #[test]
    fn who_asks_about_something_unwanted_swallows_no_line() {
        let told = heard("info,sqlx=warn", || {
            let _ = tracing::enabled!(target: "sqlx::postgres::notice", tracing::Level::INFO);
            tracing::info!(target: "outbox_relay", "source taken over");
        });
        assert_eq!(told, ["outbox_relay"]);
    }
}
