//! An entry of the stream: a batch of records behind a header that can be read without unpacking it.
//!
//! The block keeps rows as the source sent them, with the descriptions of their tables, so that a mapping corrected
//! later applies to what is queued already.

mod bloom;
mod codec;
mod header;
pub(super) mod wire;

pub use bloom::probe;
pub use codec::{decode, decode_one, encode, encode_one};
pub use header::Header;

use crate::record::{Counters, Position};
use bytes::Bytes;

/// Records in the form in which Redis keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// The header and the block.
    pub entry: Bytes,
    /// Over the keys of the records. It lies beside the entry, so that a look-up goes through a megabyte of filters, not
    /// through all that is queued.
    pub filter: Vec<u8>,
}

/// What the queue's script must know besides the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryMeta {
    /// Where custody reached before this entry (rule 7).
    pub previous: Position,
    /// The map's counters at the last record.
    pub counters: Counters,
}

/// The bytes are not an entry that we wrote.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BatchError {
    #[error("a queue entry ends too early")]
    Truncated,
    #[error("a queue entry has an unknown form (version {0}): was it written by a newer TableMap?")]
    UnknownVersion(u8),
    #[error("a queue entry holds an impossible value ({0})")]
    Invalid(&'static str),
    #[error("a queue entry is too large to unpack")]
    TooLarge,
    #[error("a queue entry cannot be unpacked")]
    Unpack,
    #[error("a queue entry could not be packed")]
    Pack,
}
