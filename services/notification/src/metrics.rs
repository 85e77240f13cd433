//! Names of its metrics.

/// Counter: what became of mails, by `outcome`: `sent`, `refused`, `unwanted`, `deferred`.
pub(crate) const MAILS: &str = "onceward_notification_mails_total";

/// Registers the help texts with the recorder of this process.
pub(crate) fn describe() {
    ::metrics::describe_counter!(MAILS, "What became of mails");
}
