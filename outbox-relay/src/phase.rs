//! The state machine of a source's worker.
//!
//! ```text
//!            ┌──────────────────────────── Lost ◄──────────────────────────────┐
//!            ▼                                                                 │
//!  start ─► Standby ─LeaseFree─► Look ─Ours─► Claim ─Claimed─► Open ─Opened─► ReadProgress
//!            ▲                    │             │               ▲                │
//!            ├─── Unreachable ◄───┤             │ NotClaimed    │ Anew           │ ProgressRead
//!            └──────────────────────────────────┘               │                ▼
//!                                 │                             ├────────────  TakeOver
//!                               Broken                          │                │ TakenOver
//!                                 ▼                             │                ▼
//!                              Stopped ◄── Broken (from any) ── Hold ◄─Blocked─ Tail
//!                                                                └──Unblocked──►┘
//!  any ─Stop─► Ended
//! ```
//!
//! * `Look` reads progress without a producer of its own: a topic that belongs to another database
//!   stops here and fences nobody.
//! * `Lost` (lease lost, fenced, or the database names another owner) drops all work and waits the
//!   lease's time out. From `Open` on it can come at any state.
//! * `Anew` (an unknown outcome, or a producer that saw trouble) keeps the lease and makes a new
//!   producer; only what Kafka then tells counts.
//! * `Hold` waits for what a person or the cluster mends: a missing topic, a lost right. It keeps
//!   the lease and tries again.
//! * `Stopped` needs a person; the other sources of the process go on.

use serde::{Deserialize, Serialize};

/// Where a worker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Another relay owns the source, or its database can't be reached.
    Standby,
    /// Reads whose progress the topic holds, without fencing.
    Look,
    /// Takes the lease.
    Claim,
    /// Makes a producer, which fences every older one.
    Open,
    /// Reads the progress nobody else can change any more.
    ReadProgress,
    /// Checks it against the database and loads what is parked.
    TakeOver,
    /// Publishes.
    Tail,
    /// Owns the source but can't publish until something is mended.
    Hold,
    /// Stopped loudly; needs a person.
    Stopped,
    /// The process is stopping.
    Ended,
}

/// What moves a worker on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// The lease is free, run out, or ours to retake.
    LeaseFree,
    /// The topic holds our progress, or none.
    Ours,
    /// The lease is ours.
    Claimed,
    /// Somebody else was faster.
    NotClaimed,
    /// Kafka or the database did not answer before anything was claimed.
    Unreachable,
    /// The producer is initialised.
    Opened,
    /// The final progress is known.
    ProgressRead,
    /// The database agrees.
    TakenOver,
    /// Something must be mended before the next batch.
    Blocked,
    /// It is.
    Unblocked,
    /// The producer can't be used any more; its last outcome may be unknown.
    Anew,
    /// Another relay took over, or may have.
    Lost,
    /// Only a person can help.
    Broken,
    /// The process stops.
    Stop,
}

/// An input that can't come in that phase: a bug in the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{input:?} can't come in {phase:?}")]
pub struct Illegal {
    phase: Phase,
    input: Input,
}

impl Phase {
    /// The phase after `input`.
    pub fn next(self, input: Input) -> Result<Self, Illegal> {
        use Input as I;
        use Phase as P;
        Ok(match (self, input) {
            (_, I::Stop) => P::Ended,
            (P::Stopped | P::Ended, _) => return Err(Illegal { phase: self, input }),
            (_, I::Broken) => P::Stopped,
            (P::Standby, I::LeaseFree) => P::Look,
            (P::Look, I::Ours) => P::Claim,
            (P::Standby | P::Look | P::Claim, I::Unreachable) => P::Standby,
            (P::Claim, I::Claimed) => P::Open,
            (P::Claim, I::NotClaimed) => P::Standby,
            (P::Open, I::Opened) => P::ReadProgress,
            (P::ReadProgress, I::ProgressRead) => P::TakeOver,
            (P::TakeOver, I::TakenOver) | (P::Hold, I::Unblocked) => P::Tail,
            (P::Tail, I::Blocked) => P::Hold,
            (P::Open | P::ReadProgress | P::TakeOver | P::Tail | P::Hold, I::Anew) => P::Open,
            (P::Open | P::ReadProgress | P::TakeOver | P::Tail | P::Hold, I::Lost) => P::Standby,
            _ => return Err(Illegal { phase: self, input }),
        })
    }

    /// As in metrics' labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Look => "look",
            Self::Claim => "claim",
            Self::Open => "open",
            Self::ReadProgress => "read_progress",
            Self::TakeOver => "take_over",
            Self::Tail => "tail",
            Self::Hold => "hold",
            Self::Stopped => "stopped",
            Self::Ended => "ended",
        }
    }

    /// Every phase.
    pub const ALL: [Self; 10] = [
        Self::Standby,
        Self::Look,
        Self::Claim,
        Self::Open,
        Self::ReadProgress,
        Self::TakeOver,
        Self::Tail,
        Self::Hold,
        Self::Stopped,
        Self::Ended,
    ];
}

#[cfg(test)]
mod tests {
    use super::{Input, Phase};

    #[test]
    fn nothing_is_published_before_the_database_agreed() {
        for phase in Phase::ALL {
            for input in [Input::Opened, Input::ProgressRead, Input::Claimed] {
                assert_ne!(phase.next(input), Ok(Phase::Tail), "{phase:?} {input:?}");
            }
        }
        assert_eq!(Phase::TakeOver.next(Input::TakenOver), Ok(Phase::Tail));
    }

    #[test]
    fn a_lost_source_starts_over_from_standby_and_a_dirty_producer_from_open() {
        assert_eq!(Phase::Tail.next(Input::Lost), Ok(Phase::Standby));
        assert_eq!(Phase::Tail.next(Input::Anew), Ok(Phase::Open));
        assert!(Phase::Stopped.next(Input::Anew).is_err());
    }
}
