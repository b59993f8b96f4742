//! Replays the queues of several maps as one: in the order in which the source committed (I2).

use super::{
    feed::{Entry, Fed, Feed},
    rate::Rate,
};
use crate::{
    destination::postgres::Item,
    record::{Counted, Lsn, Position},
};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

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
    /// So many records may still be handed out. None: all.
    most: Option<u64>,
}

/// All maps that replay into one destination.
#[derive(Debug, Default)]
pub struct Merge {
    strands: BTreeMap<usize, Strand>,
    taken: VecDeque<Item>,
    committed: usize,
    /// Of what was taken when all that was committed was flushed: each seat's records, and when its first was committed.
    left: HashMap<usize, (usize, i64)>,
    rate: Rate,
}

impl Merge {
    /// `ramps` says that the destination has just come back; one that is being written already has.
    pub fn start(&mut self, seat: usize, feed: Feed, cap: Option<u32>, ramps: bool, most: Option<u64>) {
        if ramps && self.strands.is_empty() {
            self.rate.ramp_up();
        }
        let strand = Strand {
            feed,
            head: VecDeque::new(),
            end: Position::ZERO,
            open: VecDeque::new(),
            corrupt: None,
            cap,
            begun: false,
            most,
        };
        self.strands.insert(seat, strand);
        self.govern();
    }

