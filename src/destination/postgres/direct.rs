//! Whether new rows are copied into the table itself. That is about twice as fast as an upsert, and fails as a whole if one of
//! the rows is there already, since somebody else has written it.

/// So many batches go without, at most, before it is tried again.
const MOST: u32 = 1024;

/// What became of the attempts.
#[derive(Clone, Debug)]
pub(super) struct Direct {
    is_possible: bool,
    /// Batches that go without it.
    rest: u32,
    /// How many after the next failure.
    pause: u32,
}

impl Direct {
    pub(super) fn new(is_possible: bool) -> Self {
        Self {
            is_possible,
            rest: 0,
            pause: 1,
        }
    }

    pub(super) fn may_copy(&self) -> bool {
        self.is_possible && self.rest == 0
    }

    /// A batch that copied was refused.
    pub(super) fn failed(&mut self) {
        self.rest = self.pause;
        self.pause = (self.pause * 4).min(MOST);
    }

    /// A batch is written.
    pub(super) fn wrote(&mut self, has_copied: bool) {
        self.rest = self.rest.saturating_sub(1);
        if has_copied {
            self.pause = (self.pause / 2).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_make_it_rarer_and_successes_more_frequent() {
        let mut direct = Direct::new(true);
        let mut tried = 0;
        for _ in 0..1000 {
            if direct.may_copy() {
                tried += 1;
                direct.failed();
            } else {
                direct.wrote(false);
            }
        }
        assert_eq!(tried, 6, "after 1, 4, 16, 64 and 256 batches");
        while !direct.may_copy() {
            direct.wrote(false);
        }
        for _ in 0..20 {
            direct.wrote(true);
        }
        direct.failed();
        direct.wrote(false);
        assert!(direct.may_copy());
        assert!(!Direct::new(false).may_copy());
    }
}
