//! SQLite's own account of a transaction.
//!
//! `sqlx` counts begins and ends; but SQLite ends a transaction on its own after `SQLITE_FULL`,
//! an I/O error or a conflict clause `ROLLBACK`, and whatever the closure writes afterwards
//! commits at once, statement by statement. The hooks tell the truth, and the gate turns every
//! commit that is not the writer's into a rollback.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::SqliteConnection;

/// Shared between the writer and the hooks of its connection.
#[derive(Debug, Default)]
pub struct CommitGate {
    open: AtomicBool,
    lost: AtomicBool,
}

impl CommitGate {
    /// A transaction was begun.
    pub(super) fn begun(&self) {
        self.lost.store(false, Ordering::SeqCst);
        self.open.store(false, Ordering::SeqCst);
    }
    /// Whether the transaction that was begun last was rolled back by somebody else.
    pub(super) fn lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }
    /// The next commit is the writer's.
    pub(super) fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }
    /// No commit is the writer's.
    pub(super) fn shut(&self) {
        self.open.store(false, Ordering::SeqCst);
    }

    /// Hangs the gate into a connection.
    pub(crate) async fn install(
        self: &Arc<Self>,
        conn: &mut SqliteConnection,
    ) -> Result<(), sqlx::Error> {
        let mut handle = conn.lock_handle().await?;
        let gate = Arc::clone(self);
        handle.set_commit_hook(move || gate.open.load(Ordering::SeqCst));
        let gate = Arc::clone(self);
        handle.set_rollback_hook(move || gate.lost.store(true, Ordering::SeqCst));
        Ok(())
    }
}
