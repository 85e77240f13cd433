//! Metric names. Every one carries the label `source`; ids are never labels.

onceward::declare_metrics! {
    counter PUBLISHED = "onceward_relay_published_records_total",
        "Records made visible in Kafka, replays included";
    counter COMMITTED = "onceward_relay_committed_transactions_total",
        "Kafka transactions committed";
    /// Label `outcome`.
    counter UNCOMMITTED = "onceward_relay_uncommitted_transactions_total",
        "Kafka transactions that did not commit";
    counter PARKED = "onceward_relay_parked_rows_total",
        "Rows parked because Kafka refused them or one before them";
    counter REPLAYED = "onceward_relay_replayed_rows_total",
        "Parked rows published by a replay";
    counter SWEPT = "onceward_relay_swept_rows_total",
        "Published rows deleted after the retention time";
    counter TAKE_OVERS = "onceward_relay_take_overs_total",
        "Take-overs of a source, fresh and anew";
    counter LOST = "onceward_relay_lost_ownership_total",
        "Times the lease or the producer was lost to another relay";
    histogram PUBLISH_SECONDS = "onceward_relay_publish_duration_seconds",
        "Seconds from starting to publish a batch to knowing its outcome";
    histogram DELAY_SECONDS = "onceward_relay_delay_seconds",
        "Seconds from append to visible, of the oldest row of each batch";
    gauge UNPUBLISHED = "onceward_relay_unpublished_rows",
        "Rows of the outbox not yet passed";
    gauge OLDEST_SECONDS = "onceward_relay_oldest_unpublished_seconds",
        "Age of the oldest row not yet passed, in seconds";
    gauge POSITION = "onceward_relay_position_rows",
        "Rows published so far, as Kafka knows it";
    /// For each of its states; label `state`.
    gauge STATE = "onceward_relay_source_state",
        "1 for the state a source is in, 0 for the others";
    gauge ALARM = "onceward_relay_alarm",
        "1 while a source needs a person";
}
