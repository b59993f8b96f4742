//! A Redis that is full: tried again less and less often, since each try reads the source again, for all maps.

use std::time::{Duration, Instant};

const LEAST: Duration = Duration::from_secs(2);
const MOST: Duration = Duration::from_secs(60);
/// A try takes a while: the source is read again.
const TRY: Duration = Duration::from_secs(10);

/// When a queue that Redis had no memory for is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    refused: Instant,
    wait: Duration,
    /// None: the wait is over.
    until: Option<Instant>,
}

impl Full {
    /// Redis has refused a change for want of memory. So soon after the last time, that was no good try: the next
    /// one comes later.
    #[must_use]
    pub fn refused(before: Option<Self>, now: Instant) -> Self {
        let soon = before.filter(|full| now.duration_since(full.refused) < 2 * full.wait + TRY);
        let wait = soon.map_or(LEAST, |full| (2 * full.wait).min(MOST));
        Self {
            refused: now,
            wait,
            until: Some(now + wait),
        }
    }

    #[must_use]
    pub fn waits(&self) -> bool {
        self.until.is_some()
    }

    /// Ends the wait when its time has come.
    pub fn is_due(&mut self, now: Instant) -> bool {
        self.until.take_if(|until| *until <= now).is_some()
    }

    /// Memory was freed: the next look need not wait.
    pub fn freed(&mut self, now: Instant) {
        if self.waits() {
            self.until = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_redis_is_tried_less_and_less_often() {
        let start = Instant::now();
        let mut full = None;
        let mut at = start;
        let mut waits = Vec::new();
        for _ in 0..7 {
            let mut next = Full::refused(full, at);
            assert!(!next.is_due(at));
            waits.push(next.wait.as_secs());
            at += next.wait;
            assert!(next.is_due(at) && !next.waits());
            full = Some(next);
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60]);
        let later = at + Duration::from_secs(120);
        assert_eq!(
            Full::refused(full, later).wait,
            LEAST,
            "it has worked for a while"
        );
    }

    #[test]
    fn freed_memory_is_tried_at_once() {
        let now = Instant::now();
        let mut full = Full::refused(None, now);
        full.freed(now);
        assert!(full.is_due(now));
        full.freed(now);
        assert!(!full.waits(), "it is being tried");
    }
}
