//! One change of one row, as the source sent it.

use super::{Origin, Position, Relation, Row};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Insert,
    Update,
    Delete,
}

/// The row as it was before an update or delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OldRow {
    /// Only the replica identity's columns hold values; the others are NULL on the wire and mean nothing.
    /// An update carries it when one of those columns changed.
    Key(Row),
    /// The whole old row (REPLICA IDENTITY FULL).
    Full(Row),
}

impl OldRow {
    #[must_use]
    pub fn row(&self) -> &Row {
        match self {
            Self::Key(row) | Self::Full(row) => row,
        }
    }
}

/// One change of one row. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub position: Position,
    pub operation: Operation,
    /// When the source committed it: microseconds since the Unix epoch.
    pub commit_time: i64,
    pub relation: Arc<Relation>,
    /// From which database one of our workers has brought it (rule 16). None: it was made here, or is in a queue.
    pub origin: Option<Origin>,
    /// Updates that change the identity (or any under REPLICA IDENTITY FULL), and deletes.
    pub old: Option<OldRow>,
    /// Inserts and updates.
    pub new: Option<Row>,
}

impl Change {
    /// Bytes held by the rows: what bounded buffers count.
    #[must_use]
    pub fn size(&self) -> usize {
        let old = self.old.as_ref().map_or(0, |old| old.row().as_bytes().len());
        old + self.new.as_ref().map_or(0, |new| new.as_bytes().len())
    }
}
