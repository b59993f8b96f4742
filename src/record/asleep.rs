//! Parked records that lie in packs: together, as they were queued, since nothing has concerned one of them alone.

use super::{ParkedKey, Position};
use std::hash::{DefaultHasher, Hasher};

/// Stands for a key. Two keys may have one: whoever wakes a record by it wakes both.
pub type KeyHash = u64;

/// The same for the same bytes, within one process.
#[must_use]
pub fn key_hash(key: &[u8]) -> KeyHash {
    let mut hasher = DefaultHasher::new();
    hasher.write(key);
    hasher.finish()
}

/// Names a pack. Where it begins may be where another began that was dropped; the number of its first record never comes
/// again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackId {
    pub first: Position,
    pub base: u64,
}

/// What a lane must know of a pack: whether a record of a key may sleep in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackKeys {
    pub id: PackId,
    pub hashes: Vec<KeyHash>,
}

/// The parked records of a map that wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    pub awake: Vec<ParkedKey>,
    /// All packs that are there.
    pub packs: Vec<PackId>,
    /// Those that the asker did not know.
    pub new: Vec<PackKeys>,
    /// So many were given up or purged by then.
    pub gone: u64,
}
