//! Names of the library's metrics.

/// Declares metrics: a constant for each name, documented by its help text, and `describe`, which
/// registers the help texts. Further lines of a metric's documentation stand before it.
#[doc(hidden)]
#[macro_export]
macro_rules! declare_metrics {
    ($($(#[doc = $more:literal])* $kind:ident $constant:ident = $name:literal, $help:literal;)*) => {
        $(
            #[doc = concat!("A ", stringify!($kind), ": ", $help, ".")]
            $(#[doc = $more])*
            pub const $constant: &str = $name;
        )*

        /// Registers the help texts with the recorder of this process.
        pub fn describe() {
            $($crate::declare_metrics!(@$kind $constant, $help);)*
        }
    };
    (@counter $constant:ident, $help:literal) => {
        ::metrics::describe_counter!($constant, $help)
    };
    (@gauge $constant:ident, $help:literal) => {
        ::metrics::describe_gauge!($constant, $help)
    };
    (@histogram $constant:ident, $help:literal) => {
        ::metrics::describe_histogram!($constant, $help)
    };
}

declare_metrics! {
    gauge WRITE_QUEUE = "onceward_write_waiting_jobs",
        "Units of work that wait for the writer";
    histogram WRITE_WAIT_SECONDS = "onceward_write_wait_duration_seconds",
        "Seconds a unit of work waited before it began";
    /// 1 on Postgres, a group on SQLite.
    histogram WRITE_GROUP = "onceward_write_group_members",
        "Units of work in one transaction";
    histogram WRITE_OPEN_SECONDS = "onceward_write_open_duration_seconds",
        "Seconds from BEGIN until COMMIT was sent";
    histogram WRITE_COMMIT_SECONDS = "onceward_write_commit_duration_seconds",
        "Seconds from COMMIT to its answer";
    counter WRITE_RERUNS = "onceward_write_reruns_total",
        "Units of work that ran again, as victims or because their group failed";
    counter WRITE_COMMITS_UNKNOWN = "onceward_write_commits_unknown_total",
        "Transactions whose COMMIT had no answer";

    // The consumer's. Labels: `consumer`, and `topic` where it says so.

    /// Label `topic`.
    counter HANDLED = "onceward_consumer_handled_total",
        "Messages whose effect was committed";
    /// Label `topic`.
    counter DUPLICATES = "onceward_consumer_duplicates_total",
        "Messages skipped because their id was handled, waits or is dead";
    /// A producer reuses ids, and loses records by it. Label `topic`.
    counter REUSED_IDS = "onceward_consumer_reused_ids_total",
        "Messages skipped because another record had their id";
    /// Label `topic`.
    counter FAILED_ATTEMPTS = "onceward_consumer_failed_attempts_total",
        "Attempts that failed";
    /// Label `topic`.
    counter DEAD_LETTERS = "onceward_consumer_dead_letters_total",
        "Messages that became dead letters";
    gauge WAITING = "onceward_consumer_waiting_messages",
        "Messages that wait to be tried again or behind one that does, of the partitions held";
    gauge DEAD_KEYS = "onceward_consumer_parked_keys",
        "Keys parked behind a dead letter, of the partitions held";
    gauge LAG = "onceward_consumer_lag_records",
        "Records not yet handled, of the partitions held";
    gauge STOPPED = "onceward_consumer_stopped_partitions",
        "Partitions that stopped and need a person";
    counter FENCED = "onceward_consumer_fenced_total",
        "Batches thrown away because a newer owner had claimed";
    histogram BATCH_SECONDS = "onceward_consumer_batch_duration_seconds",
        "Seconds from begin to commit of a batch";
    counter BATCH_FAULTS = "onceward_consumer_batch_faults_total",
        "Batches rolled back for a fault of the database";
    counter SUBSCRIPTIONS_LOST = "onceward_consumer_subscriptions_lost_total",
        "Subscriptions that ended without being asked to";
    counter INSTANCE_CONFLICTS = "onceward_consumer_instance_conflicts_total",
        "Times another process with the same instance id took the membership";
}
