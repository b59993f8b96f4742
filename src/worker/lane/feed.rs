//! Reads one map's queue from its head, an entry ahead of the lane.

use crate::{
    failpoint,
    queue::{self, Queue, QueueError},
    record::{Counted, Counters, Position},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};

/// How far a map's queue reaches, as its appender tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// The last entry.
    pub seq: u64,
    /// Every change of the map at or below this position is in the queue, or was.
    pub through: Position,
}

/// One entry of the queue, decoded.
#[derive(Debug)]
pub struct Entry {
    pub seq: u64,
    pub last: Position,
    pub records: u64,
    /// Without those that the destination has.
    pub changes: Vec<Counted>,
}

/// What a feed hands to its lane.
#[derive(Debug)]
pub enum Fed {
    Entry(Entry),
    /// There is nothing more at or below this position.
    End(Position),
    /// An entry cannot be read: a person must look.
    Corrupt(String),
}

/// A running feed; dropping it ends it.
#[derive(Debug)]
pub struct Feed {
    pub fed: mpsc::Receiver<Fed>,
    task: JoinHandle<()>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const RETRY: Duration = Duration::from_millis(500);
/// So many entries are read at once, at most.
const ENTRIES: usize = 16;
/// And about so many bytes, as far as the entries before tell: one alone may hold a megabyte.
const BYTES: usize = 256 << 10;

impl Feed {
    /// Feeds the entries, leaving out what lies at or below `has`: their counters come after `base`. `wake` is told of each
    /// arrival.
    #[must_use]
    pub fn start(
        queue: Queue,
        base: Counters,
        has: Position,
        tail: watch::Receiver<Tail>,
        wake: Arc<Notify>,
    ) -> Self {
        let (sender, fed) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            Reader {
                queue,
                seq: 0,
                base,
                has,
                most: 1,
                tail,
                sender,
                wake,
            }
            .run()
            .await;
        });
        Self { fed, task }
    }
}

#[cfg(test)]
impl Feed {
    /// What is fed is given by a test.
    pub fn of(fed: mpsc::Receiver<Fed>) -> Self {
        Self {
            fed,
            task: tokio::spawn(std::future::pending()),
        }
    }
}

struct Reader {
    queue: Queue,
    seq: u64,
    base: Counters,
    has: Position,
    /// Entries to read next.
    most: usize,
    tail: watch::Receiver<Tail>,
    sender: mpsc::Sender<Fed>,
    wake: Arc<Notify>,
}

impl Reader {
    /// Ends when the lane drops the feed, or the map goes.
    async fn run(mut self) {
        loop {
            let tail = *self.tail.borrow_and_update();
            let going = if self.seq < tail.seq {
                self.entries(tail.seq).await
            } else {
                self.end(tail.through).await
            };
            if !going {
                return;
            }
        }
    }

    async fn end(&mut self, through: Position) -> bool {
        self.hand(Fed::End(through)).await && self.tail.changed().await.is_ok()
    }

    /// Reads on. `tail` is the last entry that is known to have been appended.
    async fn entries(&mut self, tail: u64) -> bool {
        let entries = match self.queue.read(self.seq, self.most).await {
            Ok(entries) => entries,
            // A person must look: it will not read better the next time.
            Err(QueueError::Batch(error)) => {
                let _ = self.hand(Fed::Corrupt(error.to_string())).await;
                return false;
            }
            Err(error) => {
                tracing::warn!(%error, "the queue cannot be read for replay; trying again");
                tokio::time::sleep(RETRY).await;
                return true;
            }
        };
        // What was appended and is not there any more was trimmed: the destination has it.
        if entries.is_empty() {
            self.seq = tail;
        }
        let bytes: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
        let fit = BYTES * entries.len() / bytes.max(1);
        self.most = fit.min(2 * self.most).clamp(1, ENTRIES);
        for entry in entries {
            self.seq = entry.seq;
            if failpoint::is_broken("trim-early") {
                let _ = self.queue.trim(entry.seq, entry.header.last, None, None).await;
            }
            let fed =
                decode(entry, self.base, self.has).unwrap_or_else(|error| Fed::Corrupt(error.to_string()));
            if !self.hand(fed).await {
                return false;
            }
        }
        true
    }

    async fn hand(&self, fed: Fed) -> bool {
        let handed = self.sender.send(fed).await.is_ok();
        self.wake.notify_one();
        handed
    }
}

fn decode(entry: queue::Entry, base: Counters, has: Position) -> Result<Fed, queue::BatchError> {
    let (seq, last, records) = (entry.seq, entry.header.last, u64::from(entry.header.count));
    let mut changes = if last > has {
        queue::decode(entry.bytes)?
    } else {
        Vec::new()
    };
    changes.retain(|record| record.change.position > has);
    for record in &mut changes {
        record.counters = record.counters.after(base);
    }
    Ok(Fed::Entry(Entry {
        seq,
        last,
        records,
        changes,
    }))
}
