//! A Redis that does not take what it is given: tried again less and less often, since each try reads the source again,
//! for all maps.

use std::time::{Duration, Instant};

const LEAST: Duration = Duration::from_secs(2);
const MOST: Duration = Duration::from_secs(60);
/// A try takes a while: the source is read again.
const TRY: Duration = Duration::from_secs(10);

/// When a queue that could not be written is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    at: Instant,
    wait: Duration,
    /// None: the wait is over.
    until: Option<Instant>,
    /// For want of memory: what is drained may help.
    is_full: bool,
    /// Something was taken since.
    taken: bool,
}

impl Refused {
    /// Redis has not taken a change. Without any that it took since the last time, or so soon after it, that was no good
    /// try: the next one comes later.
    #[must_use]
    pub fn again(before: Option<Self>, is_full: bool, now: Instant) -> Self {
        let no_good = before.filter(|last| !last.taken || now.duration_since(last.at) < 2 * last.wait + TRY);
        let wait = no_good.map_or(LEAST, |last| (2 * last.wait).min(MOST));
        Self {
            at: now,
            wait,
            until: Some(now + wait),
            is_full,
            taken: false,
        }
    }

    #[must_use]
    pub fn waits(&self) -> bool {
        self.until.is_some()
    }

    #[must_use]
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Redis has taken a change again.
    pub fn taken(&mut self) {
        self.taken = true;
    }

    /// Ends the wait when its time has come.
    pub fn is_due(&mut self, now: Instant) -> bool {
        self.until.take_if(|until| *until <= now).is_some()
    }

    /// Memory was freed: the next look need not wait.
    pub fn freed(&mut self, now: Instant) {
        if self.waits() && self.is_full {
            self.until = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_that_refuses_is_tried_less_and_less_often() {
        let start = Instant::now();
        let mut refused: Option<Refused> = None;
        let mut at = start;
        let mut waits = Vec::new();
        for _ in 0..7 {
            let mut next = Refused::again(refused, true, at);
            assert!(!next.is_due(at));
            waits.push(next.wait.as_secs());
            at += next.wait;
            assert!(next.is_due(at) && !next.waits());
            next.taken();
            refused = Some(next);
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60]);
        let later = at + Duration::from_secs(140);
        assert_eq!(
            Refused::again(refused, true, later).wait,
            LEAST,
            "it has worked for a while"
        );
    }

    #[test]
    fn a_redis_that_took_nothing_since_has_not_worked_for_a_while() {
        let now = Instant::now();
        let first = Refused::again(None, false, now);
        let later = now + Duration::from_secs(3600);
        assert_eq!(Refused::again(Some(first), false, later).wait, 2 * LEAST);
    }

    #[test]
    fn freed_memory_is_tried_at_once() {
        let now = Instant::now();
        let mut full = Refused::again(None, true, now);
        full.freed(now);
        assert!(full.is_due(now));
        full.freed(now);
        assert!(!full.waits(), "it is being tried");
        let mut away = Refused::again(None, false, now);
        away.freed(now);
        assert!(!away.is_due(now));
    }
}
