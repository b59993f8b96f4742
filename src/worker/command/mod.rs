//! `TableMapOperations`: commands of people on maps of this worker.

mod status;
mod watch;

pub use status::write;
pub use watch::watch;

use crate::record::Lsn;
use std::sync::Arc;

/// One operation that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The object's UID.
    pub id: Arc<str>,
    pub namespace: String,
    pub name: String,
    pub generation: i64,
    /// The name of its map.
    pub map: String,
    pub order: Order,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    AcceptGap { lost_after: Lsn },
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
}
