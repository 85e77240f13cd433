//! Named points in the protocol at which a test can have the process killed or frozen.
//!
//! With the feature `failpoints` and `ONCEWARD_FAILPOINT=name` (or `name:N` for the N-th pass) the
//! process kills itself with SIGKILL at that line: no destructor, no flush, as a power cut of the
//! process. `name:N:stop` freezes it there with SIGSTOP until somebody sends SIGCONT. Without the
//! feature [`hit`] is an empty inline function.

/// Every point, in the order of the protocol.
pub const POINTS: &[&str] = &[
    CLAIMED,
    OPENED,
    PROGRESS_READ,
    GENESIS_COMMITTED,
    GENESIS_MIRRORED,
    TAKEN_OVER,
    FETCHED,
    PARKING,
    PARKED,
    PUBLISHING,
    COMMITTED,
    MIRRORING,
    MIRRORED,
    REQUEST_TAKEN,
    REPLAY_PUBLISHING,
    REPLAY_COMMITTED,
    REPLAY_SETTLED,
    JANITOR_SWEPT,
    RELEASING,
];

/// The lease is ours; older producers still live.
pub const CLAIMED: &str = "claimed";
/// Older producers are fenced; nothing is read yet.
pub const OPENED: &str = "opened";
/// Progress is read; the database does not know.
pub const PROGRESS_READ: &str = "progress-read";
/// Genesis is in Kafka; there is no mirror row.
pub const GENESIS_COMMITTED: &str = "genesis-committed";
/// Genesis is in Kafka and mirrored; no batch yet.
pub const GENESIS_MIRRORED: &str = "genesis-mirrored";
/// The database knows us as the owner of the progress read.
pub const TAKEN_OVER: &str = "taken-over";
/// Rows are read; nothing is sent.
pub const FETCHED: &str = "fetched";
/// About to store rows as parked.
pub const PARKING: &str = "parking";
/// Rows are stored as parked; the cursor has not passed them.
pub const PARKED: &str = "parked";
/// About to publish a batch.
pub const PUBLISHING: &str = "publishing";
/// A batch is committed in Kafka; the database does not know.
pub const COMMITTED: &str = "committed";
/// About to write the mirror.
pub const MIRRORING: &str = "mirroring";
/// The mirror is written.
pub const MIRRORED: &str = "mirrored";
/// A replay or discard request has its number; nothing is done yet.
pub const REQUEST_TAKEN: &str = "request-taken";
/// About to publish parked copies.
pub const REPLAY_PUBLISHING: &str = "replay-publishing";
/// Parked copies are committed in Kafka; they still stand in the database.
pub const REPLAY_COMMITTED: &str = "replay-committed";
/// The published copies are deleted.
pub const REPLAY_SETTLED: &str = "replay-settled";
/// The janitor deleted a chunk.
pub const JANITOR_SWEPT: &str = "janitor-swept";
/// Stopping: the mirror is written, the lease still held.
pub const RELEASING: &str = "releasing";

/// Passes the point `name`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_name: &'static str) {}

/// Passes the point `name`: dies here if the environment says so.
#[cfg(feature = "failpoints")]
pub fn hit(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    static PASSES: AtomicU64 = AtomicU64::new(0);

    let armed =
        ARMED.get_or_init(|| Some(Armed::parse(&std::env::var("ONCEWARD_FAILPOINT").ok()?)));
    if let Some(armed) = armed
        && armed.point == name
        && PASSES.fetch_add(1, Ordering::SeqCst) + 1 == armed.pass
    {
        // To this thread: it takes the signal before `raise` returns and runs no further line. One to
        // the process may go to another thread, which on a busy machine takes it much later.
        let _ = nix::sys::signal::raise(armed.signal);
        if armed.signal == nix::sys::signal::Signal::SIGKILL {
            std::process::abort();
        }
    }
}

#[cfg(feature = "failpoints")]
struct Armed {
    point: String,
    pass: u64,
    signal: nix::sys::signal::Signal,
}

#[cfg(feature = "failpoints")]
impl Armed {
    fn parse(text: &str) -> Self {
        use nix::sys::signal::Signal;
        let mut parts = text.split(':');
        Self {
            point: parts.next().unwrap_or_default().to_owned(),
            pass: parts.next().and_then(|n| n.parse().ok()).unwrap_or(1),
            signal: match parts.next() {
                Some("stop") => Signal::SIGSTOP,
                _ => Signal::SIGKILL,
            },
        }
    }
}
