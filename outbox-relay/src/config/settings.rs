//! Every setting with its names and its help.

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
        "Rows of one Kafka transaction at most, 1 to 20000; sources that have backlogs at the same time share them",
    ),
    setting(
        "batch_bytes",
        "batch-bytes",
        "ONCEWARD_BATCH_BYTES",
        "BYTES",
        "Payload bytes of one Kafka transaction at most; shared in the same way",
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
        "topic_hold_ms",
        "topic-hold-ms",
        "ONCEWARD_TOPIC_HOLD_MS",
        "MS",
        "How long a source waits for a topic that is missing or may not be written; then its rows \
         are parked and others go on; 0 waits for ever [default: 60000]",
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
