//! Rules of the protocol that a test can have broken, one at a time: a test of exactly-once that can't
//! fail shows nothing.
//!
//! With the feature `failpoints`, which no build for use has, a process breaks the rule that its
//! environment names in `ONCEWARD_BREAK`. Without it [`is_broken`] is the constant `false`.

/// Where a source stands is read from Kafka. Broken: from the mirror in the database.
pub const POSITION_IN_KAFKA: &str = "position-in-kafka";
/// Rows and progress are one Kafka transaction. Broken: two, rows first.
pub const ONE_TRANSACTION: &str = "one-transaction";
/// Progress is read after older producers are fenced. Broken: before.
pub const FENCE_FIRST: &str = "fence-first";
/// A librdkafka producer that saw trouble begins no further transaction. Broken: it does.
pub const DIRTY_PRODUCER_ENDS: &str = "dirty-producer-ends";
/// Rows are new if the last snapshot did not see them. Broken: if their number is higher.
pub const SNAPSHOT_CURSOR: &str = "snapshot-cursor";
/// Rows of a batch go by their number. Broken: by the id of their transaction.
pub const ORDER_BY_SEQ: &str = "order-by-seq";
/// The upper bound of a stored snapshot is lowered to what was seen. Broken: it is stored as it is.
pub const LOWERED_XMAX: &str = "lowered-xmax";
/// What was passed is compared with the rows that are there. Broken: it is not.
pub const ROWS_ARE_COMPARED: &str = "rows-are-compared";
/// A source that has published goes on only behind its progress. Broken: without any it begins anew.
pub const PROGRESS_IS_THERE: &str = "progress-is-there";
/// A topic with keys keeps its partition count. Broken: keys go where the new count says.
pub const PARTITIONS_ARE_KEPT: &str = "partitions-are-kept";
/// A refused row is stored before the cursor passes it. Broken: it is passed only.
pub const PARKED_FIRST: &str = "parked-first";
/// Behind a parked row its key waits. Broken: later rows of the key go out.
pub const KEY_WAITS: &str = "key-waits";
/// A message in the inbox is not handled again. Broken: it is.
pub const INBOX: &str = "inbox";
/// The next offset is stored by the transaction that handles. Broken: by one before it.
pub const OFFSET_WITH_EFFECT: &str = "offset-with-effect";
/// Behind a message that waits for its next attempt its key waits. Broken: later ones are handled.
pub const KEY_QUEUES: &str = "key-queues";

/// Whether a test wants this rule broken.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub const fn is_broken(_rule: &'static str) -> bool {
    false
}

/// Whether a test wants this rule broken.
#[cfg(feature = "failpoints")]
pub fn is_broken(rule: &'static str) -> bool {
    static BROKEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    let broken = BROKEN.get_or_init(|| std::env::var("ONCEWARD_BREAK").ok());
    broken.as_deref() == Some(rule)
}
