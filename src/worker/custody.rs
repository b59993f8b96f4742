//! Rule 1: who holds what durably, and what may therefore be confirmed to the source. Pure.

use crate::record::Position;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// What a map's custodians hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// D: the destination's progress row; None while the destination cannot be read.
    pub destination: Option<Position>,
    /// Q: the last position that the queue holds or has held.
    pub queue: Position,
    /// T: everything at or below it is not in the queue.
    pub trimmed: Position,
}

/// Changes that neither the source will send again nor anyone holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub from: Position,
    pub to: Position,
}

impl Held {
    /// The position up to which everything is durable somewhere.
    #[must_use]
    pub fn durable(&self) -> Position {
        self.destination
            .map_or(self.queue, |destination| destination.max(self.queue))
    }

    /// Finds a hole that someone else made: `C <= max(D, Q)` and `T <= D` must hold at every connect (rule 1).
    ///
    /// # Errors
    /// The gap, when one of the two does not hold.
    pub fn check(&self, confirmed: Position) -> Result<(), Gap> {
        let durable = self.durable();
        if confirmed > durable {
            return Err(Gap {
                from: durable,
                to: confirmed,
            });
        }
        match self.destination {
            Some(destination) if self.trimmed > destination => Err(Gap {
                from: destination,
                to: self.trimmed,
            }),
            _ => Ok(()),
        }
    }
}

/// Keeps what may be confirmed for one map: flushed positions at once, but queued ones and those near a parked
/// record only after a while and a look (rules 3 and 7), so that a Redis failover heals by a rewind.
#[derive(Debug)]
pub struct Confirmable {
    delay: Duration,
    flushed: Position,
    /// Where the destination stood before the parks of the last while.
    parks: VecDeque<(Instant, Position)>,
    /// Queue positions that wait for their time and a look.
    queued: VecDeque<(Instant, Position)>,
    /// The newest, which has no mark yet: a mark every tenth of the delay is enough.
    latest: Option<Position>,
    seen: Position,
    /// What was written by then would outlive a failover of Redis.
    kept: Option<Instant>,
}

impl Confirmable {
    /// How long the queue holds what it holds is not known: that counts as queued now.
    #[must_use]
    pub fn new(delay: Duration, held: Held) -> Self {
        Self {
            delay,
            flushed: held.destination.unwrap_or(Position::ZERO),
            parks: VecDeque::new(),
            queued: VecDeque::new(),
            latest: Some(held.queue),
            seen: Position::ZERO,
            kept: None,
        }
    }

    /// Records are parked, since when is not known: what lies beyond them may not be forgotten before Redis is seen to have
    /// kept them for a while (rule 3).
    #[must_use]
    pub fn with_parks(mut self, now: Instant) -> Self {
        self.parks.push_back((now, Position::ZERO));
        self
    }

    /// The destination has flushed up to `position`, parking records on the way or not.
    pub fn flushed(&mut self, position: Position, parked: bool, now: Instant) {
        if parked {
            self.parks.push_back((now, self.flushed));
        }
        self.flushed = position;
    }

    /// The queue holds everything up to `position`.
    pub fn queued(&mut self, position: Position, now: Instant) {
        self.latest = Some(position);
        self.set_mark(now);
    }

    fn set_mark(&mut self, now: Instant) {
        let due = self
            .queued
            .back()
            .is_none_or(|(at, _)| now.duration_since(*at) >= self.delay / 10);
        if let Some(position) = self.latest.take_if(|_| due) {
            self.queued.push_back((now, position));
        }
    }

    /// Redis was read again and still holds everything up to `position`; what it was given by `kept` would outlive a
    /// failover.
    pub fn seen(&mut self, position: Position, kept: Instant, now: Instant) {
        self.kept = self.kept.max(Some(kept));
        while let Some((at, queued)) = self.queued.front().copied() {
            if now.duration_since(at) < self.delay || queued > position || self.kept < Some(at) {
                break;
            }
            self.seen = self.seen.max(queued);
            self.queued.pop_front();
        }
    }

