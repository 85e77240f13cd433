//! A collector of spans, as an OpenTelemetry exporter sees one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use prost::Message;
use tokio::sync::watch;

use crate::{PATIENCE, Result};

/// A span as it was exported; ids in hex.
#[derive(Debug, Clone)]
pub struct Span {
    /// `service.name` of the process.
    pub service: String,
    /// Its name: `send order.created`.
    pub name: String,
    /// Server, producer, client, consumer or internal.
    pub kind: SpanKind,
    /// The trace it belongs to.
    pub trace_id: String,
    /// Its own id.
    pub span_id: String,
    /// Its parent's; empty for the first of a trace.
    pub parent: String,
    /// Trace and span ids of what it links to.
    pub links: Vec<(String, String)>,
    /// Its attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// It says of itself that it failed.
    pub failed: bool,
}

impl Span {
    /// An attribute, or nothing.
    pub fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    /// Whether it links to `other`.
    pub fn links_to(&self, other: &Self) -> bool {
        let wanted = (other.trace_id.clone(), other.span_id.clone());
        self.links.contains(&wanted)
    }
}

/// Takes spans over HTTP until it is dropped.
#[derive(Debug)]
pub struct Collector {
    port: u16,
    shared: Shared,
    server: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Clone)]
struct Shared {
    spans: Arc<Mutex<Vec<Span>>>,
    answers: watch::Sender<bool>,
}

impl Collector {
    /// Listens on a port of its own.
    pub async fn start() -> Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let shared = Shared {
            spans: Arc::default(),
            answers: watch::Sender::new(true),
        };
        let router = Router::new()
            .route("/v1/traces", post(take))
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(shared.clone());
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("the collector ended: {error}");
            }
        });
        Ok(Self {
            port,
            shared,
            server,
        })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on accepts connections and requests, and answers none.
    pub fn freeze(&self) {
        self.shared.answers.send_replace(false);
    }

    /// All spans so far that `wanted` says yes to.
    pub fn spans(&self, wanted: impl Fn(&Span) -> bool) -> Vec<Span> {
        let spans = self.shared.spans.lock();
        let spans = spans.unwrap_or_else(PoisonError::into_inner);
        spans.iter().filter(|span| wanted(span)).cloned().collect()
    }

    /// Waits until `found` finds what it looks for among all spans.
    pub async fn wait_for<T>(&self, what: &str, found: impl Fn(&[Span]) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let spans = self.spans(|_| true);
            if let Some(found) = found(&spans) {
                return Ok(found);
            }
            if Instant::now() > deadline {
                let names: Vec<_> = spans.iter().map(|s| (&s.service, &s.name)).collect();
                bail!("{what}: not among {} spans: {names:?}", spans.len());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State(shared): State<Shared>, body: Bytes) -> StatusCode {
    if !*shared.answers.borrow() {
        return std::future::pending().await;
    }
    match read(&body) {
        Ok(spans) => {
            let all = shared.spans.lock();
            all.unwrap_or_else(PoisonError::into_inner).extend(spans);
            StatusCode::OK
        }
        Err(error) => {
            eprintln!("the collector can't read: {error:#}");
            StatusCode::BAD_REQUEST
        }
    }
}

fn read(body: &[u8]) -> Result<Vec<Span>> {
    let request = ExportTraceServiceRequest::decode(body).context("no export request")?;
    let mut spans = Vec::new();
    for of_process in request.resource_spans {
        let resource = of_process.resource.unwrap_or_default();
        let service = texts(resource.attributes).remove("service.name");
        let service = service.context("no service.name")?;
        for span in of_process.scope_spans.into_iter().flat_map(|s| s.spans) {
            spans.push(Span {
                service: service.clone(),
                kind: span.kind(),
                name: span.name,
                trace_id: hex(&span.trace_id),
                span_id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                links: span
                    .links
                    .into_iter()
                    .map(|link| (hex(&link.trace_id), hex(&link.span_id)))
                    .collect(),
                attributes: texts(span.attributes),
                failed: span.status.is_some_and(|s| s.code() == SpanStatus::Error),
            });
        }
    }
    Ok(spans)
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(flag)) => flag.to_string(),
        other => format!("{other:?}"),
    };
    attributes
        .into_iter()
        .map(|pair| (pair.key, text(pair.value)))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
