//! Why a map takes no changes, or may not write.

use crate::record::Position;

/// Why changes may not be taken: they stay at the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// Redis cannot be reached, or is full.
    QueueUnavailable { message: String },
    /// Changes are missing that nobody holds.
    PositionLost { message: String },
    /// An entry of the queue cannot be read.
    EntryUnreadable { message: String },
    /// Parked records are missing.
    ErrorsLost { message: String },
    /// The slot is gone.
    SlotLost { message: String },
    /// The source is another system than the one the positions belong to.
    SourceReplaced { message: String },
    /// The source no longer has, or no longer sends, a column of the key or of the filter.
    KeyColumnsGone { message: String },
    /// The source table was renamed, dropped, or made anew.
    TableGone { message: String },
    /// The source table has left the publication: what changed since was not sent.
    NotPublished { message: String },
    /// Another worker has a higher epoch.
    EpochLost { message: String },
}

impl Blocked {
    /// The reason in conditions.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::QueueUnavailable { .. } => "QueueUnavailable",
            Self::PositionLost { .. } => "PositionLost",
            Self::EntryUnreadable { .. } => "EntryUnreadable",
            Self::ErrorsLost { .. } => "ErrorsLost",
            Self::SlotLost { .. } => "SlotLost",
            Self::SourceReplaced { .. } => "SourceReplaced",
            Self::KeyColumnsGone { .. } => "KeyColumnsGone",
            Self::TableGone { .. } => "SourceTableGone",
            Self::NotPublished { .. } => "TableNotPublished",
            Self::EpochLost { .. } => "EpochLost",
        }
    }

    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::QueueUnavailable { message }
            | Self::PositionLost { message }
            | Self::EntryUnreadable { message }
            | Self::ErrorsLost { message }
            | Self::SlotLost { message }
            | Self::SourceReplaced { message }
            | Self::KeyColumnsGone { message }
            | Self::TableGone { message }
            | Self::NotPublished { message }
            | Self::EpochLost { message } => message,
        }
    }

    /// Whether it may end by itself: then the worker looks again.
    #[must_use]
    pub const fn passes(&self) -> bool {
        matches!(self, Self::QueueUnavailable { .. })
    }

    /// Whether what is missing may be put back: then the worker looks again.
    #[must_use]
    pub const fn may_be_mended(&self) -> bool {
        matches!(self, Self::PositionLost { .. } | Self::ErrorsLost { .. })
    }

    /// Whether nothing may be written either: what is there is not all that there was.
    #[must_use]
    pub const fn is_loss(&self) -> bool {
        matches!(
            self,
            Self::PositionLost { .. }
                | Self::EntryUnreadable { .. }
                | Self::ErrorsLost { .. }
                | Self::SlotLost { .. }
                | Self::SourceReplaced { .. }
                | Self::NotPublished { .. }
                | Self::EpochLost { .. }
        )
    }

    /// Which of two stays when both hold: `PositionLost` outranks `ErrorsLost` (rule 1).
    #[must_use]
    pub const fn rank(&self) -> u8 {
        match self {
            Self::EpochLost { .. } => 8,
            Self::SourceReplaced { .. } => 7,
            Self::SlotLost { .. } => 6,
            Self::PositionLost { .. } | Self::EntryUnreadable { .. } => 5,
            Self::NotPublished { .. } => 4,
            Self::ErrorsLost { .. } => 3,
            Self::TableGone { .. } => 2,
            Self::KeyColumnsGone { .. } => 1,
            Self::QueueUnavailable { .. } => 0,
        }
    }
}

/// Why the destination may not be written: changes are queued, and the map looks again by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// The reason in conditions.
    pub reason: &'static str,
    pub message: String,
    pub kind: UnusableKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnusableKind {
    /// The destination is away, or refuses us.
    Away,
    /// Its schema does not fit: `SchemaValid=False`.
    Unfit,
    /// The source, or the queue, does not let its table join: `SourceConnected=False`.
    Unjoined,
    /// A mapped source column is gone: `SchemaValid=False`, until the stream says otherwise.
    SourceUnfit,
    /// The table is locked, or a statement took too long.
    Stuck,
    /// A record refers to a row of another map that stands behind it (rule 10).
    Waits {
        parent: String,
        record: Position,
        /// Everything of the map before it is written.
        since: Position,
    },
}
