//! What Debezium and its Kafka Connect worker are told: exactly once, and as quick as they get.

use anyhow::{Context, Result};
use onceward_testkit::kafka::{LOG4J, VERSION as KAFKA};
use serde_json::{Map, Value, json};

/// The newest release whose poms are all on Maven Central (3.7.1's parent is not).
pub(crate) const VERSION: &str = "3.7.0.Final";

/// Kafka's own `connect-distributed.sh` gives the JVM these, and a pause of 20 ms as the collector's aim.
pub(crate) const JVM: [&str; 6] = [
    "-server",
    "-Xms256m",
    "-Xmx2g",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
];

/// Settings of the worker that are not addresses and names. Printed with the results.
pub(crate) const WORKER: [(&str, &str); 11] = [
    ("exactly.once.source.support", "enabled"),
    ("connector.client.config.override.policy", "All"),
    ("plugin.discovery", "service_load"),
    // After kill -9: the group waits for the dead worker's session to end, then nothing more. Ours
    // has a lease of 3 s.
    ("session.timeout.ms", "3000"),
    ("heartbeat.interval.ms", "1000"),
    ("scheduled.rebalance.max.delay.ms", "0"),
    ("producer.linger.ms", "0"),
    // For rows that come before the markers of the transaction before: 100 by default.
    ("producer.retry.backoff.ms", "5"),
    ("producer.batch.size", "262144"),
    ("producer.buffer.memory", "67108864"),
    ("producer.compression.type", "none"),
];

/// Settings of the connector that are not addresses and names. Printed with the results.
pub(crate) const CONNECTOR: [(&str, &str); 7] = [
    ("plugin.name", "pgoutput"),
    ("exactly.once.support", "required"),
    // An interval of 1 ms was no quicker, one of 10 ms slower.
    ("transaction.boundary", "poll"),
    ("poll.interval.ms", "1"),
    ("max.batch.size", "8192"),
    ("max.queue.size", "32768"),
    ("snapshot.mode", "no_data"),
];

/// As `group:artifact:version`.
pub(crate) fn artifacts() -> [String; 3] {
    [
        format!("org.apache.kafka:connect-runtime:{KAFKA}"),
        format!("io.debezium:debezium-connector-postgres:{VERSION}"),
        LOG4J.to_owned(),
    ]
}

/// The worker's properties file.
pub(crate) fn worker(group: &str, kafka: &str, port: u16) -> String {
    let mut lines = vec![
        format!("bootstrap.servers={kafka}"),
        format!("listeners=http://127.0.0.1:{port}"),
        format!("group.id={group}"),
        "key.converter=org.apache.kafka.connect.storage.StringConverter".to_owned(),
        // The payload is bytes, and stays what it is.
        "value.converter=org.apache.kafka.connect.converters.ByteArrayConverter".to_owned(),
        "offset.storage.partitions=1".to_owned(),
        "status.storage.partitions=1".to_owned(),
    ];
    for kind in ["config", "offset", "status"] {
        lines.push(format!("{kind}.storage.topic={group}.{kind}"));
        lines.push(format!("{kind}.storage.replication.factor=1"));
    }
    lines.extend(WORKER.map(|(name, value)| format!("{name}={value}")));
    lines.join("\n") + "\n"
}

/// Slot and publication of a database: letters, digits and underscores only.
pub(crate) fn slot(database: &str) -> String {
    database.replace(|letter: char| !letter.is_ascii_alphanumeric(), "_")
}

/// The connector of the outbox in `database`.
pub(crate) fn connector(database: &str, port: u16) -> Result<String> {
    let mut config = json!({
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "database.hostname": "127.0.0.1",
        "database.port": port.to_string(),
        "database.user": "postgres",
        "database.dbname": database,
        "topic.prefix": database,
        "slot.name": slot(database),
        "publication.name": slot(database),
        "publication.autocreate.mode": "filtered",
        "table.include.list": "public.outbox",
        // Has no type that Debezium knows.
        "column.exclude.list": "public.outbox.tx_id",
        "tombstones.on.delete": "false",
        "transforms": "outbox",
        "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
        "transforms.outbox.table.field.event.id": "message_id",
        "transforms.outbox.table.field.event.key": "message_key",
        "transforms.outbox.table.field.event.payload": "payload",
        "transforms.outbox.route.by.field": "topic",
        "transforms.outbox.route.topic.replacement": "${routedByValue}",
        "transforms.outbox.table.fields.additional.placement":
            "message_type:header:type,aggregate_type:header,headers:header,occurred_at:header,seq:header",
    });
    let more = CONNECTOR.map(|(name, value)| (name.to_owned(), Value::from(value)));
    let all: &mut Map<String, Value> = config.as_object_mut().context("a JSON object")?;
    all.extend(more);
    Ok(config.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_only_the_letters_that_postgres_allows() {
        assert_eq!(slot("bench-12.a"), "bench_12_a");
    }

    #[test]
    fn a_worker_keeps_its_topics_and_its_exactly_once_apart_from_others() {
        let text = worker("bench-1", "127.0.0.1:9092", 8083);
        for line in [
            "exactly.once.source.support=enabled",
            "config.storage.topic=bench-1.config",
            "listeners=http://127.0.0.1:8083",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        let names: Vec<&str> = text
            .lines()
            .filter_map(|line| Some(line.split_once('=')?.0))
            .collect();
        let unique: std::collections::BTreeSet<&&str> = names.iter().collect();
        assert_eq!(
            names.len(),
            unique.len(),
            "a setting is there twice: {text}"
        );
    }

    #[test]
    fn a_connector_maps_the_columns_of_our_outbox_and_is_tuned() -> Result<()> {
        let config: Map<String, Value> = serde_json::from_str(&connector("bench-1", 5432)?)?;
        let is = |name: &str, value: &str| assert_eq!(config[name], value, "{name}");
        is("slot.name", "bench_1");
        is("transforms.outbox.route.by.field", "topic");
        is("poll.interval.ms", "1");
        is("exactly.once.support", "required");
        assert!(
            config.values().all(Value::is_string),
            "Connect takes only texts"
        );
        Ok(())
    }
}
