//! The phase: a function of facts, never a stored state.

use super::{Gate, Route};
use std::fmt;

/// What a map is doing, for people. Programs read conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Starting,
    Running,
    Pausing,
    Paused,
    Buffering,
    CatchingUp,
    Blocked,
    Deleting,
    /// The worker's Lease expired: written by the operator.
    Unknown,
}

impl Phase {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::Pausing => "Pausing",
            Self::Paused => "Paused",
            Self::Buffering => "Buffering",
            Self::CatchingUp => "CatchingUp",
            Self::Blocked => "Blocked",
            Self::Deleting => "Deleting",
            Self::Unknown => "Unknown",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The phase of a gate. When several hold: Blocked, then Pausing or Paused, Buffering, `CatchingUp`, Running.
#[must_use]
pub fn phase(gate: &Gate) -> Phase {
    if gate.blocked {
        Phase::Blocked
    } else if gate.paused() {
        Phase::Paused
    } else if gate.wanted {
        Phase::Pausing
    } else if !gate.usable {
        Phase::Buffering
    } else if gate.route == Route::Lane {
        Phase::Running
    } else {
        Phase::CatchingUp
    }
}
