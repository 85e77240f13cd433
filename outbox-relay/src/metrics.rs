//! Metric names. Every one carries the label `source` unless its text says otherwise; ids are
//! never labels.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// Counter: records made visible in Kafka, replays included.
pub const PUBLISHED: &str = "onceward_relay_published_records_total";
/// Counter: Kafka transactions committed.
pub const COMMITTED: &str = "onceward_relay_committed_transactions_total";
/// Counter: Kafka transactions that ended otherwise; label `outcome`.
pub const UNCOMMITTED: &str = "onceward_relay_uncommitted_transactions_total";
/// Counter: rows parked because Kafka refused them or one before them.
pub const PARKED: &str = "onceward_relay_parked_rows_total";
/// Counter: parked rows published by a replay.
pub const REPLAYED: &str = "onceward_relay_replayed_rows_total";
/// Counter: rows deleted by the janitor.
pub const SWEPT: &str = "onceward_relay_swept_rows_total";
/// Counter: take-overs, fresh and anew.
pub const TAKE_OVERS: &str = "onceward_relay_take_overs_total";
/// Counter: times the lease or the producer was lost to another relay.
pub const LOST: &str = "onceward_relay_lost_ownership_total";
/// Histogram: from starting to publish a batch to knowing its outcome.
pub const PUBLISH_SECONDS: &str = "onceward_relay_publish_duration_seconds";
/// Histogram: from `append` to visible, of the oldest row of each batch.
pub const DELAY_SECONDS: &str = "onceward_relay_delay_seconds";
/// Gauge: rows of the outbox not yet passed.
pub const UNPUBLISHED: &str = "onceward_relay_unpublished_rows";
/// Gauge: age of the oldest row not yet passed.
pub const OLDEST_SECONDS: &str = "onceward_relay_oldest_unpublished_seconds";
/// Gauge: rows published so far, as Kafka knows it.
pub const POSITION: &str = "onceward_relay_position_rows";
/// Gauge: 1 for the state the source is in, 0 for the others; label `state`.
pub const STATE: &str = "onceward_relay_source_state";
/// Gauge: 1 while something needs a person.
pub const ALARM: &str = "onceward_relay_alarm";

/// Registers the help texts with the installed recorder.
pub fn describe() {
    describe_counter!(PUBLISHED, "Records made visible in Kafka");
    describe_counter!(COMMITTED, "Kafka transactions committed");
    describe_counter!(UNCOMMITTED, "Kafka transactions that did not commit");
    describe_counter!(PARKED, "Rows parked");
    describe_counter!(REPLAYED, "Parked rows published by a replay");
    describe_counter!(SWEPT, "Published rows deleted after the retention time");
    describe_counter!(TAKE_OVERS, "Take-overs of a source");
    describe_counter!(LOST, "Times a source was lost to another relay");
    describe_histogram!(PUBLISH_SECONDS, "Duration of a Kafka transaction");
    describe_histogram!(
        DELAY_SECONDS,
        "From append to visible, oldest row of a batch"
    );
    describe_gauge!(UNPUBLISHED, "Rows not yet passed");
    describe_gauge!(OLDEST_SECONDS, "Age of the oldest row not yet passed");
    describe_gauge!(POSITION, "Rows published so far");
    describe_gauge!(STATE, "1 for the state a source is in");
    describe_gauge!(ALARM, "1 while a source needs a person");
}
