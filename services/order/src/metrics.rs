//! Names of its metrics.

/// Counter: orders placed; a repeated request counts once. How orders ended is counted by the consumer:
/// `onceward_consumer_handled_total`, topics `order.completed` and `order.cancelled`.
pub(crate) const PLACED: &str = "onceward_order_placed_total";

/// Registers the help texts with the recorder of this process.
pub(crate) fn describe() {
    ::metrics::describe_counter!(PLACED, "Orders placed");
}
