//! A dense flow is written in large batches: after a large one the next may grow for a moment.

use super::write::RECORDS;
use std::time::{Duration, Instant};

/// A batch is large from here on. What people do by hand, or a service in single transactions, stays below it and is
/// written at once.
const LARGE: usize = 512;
/// A batch of so many need not grow.
const FULL: usize = RECORDS / 2;
/// How long it may grow: far less than a batch takes.
const MOMENT: Duration = Duration::from_millis(5);

/// See the module.
#[derive(Debug, Default)]
pub struct Growth {
    is_dense: bool,
    since: Option<Instant>,
}

impl Growth {
    /// A batch of so many records was written.
    pub fn wrote(&mut self, records: usize) {
        self.is_dense = records >= LARGE;
        self.since = None;
    }

    /// Whether a batch of so many records waits for more.
    pub fn waits(&mut self, records: usize) -> bool {
        let grows = self.is_dense && records > 0 && records < FULL;
        self.since = grows.then(|| self.since.unwrap_or_else(Instant::now));
        self.left().is_some_and(|left| !left.is_zero())
    }

    /// None: nothing grows.
    pub fn left(&self) -> Option<Duration> {
        self.since.map(|since| MOMENT.saturating_sub(since.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_dense_flow_is_held_up_and_not_for_long() {
        let mut growth = Growth::default();
        assert!(!growth.waits(1));
        growth.wrote(LARGE - 1);
        assert!(!growth.waits(1));
        growth.wrote(LARGE);
        assert!(!growth.waits(0), "nothing is there");
        assert!(!growth.waits(FULL));
        assert!(growth.waits(1));
        let since = growth.since;
        assert!(growth.waits(2));
        assert_eq!(growth.since, since, "more does not prolong it");
        growth.since = since.and_then(|since| since.checked_sub(MOMENT));
        assert!(!growth.waits(2));
    }
}
