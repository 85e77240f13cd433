//! One Kafka record, as small as judging it allows: about 100 bytes, whatever its payload.

use std::hash::{DefaultHasher, Hash, Hasher};

use uuid::Uuid;

use crate::Symbol;

/// Hash of (`ce_source`, `ce_id`): 128 bits, so that a million of them don't collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity(pub u128);

impl Identity {
    /// Of a source name and the id as it was sent.
    pub fn new(source: &str, id: &str) -> Self {
        let half = |salt: u8| {
            let mut hasher = DefaultHasher::new();
            (salt, source, id).hash(&mut hasher);
            u128::from(hasher.finish())
        };
        Self((half(1) << 64) | half(2))
    }
}

/// Hash of a key or payload; `None` (absent) differs from empty.
pub fn hash_bytes(bytes: Option<&[u8]>) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// A committed record of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its topic.
    pub topic: Symbol,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// `ce_source`; `None` for a stranger's record.
    pub source: Option<Symbol>,
    /// Of `ce_source` and `ce_id`; `None` without an id.
    pub identity: Option<Identity>,
    /// `ce_id`, if it is a UUID: for naming it.
    pub uuid: Option<Uuid>,
    /// `onceward-position`.
    pub position: Option<i64>,
    /// `onceward-previous-position`.
    pub previous: Option<i64>,
    /// [`hash_bytes`] of the key.
    pub key: u64,
    /// [`hash_bytes`] of the payload.
    pub payload: u64,
}
