//! Names of the library's metrics.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// Gauge: units of work that wait for the writer.
pub const WRITE_QUEUE: &str = "onceward_write_waiting_jobs";
/// Histogram: seconds a unit of work waited before it began.
pub const WRITE_WAIT_SECONDS: &str = "onceward_write_wait_duration_seconds";
/// Histogram: units of work in one transaction: 1 on Postgres, a group on SQLite.
pub const WRITE_GROUP: &str = "onceward_write_group_members";
/// Histogram: seconds from BEGIN until COMMIT was sent.
pub const WRITE_OPEN_SECONDS: &str = "onceward_write_open_duration_seconds";
/// Histogram: seconds from COMMIT to its answer.
pub const WRITE_COMMIT_SECONDS: &str = "onceward_write_commit_duration_seconds";
/// Counter: units of work that ran again, as victims or because their group failed.
pub const WRITE_RERUNS: &str = "onceward_write_reruns_total";
/// Counter: transactions whose COMMIT had no answer.
pub const WRITE_COMMITS_UNKNOWN: &str = "onceward_write_commits_unknown_total";

// The consumer's. Labels: `consumer`, and `topic` where it says so.

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
/// Counter: subscriptions that ended without being asked to.
pub const SUBSCRIPTIONS_LOST: &str = "onceward_consumer_subscriptions_lost_total";
/// Counter: how often another process with the same instance id took the membership.
pub const INSTANCE_CONFLICTS: &str = "onceward_consumer_instance_conflicts_total";

/// Registers the help texts with the recorder of this process.
pub fn describe() {
    describe_gauge!(WRITE_QUEUE, "Units of work that wait for the writer");
    describe_histogram!(WRITE_WAIT_SECONDS, "Wait of a unit of work before it began");
    describe_histogram!(WRITE_GROUP, "Units of work in one transaction");
    describe_histogram!(WRITE_OPEN_SECONDS, "From BEGIN until COMMIT was sent");
    describe_histogram!(WRITE_COMMIT_SECONDS, "From COMMIT to its answer");
    describe_counter!(WRITE_RERUNS, "Units of work that ran again");
    describe_counter!(
        WRITE_COMMITS_UNKNOWN,
        "Transactions whose COMMIT had no answer"
    );
    describe_counter!(HANDLED, "Messages whose effect was committed");
    describe_counter!(DUPLICATES, "Messages skipped because their id is known");
    describe_counter!(
        REUSED_IDS,
        "Messages skipped because another record had their id"
    );
    describe_counter!(FAILED_ATTEMPTS, "Attempts that failed");
    describe_counter!(DEAD_LETTERS, "Messages that became dead letters");
    describe_gauge!(
        WAITING,
        "Messages that wait to be tried again, or behind one that does"
    );
    describe_gauge!(DEAD_KEYS, "Keys parked behind a dead letter");
    describe_gauge!(LAG, "Records not yet handled, of the partitions held");
    describe_gauge!(STOPPED, "Partitions that stopped and need a person");
    describe_counter!(
        FENCED,
        "Batches thrown away because a newer owner had claimed"
    );
    describe_histogram!(BATCH_SECONDS, "From begin to commit of a batch");
    describe_counter!(
        BATCH_FAULTS,
        "Batches rolled back for a fault of the database"
    );
    describe_counter!(
        SUBSCRIPTIONS_LOST,
        "Subscriptions that ended without being asked to"
    );
    describe_counter!(
        INSTANCE_CONFLICTS,
        "Times another process with the same instance id took the membership"
    );
}
