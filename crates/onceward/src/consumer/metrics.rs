//! Names of the consumer's metrics. Labels: `consumer`, and `topic` where it says so.

/// Counter: messages whose effect was committed. Label `topic`.
pub const HANDLED: &str = "onceward_consumer_handled_total";
/// Counter: messages skipped because their id was handled, waits or is dead. Label `topic`.
pub const DUPLICATES: &str = "onceward_consumer_duplicates_total";
/// Counter: duplicates whose id was seen at *other* coordinates: a producer reuses ids and loses
/// records by it. Label `topic`.
pub const REUSED_IDS: &str = "onceward_consumer_reused_ids_total";
/// Counter: attempts that failed. Label `topic`.
pub const FAILED_ATTEMPTS: &str = "onceward_consumer_failed_attempts_total";
/// Counter: messages that became dead letters. Label `topic`.
pub const DEAD_LETTERS: &str = "onceward_consumer_dead_letters_total";
/// Gauge: messages that wait, of all partitions held.
pub const WAITING: &str = "onceward_consumer_waiting_messages";
/// Gauge: keys parked behind a dead letter, of all partitions held.
pub const DEAD_KEYS: &str = "onceward_consumer_parked_keys";
/// Gauge: records not yet handled, of all partitions held.
pub const LAG: &str = "onceward_consumer_lag_records";
/// Gauge: partitions that stopped loudly.
pub const STOPPED: &str = "onceward_consumer_stopped_partitions";
/// Counter: batches thrown away because a newer owner had claimed.
pub const FENCED: &str = "onceward_consumer_fenced_total";
/// Histogram: seconds from begin to commit of a batch.
pub const BATCH_SECONDS: &str = "onceward_consumer_batch_duration_seconds";
/// Counter: batches rolled back for a fault of the database.
pub const BATCH_FAULTS: &str = "onceward_consumer_batch_faults_total";
