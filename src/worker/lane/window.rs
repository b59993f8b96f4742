//! What a lane was given and the destination has not flushed, in source order.

use crate::{destination::postgres::Item, record::Position, worker::budget::Share};
use std::collections::VecDeque;

/// Changes on their way to a destination. The front part is committed there, but not yet known to be flushed: it is
/// kept, since a crash of the destination may lose it (rule 2).
#[derive(Debug, Default)]
pub struct Window {
    items: VecDeque<(Item, Option<Share>)>,
    committed: usize,
}

impl Window {
    pub fn push(&mut self, item: Item, share: Option<Share>) {
        self.items.push_back((item, share));
    }

    /// The items that are not committed yet.
    pub fn pending(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().skip(self.committed).map(|(item, _)| item)
    }

    /// The first `count` of the waiting items are committed.
    pub fn commit(&mut self, count: usize) {
        self.committed = (self.committed + count).min(self.items.len());
    }

    /// Everything committed is flushed.
    pub fn flushed(&mut self) {
        self.items.drain(..self.committed);
        self.committed = 0;
    }

    /// The connection is gone: what was committed may be lost. Drops what `has` says the destination holds, and
    /// sends the rest again.
    pub fn rewind(&mut self, has: impl Fn(usize) -> Position) {
        self.items
            .retain(|(item, _)| item.change.position > has(item.map));
        self.committed = 0;
    }

    /// Takes the items of one seat out, in order.
    pub fn evict(&mut self, seat: usize) -> Vec<(Item, Option<Share>)> {
        let before = self
            .items
            .iter()
            .take(self.committed)
            .filter(|(item, _)| item.map == seat)
            .count();
        self.committed -= before;
        let mut out = VecDeque::new();
        let mut kept = VecDeque::with_capacity(self.items.len());
        for (item, share) in self.items.drain(..) {
            if item.map == seat { &mut out } else { &mut kept }.push_back((item, share));
        }
        self.items = kept;
        out.into()
    }

    /// How many items wait to be committed.
    pub fn waiting(&self) -> usize {
        self.items.len() - self.committed
    }

    /// Whether one seat has items that wait to be committed.
    pub fn waits(&self, seat: usize) -> bool {
        self.items
            .iter()
            .skip(self.committed)
            .any(|(item, _)| item.map == seat)
    }

    pub fn is_unflushed(&self) -> bool {
        self.committed > 0
    }
}
