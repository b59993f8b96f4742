//! Timelines: a planned switchover keeps the era, if everything durable lies before its switch point.

use crate::record::Lsn;
use std::collections::HashMap;

/// Where each earlier timeline was left for the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TimelineHistory(HashMap<u32, Lsn>);

impl TimelineHistory {
    /// Reads a history file: a line holds a timeline, its switch point and a reason (`PostgreSQL` manual,
    /// "Timelines"). Other lines are comments.
    pub(super) fn parse(text: &str) -> Self {
        let entry = |line: &str| {
            let mut parts = line.split_whitespace();
            Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
        };
        Self(text.lines().filter_map(entry).collect())
    }

    pub(super) fn switch(&self, timeline: u32) -> Option<Lsn> {
        self.0.get(&timeline).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switch_points_are_read_from_the_history_file() {
        let history =
            TimelineHistory::parse("# a comment\n1\t0/3000060\tno recovery target specified\n\n2\t1/A0\tx\n");
        assert_eq!(history.switch(1), Some(Lsn(0x300_0060)));
        assert_eq!(history.switch(2), Some(Lsn(0x1_0000_00A0)));
        assert_eq!(history.switch(3), None);
    }
}
