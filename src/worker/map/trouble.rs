//! Why a map takes no changes, or may not write.

use crate::record::{Lsn, Position};

/// Something is missing that nobody holds any more: the way on is to put it back, or to accept the gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub message: String,
    /// Everything up to here is held. None: that is not known before the destination can be asked.
    pub after: Option<Lsn>,
    /// What lies beyond is held again, as far as that is known.
    pub until: Option<Lsn>,
}

impl Lost {
    /// `what` is missing; the way out is the same for all.
    #[must_use]
    pub fn new(what: &str, after: Option<Lsn>, until: Option<Lsn>) -> Self {
        let message = format!(
            "{what} Put back what was restored or reset; or go on without it: make a TableMapOperation with action \
             AcceptGap that names status.blocked.gap.lostAfter, and compare the tables."
        );
        Self {
            message,
            after,
            until,
        }
    }
}

/// Why changes may not be taken: they stay at the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// Redis cannot be reached, or is full.
    QueueUnavailable { message: String },
    /// As much is queued as may be.
    QueueLimit { message: String },
    /// The destination is away, and they are to wait at the source.
    OutageHeld { message: String },
    /// Changes are missing that nobody holds.
    PositionLost(Lost),
    /// An entry of the queue cannot be read.
    EntryUnreadable { message: String },
    /// Parked records are missing.
    ErrorsLost(Lost),
    /// The slot is gone.
    SlotLost(Lost),
    /// The source is another system than the one the positions belong to.
    SourceReplaced(Lost),
    /// The source no longer has, or no longer sends, a column of the key or of the filter.
    KeyColumnsGone { message: String },
    /// The source table was renamed, dropped, or made anew.
    TableGone { message: String },
    /// The source table has left the publication: what changed since was not sent.
    NotPublished(Lost),
    /// Another worker has a higher epoch.
    EpochLost { message: String },
}

impl Blocked {
    /// A table has left the publication: what changed since was not sent, and will not be when it is back.
    #[must_use]
    pub fn not_published((schema, name): &(String, String), publication: &str) -> Self {
        let what = format!(
            "The source table {schema}.{name} has left the publication {publication}: what changed until it is back was not \
             sent."
        );
        Self::NotPublished(Lost::new(&what, None, None))
    }

    /// The reason in conditions.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::QueueUnavailable { .. } => "QueueUnavailable",
            Self::QueueLimit { .. } => "QueueHardLimit",
            Self::OutageHeld { .. } => "OutageHeld",
            Self::PositionLost(_) => "PositionLost",
            Self::EntryUnreadable { .. } => "EntryUnreadable",
            Self::ErrorsLost(_) => "ErrorsLost",
            Self::SlotLost(_) => "SlotLost",
            Self::SourceReplaced(_) => "SourceReplaced",
            Self::KeyColumnsGone { .. } => "KeyColumnsGone",
            Self::TableGone { .. } => "SourceTableGone",
            Self::NotPublished(_) => "TableNotPublished",
            Self::EpochLost { .. } => "EpochLost",
        }
    }

    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::QueueUnavailable { message }
            | Self::QueueLimit { message }
            | Self::OutageHeld { message }
            | Self::EntryUnreadable { message }
            | Self::KeyColumnsGone { message }
            | Self::TableGone { message }
            | Self::EpochLost { message } => message,
            Self::PositionLost(lost)
            | Self::ErrorsLost(lost)
            | Self::SlotLost(lost)
            | Self::SourceReplaced(lost)
            | Self::NotPublished(lost) => &lost.message,
        }
    }

    /// What is lost, if a person may accept that.
    #[must_use]
    pub const fn gap(&self) -> Option<&Lost> {
        match self {
            Self::PositionLost(lost)
            | Self::ErrorsLost(lost)
            | Self::SlotLost(lost)
            | Self::SourceReplaced(lost)
            | Self::NotPublished(lost) => Some(lost),
            _ => None,
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
        matches!(self, Self::PositionLost(_) | Self::ErrorsLost(_))
    }

    /// Whether nothing may be written either: what is there is not all that there was.
    #[must_use]
    pub const fn is_loss(&self) -> bool {
        matches!(
            self,
            Self::PositionLost(_)
                | Self::EntryUnreadable { .. }
                | Self::ErrorsLost(_)
                | Self::SlotLost(_)
                | Self::SourceReplaced(_)
                | Self::NotPublished(_)
                | Self::EpochLost { .. }
        )
    }

    /// Whether the slot that the map reads from is there, and may still have what it has to take.
    #[must_use]
    pub const fn may_go_on(&self) -> bool {
        !matches!(
            self,
            Self::SlotLost(_) | Self::SourceReplaced(_) | Self::EpochLost { .. }
        )
    }

    /// Which of two stays when both hold: `PositionLost` outranks `ErrorsLost` (rule 1).
    #[must_use]
    pub const fn rank(&self) -> u8 {
        match self {
            Self::EpochLost { .. } => 8,
            Self::SourceReplaced(_) => 7,
            Self::SlotLost(_) => 6,
            Self::PositionLost(_) | Self::EntryUnreadable { .. } => 5,
            Self::NotPublished(_) => 4,
            Self::ErrorsLost(_) => 3,
            Self::TableGone { .. } => 2,
            Self::KeyColumnsGone { .. } => 1,
            Self::QueueUnavailable { .. } | Self::QueueLimit { .. } | Self::OutageHeld { .. } => 0,
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

impl Unusable {
    /// Whether a look at the destination says how it is now.
    #[must_use]
    pub const fn is_of_destination(&self) -> bool {
        matches!(
            self.kind,
            UnusableKind::Away | UnusableKind::Unfit | UnusableKind::Stuck
        )
    }
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