    /// From here on these are merged.
    pub fn begin(&mut self, seats: &[usize]) {
        for (seat, strand) in &mut self.strands {
            strand.begun |= seats.contains(seat) && strand.most != Some(0);
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

    /// The lowest cap of the merged maps governs.
    fn govern(&mut self) {
        let caps = self.strands.values().filter_map(|strand| strand.cap);
        self.rate.set_cap(caps.min());
        if self.strands.is_empty() {
            self.rate.end_ramp();
        }
    }

    /// Takes what the feeds have, and merges it, until about `records` wait. Returns what is wrong with a seat.
    pub fn fill(&mut self, records: usize, bytes: usize) -> Option<(usize, String)> {
        let waiting = self.taken.len() - self.committed;
        let room = self
            .rate
            .allowance()
            .map_or(records, |allowed| allowed.min(records));
        let mut size: usize = self
            .taken
            .iter()
            .skip(self.committed)
            .map(|item| item.change.size())
            .sum();
        let mut count = waiting;
        let is_whole = !self.rate.is_capped();
        let mut last = self.taken.back().map(|item| item.change.position.commit);
        if count < records && size < bytes {
            let mut order = Order::of(&mut self.strands);
            // A ramp cuts no transaction: rows of one may need each other (I2).
            while count < records
                && size < bytes
                && (count < room || is_whole && last.is_some() && order.commit() == last)
            {
                let Some(item) = order.next(&mut self.strands) else {
                    break;
                };
                size += item.change.size();
                count += 1;
                last = Some(item.change.position.commit);
                self.taken.push_back(item);
            }
        }
        self.strands
            .iter_mut()
            .find_map(|(seat, strand)| strand.corrupt.take().map(|text| (*seat, text)))
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

    /// Whether a cap is held to the record.
    pub fn is_capped(&self) -> bool {
        self.rate.is_capped()
    }

    /// Whether records may be held back: then the lane looks again by itself.
    pub fn is_limited(&self) -> bool {
        self.rate.is_limited()
    }

    /// Whether all that a seat's replay may hand out was committed and flushed: after [`Merge::flushed`].
    pub fn is_spent(&self, seat: usize) -> bool {
        let is_over = |strand: &Strand| strand.most == Some(0) && !strand.begun;
        self.strands.get(&seat).is_some_and(is_over) && !self.taken.iter().any(|item| item.map == seat)
    }

    pub fn is_unflushed(&self) -> bool {
        self.committed > 0
    }

    pub fn commit(&mut self, count: usize) {
        self.committed = (self.committed + count).min(self.taken.len());
        self.rate.spend(count);
    }

    pub fn flushed(&mut self) {
        self.taken.drain(..self.committed);
        self.committed = 0;
        self.left.clear();
        for item in &self.taken {
            let left = self.left.entry(item.map).or_insert((0, item.change.commit_time));
            left.0 += 1;
        }
    }

    /// The connection is gone: what was committed may be lost.
    pub fn rewind(&mut self, has: impl Fn(usize) -> Position) {
        self.taken.retain(|item| item.change.position > has(item.map));
        self.committed = 0;
    }

    /// What a seat's queue may be trimmed of, now that `flushed` is durable at the destination: after [`Merge::flushed`].
    pub fn passed(&mut self, seat: usize, flushed: Position) -> Option<Passed> {
        let strand = self.strands.get_mut(&seat)?;
        let mut passed = Passed::default();
        while let Some(open) = strand.open.front().filter(|open| open.last <= flushed) {
            passed.seq = open.seq;
            passed.through = open.last;
            passed.records += open.records;
            strand.open.pop_front();
        }
        let left = self.left.get(&seat);
        let waiting = strand.head.len() + left.map_or(0, |(count, _)| *count);
        let open: u64 = strand.open.iter().map(|open| open.records).sum();
        passed.partial = open.saturating_sub(waiting as u64);
        let head = strand.head.front().map(|record| record.change.commit_time);
        passed.oldest = left.map(|(_, at)| *at).or(head);
        Some(passed)
    }
}

/// The strands by what comes next of each, so that many maps cost a record no more than few.
struct Order {
    heads: BTreeSet<(Position, usize)>,
    /// Of those that have nothing now: nothing below it is to come.
    ends: BTreeSet<(Position, usize)>,
}

impl Order {
    fn of(strands: &mut BTreeMap<usize, Strand>) -> Self {
        let mut order = Self {
            heads: BTreeSet::new(),
            ends: BTreeSet::new(),
        };
        for (seat, strand) in strands.iter_mut().filter(|(_, strand)| strand.begun) {
            order.place(*seat, strand);
        }
        order
    }

    fn place(&mut self, seat: usize, strand: &mut Strand) {
        strand.pull();
        match strand.head.front() {
            Some(record) => self.heads.insert((record.change.position, seat)),
            None => self.ends.insert((strand.end, seat)),
        };
    }

    /// The transaction that the lowest change of all heads belongs to.
    fn commit(&self) -> Option<Lsn> {
        self.heads.first().map(|(position, _)| position.commit)
    }

    /// The lowest change of all heads, if no map that has nothing now may still bring a lower one.
    fn next(&mut self, strands: &mut BTreeMap<usize, Strand>) -> Option<Item> {
        let (position, seat) = *self.heads.first()?;
        if self.ends.first().is_some_and(|(end, _)| position > *end) {
            return None;
        }
        self.heads.pop_first();
        let strand = strands.get_mut(&seat)?;
        let Counted { change, counters } = strand.head.pop_front()?;
        if strand.hand_out(change.position.commit) {
            self.place(seat, strand);
        }
        Some(Item {
            map: seat,
            change,
            counters,
        })
    }
}

impl Strand {
    /// One record more was handed out. False: it was the last one, and the others do not wait for what follows. The
    /// transaction that has begun goes on to its end, as far as that was read (I2).
    fn hand_out(&mut self, commit: Lsn) -> bool {
        let Some(most) = &mut self.most else { return true };
        *most = most.saturating_sub(1);
        if *most == 0 {
            self.pull();
            let next = self.head.front().map(|record| record.change.position.commit);
            self.begun = next == Some(commit);
        }
        self.begun
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Change, Counters, Lsn, Operation, Relation, ReplicaIdentity};
    use std::sync::Arc;
    use tokio::sync::mpsc;

    fn at(commit: u64) -> Position {
        Position {
            generation: 1,
            commit: Lsn(commit),
            change: Lsn(1),
            index: 0,
        }
    }

    fn records(commits: &[u64]) -> Vec<Counted> {
        let relation = Arc::new(Relation {
            id: 1,
            schema: "public".into(),
            name: "t".into(),
            identity: ReplicaIdentity::Default,
            columns: Vec::new(),
        });
        let record = |commit: &u64| Counted {
            change: Change {
                position: at(*commit),
                operation: Operation::Insert,
                commit_time: i64::try_from(*commit).unwrap(),
                origin: None,
                relation: relation.clone(),
                old: None,
                new: None,
            },
            counters: Counters::default(),
        };
        commits.iter().map(record).collect()
    }

    fn entry(seq: u64, commits: &[u64]) -> Fed {
        Fed::Entry(Entry {
            seq,
            last: at(*commits.last().unwrap()),
            records: commits.len() as u64,
            changes: records(commits),
        })
    }

    /// A merge of so many strands that have begun, and what feeds each of them.
    fn merge(strands: usize) -> (Merge, Vec<mpsc::Sender<Fed>>) {
        let mut merge = Merge::default();
        let mut feeds = Vec::new();
        for seat in 0..strands {
            let (sender, fed) = mpsc::channel(1);
            merge.start(seat, Feed::of(fed), None, false, None);
            feeds.push(sender);
        }
        merge.begin(&(0..strands).collect::<Vec<_>>());
        (merge, feeds)
    }

    fn taken(merge: &Merge) -> Vec<(usize, u64)> {
        let taken = merge.pending();
        taken
            .map(|item| (item.map, item.change.position.commit.0))
            .collect()
    }

    #[tokio::test]
    async fn a_map_of_which_nothing_is_known_holds_the_others_back() {
        let (mut merge, feeds) = merge(3);
        feeds[0].try_send(entry(1, &[10, 30])).unwrap();
        feeds[1].try_send(entry(1, &[20])).unwrap();
        assert!(merge.fill(100, 1 << 20).is_none());
        assert_eq!(taken(&merge), []);
        feeds[2].try_send(Fed::End(at(25))).unwrap();
        merge.fill(100, 1 << 20);
        assert_eq!(taken(&merge), [(0, 10), (1, 20)], "the second may bring 21 yet");
        feeds[1].try_send(Fed::End(at(40))).unwrap();
        feeds[2].try_send(entry(1, &[26, 27])).unwrap();
        merge.fill(100, 1 << 20);
        assert_eq!(taken(&merge)[2..], [(2, 26), (2, 27)]);
        assert_eq!(merge.through(), at(27));
        feeds[2].try_send(Fed::End(at(40))).unwrap();
        merge.fill(100, 1 << 20);
        assert_eq!(taken(&merge)[4..], [(0, 30)]);
    }

    #[tokio::test]
    async fn what_is_flushed_may_be_trimmed_and_what_waits_is_told() {
        let (mut merge, feeds) = merge(1);
        feeds[0].try_send(entry(1, &[10, 20])).unwrap();
        merge.fill(100, 1 << 20);
        feeds[0].try_send(entry(2, &[30, 40])).unwrap();
        merge.fill(3, 1 << 20);
        assert_eq!(taken(&merge), [(0, 10), (0, 20), (0, 30)]);
        merge.commit(3);
        merge.flushed();
        let passed = merge.passed(0, at(30)).unwrap();
        assert_eq!((passed.seq, passed.records, passed.partial), (1, 2, 1));
        assert_eq!((passed.through, passed.oldest), (at(20), Some(40)));
        merge.fill(100, 1 << 20);
        merge.flushed();
        let passed = merge.passed(0, at(30)).unwrap();
        assert_eq!((passed.seq, passed.partial, passed.oldest), (0, 1, Some(40)));
    }

    /// Whatever comes when, all of it is taken, in the order of the source.
    #[tokio::test]
    async fn many_maps_come_in_one_order() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..50 {
            let (mut merge, feeds) = merge(7);
            let mut wanted: Vec<(usize, u64)> = Vec::new();
            let mut queues: Vec<VecDeque<Fed>> = (0..7).map(|_| VecDeque::new()).collect();
            for commit in 1..200 {
                wanted.push((random.usize(0..7), commit));
            }
            for (seat, queue) in queues.iter_mut().enumerate() {
                let own: Vec<u64> = wanted
                    .iter()
                    .filter(|(of, _)| *of == seat)
                    .map(|(_, commit)| *commit)
                    .collect();
                for (seq, part) in own.chunks(random.usize(1..9)).enumerate() {
                    queue.push_back(entry(seq as u64 + 1, part));
                }
                queue.push_back(Fed::End(at(500)));
            }
            let mut got = Vec::new();
            while got.len() < wanted.len() {
                let seat = random.usize(0..7);
                if let Some(fed) = queues[seat].pop_front()
                    && let Err(mpsc::error::TrySendError::Full(fed)) = feeds[seat].try_send(fed)
                {
                    queues[seat].push_front(fed);
                }
                merge.fill(random.usize(0..20), 1 << 20);
                got.extend(taken(&merge));
                merge.commit(merge.waiting());
                merge.flushed();
            }
            assert_eq!(got, wanted);
        }
    }
}
