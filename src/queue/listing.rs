//! All parked records in order, those that lie alone and those that sleep in packs, some at a time.

use super::{
    Queue, QueueError,
    pack::{Pack, Sleeper},
};
use crate::record::{ParkedRecord, Position};
use std::collections::{BTreeMap, VecDeque};

/// A parked record.
#[derive(Clone, Debug)]
pub struct Listed {
    pub record: ParkedRecord,
    /// It lies in a pack.
    pub sleeps: bool,
}

impl Listed {
    const fn alone(record: ParkedRecord) -> Self {
        let sleeps = false;
        Self { record, sleeps }
    }
}

/// See the module.
pub struct Errors<'a> {
    queue: &'a Queue,
    after: Position,
    /// So many that lie alone are read at once.
    chunk: usize,
    packs: VecDeque<Pack>,
    awake: Vec<Position>,
    /// So many of these were read.
    read: usize,
    reached: Position,
}

impl Queue {
    /// The parked records beyond `after`; `chunk` of those that lie alone are read at once.
    ///
    /// # Errors
    /// Redis fails.
    pub async fn errors_after(&self, after: Position, chunk: usize) -> Result<Errors<'_>, QueueError> {
        // What wakes between the two is in both, rather than in neither.
        let mut packs = self.packs().await?;
        let mut awake = self.error_positions().await?;
        packs.retain(|pack| pack.last > after);
        awake.retain(|position| *position > after);
        Ok(Errors {
            queue: self,
            after,
            chunk,
            packs: packs.into(),
            awake,
            read: 0,
            reached: after,
        })
    }
}

impl Errors<'_> {
    /// The next records, in order; there may be none among those that were to be read. None: that was all.
    ///
    /// # Errors
    /// Redis fails, or a record cannot be read.
    pub async fn next(&mut self) -> Result<Option<Vec<Listed>>, QueueError> {
        let before = self.packs.front().map_or(Position::MAX, |pack| pack.id.first);
        let rest = &self.awake[self.read..];
        let alone = rest.partition_point(|position| *position < before);
        if alone > 0 {
            let part = &rest[..alone.min(self.chunk)];
            let records = self.queue.errors_at(part).await?.into_iter();
            self.reached = part.last().copied().unwrap_or(self.reached);
            self.read += part.len();
            return Ok(Some(records.map(Listed::alone).collect()));
        }
        match self.packs.pop_front() {
            Some(pack) => self.together(&pack).await.map(Some),
            None => Ok(None),
        }
    }

    /// The records of a pack, and those that lie alone among them.
    async fn together(&mut self, pack: &Pack) -> Result<Vec<Listed>, QueueError> {
        let rest = &self.awake[self.read..];
        let mut awake = rest[..rest.partition_point(|position| *position <= pack.last)].to_vec();
        self.read += awake.len();
        self.reached = pack.last;
        let mut records = BTreeMap::new();
        if let Some(sleepers) = self.queue.sleepers(pack.id).await? {
            for Sleeper { record, is_awake, .. } in sleepers {
                let position = record.change.position;
                if is_awake {
                    awake.push(position);
                } else {
                    let sleeps = true;
                    records.insert(position, Listed { record, sleeps });
                }
            }
        } else {
            // All of it may have been woken.
            awake = self.queue.error_positions().await?;
            awake.retain(|position| *position >= pack.id.first && *position <= pack.last);
        }
        awake.sort_unstable();
        awake.dedup();
        for part in awake.chunks(self.chunk) {
            let read = self.queue.errors_at(part).await?;
            let listed = |record: ParkedRecord| (record.change.position, Listed::alone(record));
            records.extend(read.into_iter().map(listed));
        }
        let after = self.after;
        let beyond = |listed: &Listed| listed.record.change.position > after;
        Ok(records.into_values().filter(beyond).collect())
    }

    /// All up to here were given out.
    #[must_use]
    pub const fn reached(&self) -> Position {
        self.reached
    }

    /// So many are still to come, about.
    #[must_use]
    pub fn left(&self) -> u64 {
        let asleep: u64 = self.packs.iter().map(|pack| pack.left).sum();
        (self.awake.len() - self.read) as u64 + asleep
    }
}
