//! `TableMapOperations`: commands of people on maps of this worker.

mod count;
mod job;
mod selection;
mod status;
mod watch;
mod work;

pub use count::{Count, CountError, Counted};
pub use job::{Ended, Job, JobError, Lent, Teller};
pub use selection::{QueueSelection, Selection};
pub use status::write;
pub use watch::watch;
pub use work::{Counts, Failure, Work};

use crate::record::{Fate, Lsn};
use std::sync::Arc;

/// One operation that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The object's UID.
    pub id: Arc<str>,
    pub namespace: String,
    pub name: String,
    pub generation: i64,
    /// When it was made, in seconds since the Unix epoch: what was asked for first comes first.
    pub created: i64,
    /// The name of its map.
    pub map: String,
    /// Who asked for it, as far as the object says.
    pub requested_by: Option<String>,
    pub order: Order,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    AcceptGap {
        lost_after: Lsn,
    },
    Errors(OnErrors),
    Queue(OnQueue),
    /// The pauses that rules have begun are to end.
    Resume,
    /// It cannot be carried out as it is.
    Unfit {
        message: String,
    },
}

/// Something to be done with parked records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnErrors {
    pub act: Act,
    pub selection: Selection,
    /// Only count.
    pub dry_run: bool,
    /// Records in a second, at most.
    pub cap: Option<u32>,
}

/// What is queued is to be skipped, or some of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnQueue {
    pub fate: Fate,
    pub selection: QueueSelection,
    /// Only count.
    pub dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Write them again.
    Retry,
    /// Give them up.
    Discard,
}

impl OnErrors {
    /// Whether it writes to the destination.
    #[must_use]
    pub fn writes(&self) -> bool {
        self.act == Act::Retry && !self.dry_run
    }
}

/// How far an operation is. Reasons and what to do about them: docs/conditions.md.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stand {
    Waiting { reason: &'static str, message: String },
    Running { message: String },
    Complete { reason: &'static str, message: String },
    Failed { reason: &'static str, message: String },
}

impl Stand {
    #[must_use]
    pub const fn is_end(&self) -> bool {
        matches!(self, Self::Complete { .. } | Self::Failed { .. })
    }

    #[must_use]
    pub const fn phase(&self) -> &'static str {
        match self {
            Self::Waiting { .. } => "Waiting",
            Self::Running { .. } => "Running",
            Self::Complete { .. } => "Complete",
            Self::Failed { .. } => "Failed",
        }
    }

    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Self::Waiting { message, .. }
            | Self::Running { message }
            | Self::Complete { message, .. }
            | Self::Failed { message, .. } => message,
        }
    }
}

/// What is to be said of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub command: Command,
    pub stand: Stand,
    /// What it has done with records.
    pub work: Option<Work>,
}
