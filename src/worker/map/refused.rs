//! A Redis that does not take what it is given: tried again less and less often, since each try reads the source again,
//! for all maps.

use std::time::{Duration, Instant};

const LEAST: Duration = Duration::from_secs(2);
const MOST: Duration = Duration::from_secs(60);
/// Of a Redis that goes and comes, and takes what it is given while it is there.
const MOST_AWAY: Duration = Duration::from_secs(8);
/// A try takes a while: the source is read again.
const TRY: Duration = Duration::from_secs(10);

/// Why it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// For want of memory: what is drained may help.
    Full,
    /// It cannot be reached, or is not ready: a look tells when it is back.
    Away,
    Other,
}

/// When a queue that could not be written is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    at: Instant,
    wait: Duration,
    /// None: the wait is over.
    until: Option<Instant>,
    cause: Cause,
    /// Something was taken since.
    taken: bool,
}

impl Refused {
    /// Redis has not taken a change. Without any that it took since the last time, or so soon after it, that was no good
    /// try: the next one comes later.
    #[must_use]
    pub fn again(before: Option<Self>, cause: Cause, now: Instant) -> Self {
        let no_good = before.filter(|last| !last.taken || now.duration_since(last.at) < 2 * last.wait + TRY);
        let most = |last: &Self| match (cause, last.taken) {
            (Cause::Away, true) => MOST_AWAY,
            _ => MOST,
        };
        let wait = no_good.map_or(LEAST, |last| (2 * last.wait).min(most(&last)));
        Self {
            at: now,
            wait,
            until: Some(now + wait),
            cause,
            taken: false,
        }
    }

    #[must_use]
    pub fn waits(&self) -> bool {
        self.until.is_some()
    }

    #[must_use]
    pub fn is_full(&self) -> bool {
        self.cause == Cause::Full
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
        if self.waits() && self.is_full() {
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
            let mut next = Refused::again(refused, Cause::Full, at);
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
            Refused::again(refused, Cause::Full, later).wait,
            LEAST,
            "it has worked for a while"
        );
    }

    #[test]
    fn a_redis_that_took_nothing_since_has_not_worked_for_a_while() {
        let now = Instant::now();
        let first = Refused::again(None, Cause::Away, now);
        let later = now + Duration::from_secs(3600);
        assert_eq!(Refused::again(Some(first), Cause::Away, later).wait, 2 * LEAST);
    }

    #[test]
    fn a_redis_that_goes_and_comes_is_not_waited_for_long_if_it_takes_something_meanwhile() {
        let waits = |takes: bool| {
            let (mut at, mut refused) = (Instant::now(), None);
            let each = (0..6).map(|_| {
                let mut next = Refused::again(refused, Cause::Away, at);
                at += next.wait;
                if takes {
                    next.taken();
                }
                refused = Some(next);
                next.wait.as_secs()
            });
            each.collect::<Vec<_>>()
        };
        assert_eq!(waits(true), [2, 4, 8, 8, 8, 8]);
        assert_eq!(waits(false), [2, 4, 8, 16, 32, 60]);
    }

    #[test]
    fn freed_memory_is_tried_at_once() {
        let now = Instant::now();
        let mut full = Refused::again(None, Cause::Full, now);
        full.freed(now);
        assert!(full.is_due(now));
        full.freed(now);
        assert!(!full.waits(), "it is being tried");
        let mut away = Refused::again(None, Cause::Away, now);
        away.freed(now);
        assert!(!away.is_due(now));
    }
}
