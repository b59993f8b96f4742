//! How many changes go in the next batch: whole source transactions, unless one is larger than a batch (I2).

use crate::{destination::postgres::Item, record::Position};
use std::time::Duration;
use tokio::time::Instant;

/// So long the rest of a source transaction is waited for: it is on its way, unless the source was lost.
const REST: Duration = Duration::from_secs(1);

/// A wait for the rest of a transaction.
#[derive(Debug, Default)]
pub struct Rest {
    since: Option<Instant>,
}

impl Rest {
    /// Begins it, lets it go on, or ends it.
    pub fn set(&mut self, waits: bool) {
        self.since = waits.then(|| self.since.unwrap_or_else(Instant::now));
    }

    pub fn is_over(&self) -> bool {
        self.left() == Some(Duration::ZERO)
    }

    /// None: nothing is waited for.
    pub fn left(&self) -> Option<Duration> {
        self.since.map(|since| REST.saturating_sub(since.elapsed()))
    }
}

/// What a batch may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub records: usize,
    pub bytes: usize,
    /// Every change of a transaction that ended at or below it is there.
    pub through: Position,
    /// The rest of a transaction has been waited for long enough.
    pub overdue: bool,
}

/// The number of items, from the first on, that go now: always some, unless the rest of a transaction is waited for.
pub fn next<'a>(items: impl Iterator<Item = &'a Item>, limits: Limits) -> usize {
    let (mut count, mut size, mut whole) = (0, 0, 0);
    let mut last = None;
    let is_full = |count, size| count >= limits.records || (count > 0 && size >= limits.bytes);
    let mut items = items.peekable();
    while let Some(item) = items.next_if(|_| !is_full(count, size)) {
        let commit = item.change.position.commit;
        if last != Some(commit) {
            whole = count;
        }
        count += 1;
        size += item.change.size();
        last = Some(commit);
    }
    // The last transaction has ended if another follows, or everything of it was given.
    let ended = items.peek().map_or_else(
        || last < Some(limits.through.commit),
        |next| Some(next.change.position.commit) != last,
    );
    match whole {
        _ if ended => count,
        // A transaction that does not fit goes in pieces, and so does one whose rest does not come.
        0 if is_full(count, size) => count,
        _ if limits.overdue => count,
        whole => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Cell, Change, Counters, Lsn, Operation, Relation, ReplicaIdentity};
    use std::sync::Arc;

    /// Items of these transactions, of 12 bytes each.
    fn items(commits: &[u64]) -> Vec<Item> {
        let relation = Arc::new(Relation {
            id: 1,
            schema: "public".into(),
            name: "t".into(),
            identity: ReplicaIdentity::Default,
            columns: Vec::new(),
        });
        let item = |commit: &u64| Item {
            map: 0,
            change: Change {
                position: Position {
                    generation: 1,
                    commit: Lsn(*commit),
                    change: Lsn(1),
                    index: 0,
                },
                operation: Operation::Insert,
                commit_time: 0,
                origin: None,
                relation: relation.clone(),
                old: None,
                new: Some([Cell::Text(b"hello")].into_iter().collect()),
            },
            counters: Counters::default(),
        };
        commits.iter().map(item).collect()
    }

    fn count(commits: &[u64], records: usize, through: u64, overdue: bool) -> usize {
        let limits = Limits {
            records,
            bytes: 1 << 20,
            through: Position::through(1, Lsn(through)),
            overdue,
        };
        next(items(commits).iter(), limits)
    }

    #[test]
    fn a_transaction_whose_rest_is_to_come_waits_for_it() {
        assert_eq!(count(&[10, 10, 20, 20], 100, 20, false), 2);
        assert_eq!(count(&[10, 10, 20, 20], 100, 21, false), 4);
        assert_eq!(count(&[20, 20], 100, 20, false), 0);
        assert_eq!(count(&[20, 20], 100, 20, true), 2);
    }

    #[test]
    fn a_transaction_larger_than_a_batch_goes_in_pieces() {
        assert_eq!(count(&[20; 10], 4, 20, false), 4);
        assert_eq!(count(&[20; 4], 4, 20, false), 4);
        assert_eq!(count(&[20; 3], 4, 20, false), 0);
        assert_eq!(count(&[10, 20, 20, 20, 20], 4, 20, false), 1);
        assert_eq!(count(&[10, 20, 20, 20, 20], 4, 21, false), 1);
        assert_eq!(count(&[10, 10, 20, 20, 30], 4, 31, false), 4);
        let limits = Limits {
            records: 100,
            bytes: 20,
            through: Position::through(1, Lsn(20)),
            overdue: false,
        };
        assert_eq!(next(items(&[20; 10]).iter(), limits), 2);
    }
}
