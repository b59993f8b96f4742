//! What is counted of a map's changes where they arrive (I5).

use super::Change;

/// A map's counters at some position of its source. They go with every change, and are stored with each position that
/// is made durable: so a change that is sent again is not counted again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Changes that arrived. A key change counts 1.
    pub received: u64,
    /// Those of them that the filter left out.
    pub filtered: u64,
}

impl Counters {
    /// Changes that must become a write, or an error.
    #[must_use]
    pub const fn taken(self) -> u64 {
        self.received.saturating_sub(self.filtered)
    }

    /// What was counted since `earlier`. It may be less than nothing, and wraps then: what is added later makes it right.
    #[must_use]
    pub const fn beyond(self, earlier: Self) -> Self {
        Self {
            received: self.received.wrapping_sub(earlier.received),
            filtered: self.filtered.wrapping_sub(earlier.filtered),
        }
    }

    /// With what was counted before all of it.
    #[must_use]
    pub const fn after(self, before: Self) -> Self {
        Self {
            received: self.received.wrapping_add(before.received),
            filtered: self.filtered.wrapping_add(before.filtered),
        }
    }
}

/// A change, and its map's counters after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    pub change: Change,
    pub counters: Counters,
}