    /// What may be confirmed to the source for this map.
    pub fn position(&mut self, now: Instant) -> Position {
        self.set_mark(now);
        while self
            .parks
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) >= self.delay && self.kept >= Some(*at))
        {
            self.parks.pop_front();
        }
        let flushed = self.parks.front().map_or(self.flushed, |(_, before)| *before);
        flushed.max(self.seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lsn: u64) -> Position {
        Position::through(1, crate::record::Lsn(lsn))
    }

    fn held(destination: u64, queue: u64, trimmed: u64) -> Held {
        Held {
            destination: Some(at(destination)),
            queue: at(queue),
            trimmed: at(trimmed),
        }
    }

    #[test]
    fn a_gap_is_found_between_what_was_confirmed_and_what_is_held() {
        assert_eq!(held(90, 50, 50).check(at(90)), Ok(()));
        assert_eq!(held(40, 90, 40).check(at(90)), Ok(()));
        assert_eq!(
            held(80, 50, 50).check(at(90)),
            Err(Gap {
                from: at(80),
                to: at(90)
            })
        );
    }

    #[test]
    fn a_destination_put_back_below_what_was_trimmed_is_a_gap() {
        assert_eq!(
            held(40, 90, 50).check(at(60)),
            Err(Gap {
                from: at(40),
                to: at(50)
            })
        );
        assert_eq!(
            Held {
                destination: None,
                ..held(0, 90, 50)
            }
            .check(at(60)),
            Ok(())
        );
    }

    #[test]
    fn queued_positions_are_confirmed_late_and_only_when_seen() {
        let start = Instant::now();
        let mut map = Confirmable::new(Duration::from_secs(10), held(10, 10, 10));
        map.queued(at(20), start);
        let later = start + Duration::from_secs(11);
        assert_eq!(map.position(later), at(10), "not read back yet");
        map.seen(at(15), later, later);
        assert_eq!(map.position(later), at(10), "Redis went back");
        let soon = start + Duration::from_secs(5);
        map.seen(at(20), soon, soon);
        assert_eq!(map.position(later), at(10), "too early");
        map.seen(at(20), later, later);
        assert_eq!(map.position(later), at(20));
    }

    #[test]
    fn what_no_replica_has_is_not_confirmed() {
        let start = Instant::now();
        let (before, later) = (start, start + Duration::from_secs(11));
        let mut map = Confirmable::new(Duration::from_secs(10), held(10, 10, 10));
        map.queued(at(20), start + Duration::from_secs(1));
        map.flushed(at(15), true, start + Duration::from_secs(1));
        map.seen(at(20), before, later);
        assert_eq!(map.position(later), at(10));
        map.seen(at(20), start + Duration::from_secs(2), later);
        assert_eq!(map.position(later), at(20));
    }

    #[test]
    fn what_the_queue_held_before_is_confirmed_as_late() {
        let start = Instant::now();
        let mut map = Confirmable::new(Duration::from_secs(10), held(10, 20, 10));
        map.seen(at(20), start, start);
        assert_eq!(map.position(start), at(10));
        let later = start + Duration::from_secs(10);
        map.seen(at(20), later, later);
        assert_eq!(map.position(later), at(20));
    }

    #[test]
    fn the_source_stays_behind_parked_records() {
        let start = Instant::now();
        let mut map = Confirmable::new(Duration::from_secs(10), held(10, 5, 5));
        map.flushed(at(30), true, start);
        map.flushed(at(40), false, start);
        assert_eq!(map.position(start), at(10));
        let later = start + Duration::from_secs(10);
        assert_eq!(map.position(later), at(10), "not read back yet");
        map.seen(at(5), later, later);
        assert_eq!(map.position(later), at(40));
    }
}
