//! Changes on their way into the queue: one append at a time, and what has come meanwhile in the next. A backlog goes in
//! several entries at once, since Redis waits for its disk once for each append.

use crate::{
    record::{Counted, Counters, Position},
    worker::budget::Share,
};
use std::collections::VecDeque;

/// An entry holds at most so many records, and about so many bytes.
const RECORDS: usize = 4096;
const BYTES: usize = 1 << 20;
/// So many entries are appended at once.
const ENTRIES: usize = 4;

/// One map's changes that are not in the queue yet.
#[derive(Debug, Default)]
pub struct Appender {
    waiting: VecDeque<(Counted, Option<Share>)>,
    /// The first change of the append that is under way.
    under_way: Option<Position>,
}

/// What becomes one entry.
#[derive(Debug)]
pub struct Batch {
    pub records: Vec<Counted>,
    pub shares: Vec<Share>,
}

impl Appender {
    pub fn push(&mut self, record: Counted, share: Option<Share>) {
        self.waiting.push_back((record, share));
    }

    /// The next batches, if none are under way.
    pub fn next(&mut self) -> Vec<Batch> {
        if self.under_way.is_some() {
            return Vec::new();
        }
        let batches: Vec<Batch> = (0..ENTRIES).map_while(|_| self.batch()).collect();
        let first = batches.first().and_then(|batch| batch.records.first());
        self.under_way = first.map(|record| record.change.position);
        batches
    }

    fn batch(&mut self) -> Option<Batch> {
        if self.waiting.is_empty() {
            return None;
        }
        let mut batch = Batch {
            records: Vec::new(),
            shares: Vec::new(),
        };
        let mut bytes = 0;
        while bytes < BYTES && batch.records.len() < RECORDS {
            let Some((record, share)) = self.waiting.pop_front() else {
                break;
            };
            bytes += record.change.size();
            batch.records.push(record);
            batch.shares.extend(share);
        }
        Some(batch)
    }

    /// Custody is moved without an append: the next append must wait for its end, since it names its predecessor.
    pub fn hold(&mut self, to: Position) {
        self.under_way = Some(to);
    }

    /// The append that was under way has ended.
    pub fn ended(&mut self) {
        self.under_way = None;
    }

    /// Forgets what waits. An append that is under way stays so until it ends.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }

    /// What was counted before all that waits has become known.
    pub fn count_after(&mut self, base: Counters) {
        for (record, _) in &mut self.waiting {
            record.counters = record.counters.after(base);
        }
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_none()
    }

    /// An append is under way, or another write that moves custody.
    pub fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    /// The first change that is not known to be in the queue.
    pub fn oldest(&self) -> Option<Position> {
        self.under_way
            .or_else(|| self.waiting.front().map(|(record, _)| record.change.position))
    }
}
