//! What the stream hands out at once.

use crate::record::{Change, Lsn, Position, Relation};
use std::sync::Arc;

/// A piece of the stream, in its order: what was there without waiting, up to about 1 MiB or 4096 changes. A larger
/// row comes alone, and a large transaction in several pieces.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    /// In the source's commit order. The last ones may belong to a transaction that goes on in the next chunk.
    pub changes: Vec<Change>,
    /// Relation ids of tables that were truncated.
    pub truncates: Vec<u32>,
    /// The tables that the source described in this chunk.
    pub relations: Vec<Arc<Relation>>,
    /// Every change at or below it is in this chunk or in an earlier one; changes of this chunk may lie above it.
    /// None: no further than the chunks before. It also moves without any change, so that an idle slot moves.
    pub through: Option<Position>,
    /// The end of the source's log, as far as it has said.
    pub received: Lsn,
    /// Received bytes in the changes of this chunk.
    pub bytes: usize,
}

impl Chunk {
    const MAX_CHANGES: usize = 4096;
    const MAX_BYTES: usize = 1 << 20;

    /// Whether there is nothing to hand out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.truncates.is_empty()
            && self.relations.is_empty()
            && self.through.is_none()
    }

    /// Whether a message of this size may be added.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.bytes == 0 || (self.changes.len() < Self::MAX_CHANGES && self.bytes + bytes <= Self::MAX_BYTES)
    }
}
