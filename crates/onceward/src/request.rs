//! What operators ask for. A request is a row; whoever owns the source or the partition carries it out.

/// What an operator wants done with a dead letter, of the outbox or of the inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// Put it back in its place: publish the copies of the parked key in order, or handle the message
    /// now and then what waits behind it.
    Replay,
    /// Give it up; what waits behind it goes on. This **breaks the order** of its key: later
    /// messages take effect without it.
    Discard,
}

impl RequestKind {
    /// As stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Discard => "discard",
        }
    }

    /// Of a stored one; the tables allow no other text than these two.
    pub(crate) fn stored(text: &str) -> Self {
        if text == Self::Discard.as_str() {
            Self::Discard
        } else {
            Self::Replay
        }
    }
}
