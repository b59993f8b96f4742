//! Replays the queues of several maps as one: in the order in which the source committed (I2).

use super::feed::{Entry, Fed, Feed};
use crate::{
    destination::postgres::Item,
    record::{Counted, Position},
};
use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

/// Entries that a seat's flushed position has passed: they may be trimmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    pub seq: u64,
    /// Everything at or below it has left the queue: T of rule 1.
    pub through: Position,
    pub records: u64,
    /// Records at or below the flushed position in the entry that is next to be trimmed.
    pub partial: u64,
    /// Commit time of the first record that stays, if it was read already: microseconds since the Unix epoch.
    pub oldest: Option<i64>,
}

/// One entry that was read and not yet passed.
#[derive(Debug)]
struct Open {
    seq: u64,
    last: Position,
    records: u64,
}

/// One map in replay.
#[derive(Debug)]
struct Strand {
    feed: Feed,
    head: VecDeque<Counted>,
    /// Nothing more at or below it is to come: how far others may go on while `head` is empty.
    end: Position,
    open: VecDeque<Open>,
    corrupt: Option<String>,
    cap: Option<u32>,
    /// Until then it is as if it were not there.
    begun: bool,
}

/// All maps that replay into one destination.
#[derive(Debug, Default)]
pub struct Merge {
    strands: BTreeMap<usize, Strand>,
    taken: VecDeque<Item>,
    committed: usize,
    rate: Option<Rate>,
}

/// A token bucket: the lowest cap of the merged maps governs.
#[derive(Debug)]
struct Rate {
    cap: f64,
    tokens: f64,
    at: Instant,
}

impl Merge {
    pub fn start(&mut self, seat: usize, feed: Feed, cap: Option<u32>) {
        let strand = Strand {
            feed,
            head: VecDeque::new(),
            end: Position::ZERO,
            open: VecDeque::new(),
            corrupt: None,
            cap,
            begun: false,
        };
        self.strands.insert(seat, strand);
        self.govern();
    }

    /// From here on these are merged.
    pub fn begin(&mut self, seats: &[usize]) {
        for (seat, strand) in &mut self.strands {
            strand.begun |= seats.contains(seat);
        }
    }

    /// Ends a map's replay. What was not flushed is still in its queue.
    pub fn stop(&mut self, seat: usize) {
        self.strands.remove(&seat);
        let gone = self
            .taken
            .iter()
            .take(self.committed)
            .filter(|item| item.map == seat)
            .count();
        self.committed -= gone;
        self.taken.retain(|item| item.map != seat);
        self.govern();
    }

    fn govern(&mut self) {
        let cap = self.strands.values().filter_map(|strand| strand.cap).min();
        self.rate = match (cap, self.rate.take()) {
            (Some(cap), Some(rate)) => Some(Rate {
                cap: f64::from(cap),
                ..rate
            }),
            (Some(cap), None) => Some(Rate {
                cap: f64::from(cap),
                tokens: 1.0,
                at: Instant::now(),
            }),
            (None, _) => None,
        };
    }

    /// Takes what the feeds have, and merges it, until about `records` wait. Returns what is wrong with a seat.
    pub fn fill(&mut self, records: usize, bytes: usize) -> Option<(usize, String)> {
        let waiting = self.taken.len() - self.committed;
        let room = self
            .rate
            .as_mut()
            .map_or(records, |rate| rate.allowance().min(records));
        let mut size: usize = self
            .taken
            .iter()
            .skip(self.committed)
            .map(|item| item.change.size())
            .sum();
        let mut count = waiting;
        while count < room && size < bytes {
            let Some(item) = self.next() else { break };
            size += item.change.size();
            count += 1;
            self.taken.push_back(item);
        }
        self.strands
            .iter_mut()
            .find_map(|(seat, strand)| strand.corrupt.take().map(|text| (*seat, text)))
    }

    /// The lowest change of all heads, if no map whose head is empty may still bring a lower one.
    fn next(&mut self) -> Option<Item> {
        let mut lowest: Option<(Position, usize)> = None;
        let mut bound: Option<Position> = None;
        for (seat, strand) in self.strands.iter_mut().filter(|(_, strand)| strand.begun) {
            strand.pull();
            match strand.head.front() {
                Some(Counted { change, .. })
                    if lowest.is_none_or(|(position, _)| change.position < position) =>
                {
                    lowest = Some((change.position, *seat));
                }
                Some(_) => {}
                None => bound = Some(bound.map_or(strand.end, |bound| bound.min(strand.end))),
            }
        }
        let (position, seat) = lowest?;
        if bound.is_some_and(|bound| position > bound) {
            return None;
        }
        let Counted { change, counters } = self.strands.get_mut(&seat)?.head.pop_front()?;
        Some(Item {
            map: seat,
            change,
            counters,
        })
    }

    /// The items that are not committed yet.
    pub fn pending(&self) -> impl Iterator<Item = &Item> {
        self.taken.iter().skip(self.committed)
    }

    pub fn waiting(&self) -> usize {
        self.taken.len() - self.committed
    }

    /// Everything below it was taken from the feeds.
    pub fn through(&self) -> Position {
        let begun = self.strands.values().filter(|strand| strand.begun);
        let strands = begun.map(|strand| match strand.head.front() {
            Some(record) => record.change.position,
            None => strand.end,
        });
        strands.min().unwrap_or(Position::ZERO)
    }

    /// Whether a cap may hold records back: then the lane looks again by itself.
    pub fn is_capped(&self) -> bool {
        self.rate.is_some()
    }

    pub fn is_unflushed(&self) -> bool {
        self.committed > 0
    }

    pub fn commit(&mut self, count: usize) {
        self.committed = (self.committed + count).min(self.taken.len());
        if let Some(rate) = &mut self.rate {
            rate.tokens -= f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    pub fn flushed(&mut self) {
        self.taken.drain(..self.committed);
        self.committed = 0;
    }

    /// The connection is gone: what was committed may be lost.
    pub fn rewind(&mut self, has: impl Fn(usize) -> Position) {
        self.taken.retain(|item| item.change.position > has(item.map));
        self.committed = 0;
    }

    /// What a seat's queue may be trimmed of, now that `flushed` is durable at the destination.
    pub fn passed(&mut self, seat: usize, flushed: Position) -> Option<Passed> {
        let strand = self.strands.get_mut(&seat)?;
        let mut passed = Passed::default();
        while let Some(open) = strand.open.front().filter(|open| open.last <= flushed) {
            passed.seq = open.seq;
            passed.through = open.last;
            passed.records += open.records;
            strand.open.pop_front();
        }
        let waiting = strand.head.len() + self.taken.iter().filter(|item| item.map == seat).count();
        let open: u64 = strand.open.iter().map(|open| open.records).sum();
        passed.partial = open.saturating_sub(waiting as u64);
        let taken = self.taken.iter().find(|item| item.map == seat);
        let first = taken
            .map(|item| &item.change)
            .or_else(|| strand.head.front().map(|record| &record.change));
        passed.oldest = first.map(|change| change.commit_time);
        Some(passed)
    }
}

impl Strand {
    fn pull(&mut self) {
        while self.head.is_empty() {
            match self.feed.fed.try_recv() {
                Ok(Fed::Entry(Entry {
                    seq,
                    last,
                    records,
                    changes,
                })) => {
                    self.end = self.end.max(last);
                    self.open.push_back(Open { seq, last, records });
                    self.head = changes.into();
                }
                Ok(Fed::End(position)) => self.end = self.end.max(position),
                Ok(Fed::Corrupt(text)) => self.corrupt = Some(text),
                Err(_) => return,
            }
        }
    }
}

impl Rate {
    /// How many records may be written now. A quarter of a second may be saved up: enough to be smooth, too little
    /// to be a burst.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounded by the cap, never negative"
    )]
    fn allowance(&mut self) -> usize {
        let now = Instant::now();
        let gained = now.duration_since(self.at).as_secs_f64() * self.cap;
        self.tokens = (self.tokens + gained).min((self.cap / 4.0).max(1.0));
        self.at = now;
        self.tokens.max(0.0) as usize
    }
}
