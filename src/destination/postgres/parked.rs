//! The parked records of a map that wait, by key: what a later record replaces, and what must wait behind them (I3,
//! rule 11). Pure.

use crate::{
    mapping::Key,
    record::{Mark, ParkedKey, Position},
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// What a whole record does to the parked ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    pub marks: Vec<Mark>,
    /// Old keys of replaced key changes: their rows must go first, since those key changes never will be written.
    pub sweep: Vec<Vec<u8>>,
}

impl Replaced {
    /// How many parked records are not wanted any more.
    #[must_use]
    pub fn superseded(&self) -> u64 {
        let superseded = |mark: &&Mark| matches!(mark, Mark::Superseded { .. });
        self.marks.iter().filter(superseded).count() as u64
    }
}

/// The keys of one parked record.
#[derive(Clone, Debug)]
struct Keys {
    /// Of a key change whose old key has no newer row.
    old: Option<Arc<[u8]>>,
    key: Arc<[u8]>,
}

/// The parked records that wait.
#[derive(Clone, Debug, Default)]
pub struct Parked {
    by_key: HashMap<Arc<[u8]>, Vec<Position>>,
    by_position: HashMap<Position, Keys>,
}

impl FromIterator<ParkedKey> for Parked {
    fn from_iter<I: IntoIterator<Item = ParkedKey>>(keys: I) -> Self {
        let mut parked = Self::default();
        for ParkedKey { keys, position } in keys {
            parked.park(&keys, position);
        }
        parked
    }
}

impl Parked {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Whether a record of this key waits.
    #[must_use]
    pub fn waits(&self, key: &[u8]) -> bool {
        self.by_key.contains_key(key)
    }

    /// Remembers that a record of these keys is parked: of a key change the old key comes first. A record whose key
    /// nobody can tell has none.
    pub fn park(&mut self, keys: &[Vec<u8>], position: Position) {
        let Some((key, old)) = keys.split_last() else {
            return;
        };
        let shared = |key: &Vec<u8>| Arc::<[u8]>::from(key.as_slice());
        let keys = Keys {
            old: old.first().filter(|old| *old != key).map(shared),
            key: shared(key),
        };
        for key in keys.old.iter().chain([&keys.key]) {
            self.by_key.entry(key.clone()).or_default().push(position);
        }
        self.by_position.insert(position, keys);
    }

    /// What a record of these keys replaces that writes or removes their whole rows at `by`.
    #[must_use]
    pub fn replaced_by(&self, keys: &[&Key], by: Position) -> Replaced {
        let mut replaced = Replaced::default();
        if self.is_empty() {
            return replaced;
        }
        let mut reached: Vec<Arc<[u8]>> = keys.iter().map(|key| key.as_bytes().into()).collect();
        let (mut gone, mut moved) = (BTreeSet::new(), BTreeSet::new());
        let mut next = 0;
        while let Some(key) = reached.get(next).cloned() {
            next += 1;
            let waiting = self.by_key.get(&key).into_iter().flatten();
            for position in waiting.filter(|position| **position < by) {
                match self.by_position.get(position).and_then(|keys| keys.old.as_ref()) {
                    Some(old) if *old == key => drop(moved.insert(*position)),
                    // Its old row is still there, and nobody else will remove it.
                    Some(old) if !reached.contains(old) => {
                        reached.push(old.clone());
                        replaced.sweep.push(old.to_vec());
                        gone.insert(*position);
                    }
                    _ => drop(gone.insert(*position)),
                }
            }
        }
        let moved = moved
            .difference(&gone)
            .map(|parked| Mark::Moved { parked: *parked, by });
        let superseded = gone.iter().map(|parked| Mark::Superseded { parked: *parked, by });
        replaced.marks = superseded.chain(moved).collect();
        replaced
    }

    /// Forgets what a newer record has replaced.
    pub fn apply(&mut self, marks: &[Mark]) {
        for mark in marks {
            let parked = mark.parked();
            let Some(keys) = self.by_position.get_mut(&parked) else {
                continue;
            };
            let old = keys.old.take();
            let key = matches!(mark, Mark::Superseded { .. }).then(|| keys.key.clone());
            if key.is_some() {
                self.by_position.remove(&parked);
            }
            for key in old.into_iter().chain(key) {
                self.forget(&key, parked);
            }
        }
    }

    fn forget(&mut self, key: &[u8], position: Position) {
        if let Some(waiting) = self.by_key.get_mut(key) {
            waiting.retain(|known| *known != position);
            if waiting.is_empty() {
                self.by_key.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Lsn;

    fn at(lsn: u64) -> Position {
        Position::through(1, Lsn(lsn))
    }

    fn parked(records: &[(&[&str], u64)]) -> Parked {
        let keys = |keys: &[&str]| keys.iter().map(|key| key.as_bytes().to_vec()).collect();
        records
            .iter()
            .map(|(of, lsn)| ParkedKey {
                keys: keys(of),
                position: at(*lsn),
            })
            .collect()
    }

    /// Writes a whole row of `key`, and remembers it.
    fn write(parked: &mut Parked, key: &str, lsn: u64) -> (Vec<Mark>, Vec<Vec<u8>>) {
        let Replaced { marks, sweep } = parked.replaced_by(&[&Key::from_text(key)], at(lsn));
        parked.apply(&marks);
        (marks, sweep)
    }

    fn superseded(parked: u64, by: u64) -> Mark {
        let (parked, by) = (at(parked), at(by));
        Mark::Superseded { parked, by }
    }

    #[test]
    fn a_later_record_replaces_all_that_wait_of_its_key_and_no_later_one() {
        let mut parked = parked(&[(&["a"], 1), (&["a"], 3), (&["b"], 2), (&["a"], 9)]);
        let (marks, sweep) = write(&mut parked, "a", 5);
        assert_eq!(marks, [superseded(1, 5), superseded(3, 5)]);
        assert!(sweep.is_empty());
        assert!(parked.waits(b"a") && parked.waits(b"b"));
        assert_eq!(write(&mut parked, "a", 10).0, [superseded(9, 10)]);
        assert!(!parked.waits(b"a"));
    }

    #[test]
    fn a_new_row_of_the_new_key_takes_the_old_row_along() {
        let mut parked = parked(&[(&["a"], 1), (&["a", "b"], 2)]);
        let (marks, sweep) = write(&mut parked, "b", 5);
        assert_eq!(marks, [superseded(1, 5), superseded(2, 5)]);
        assert_eq!(sweep, [b"a"]);
        assert!(parked.is_empty());
    }

    #[test]
    fn a_new_row_of_the_old_key_leaves_the_new_one_wanted() {
        let mut parked = parked(&[(&["a", "b"], 2)]);
        let (marks, sweep) = write(&mut parked, "a", 5);
        let moved = Mark::Moved {
            parked: at(2),
            by: at(5),
        };
        assert_eq!(marks, [moved]);
        assert!(sweep.is_empty());
        assert!(!parked.waits(b"a") && parked.waits(b"b"));
        assert_eq!(write(&mut parked, "b", 6), (vec![superseded(2, 6)], vec![]));
    }

    #[test]
    fn a_chain_of_key_changes_is_swept_to_its_beginning() {
        let mut parked = parked(&[(&["a", "b"], 1), (&["b", "c"], 2)]);
        let (marks, mut sweep) = write(&mut parked, "c", 5);
        sweep.sort_unstable();
        assert_eq!(marks, [superseded(1, 5), superseded(2, 5)]);
        assert_eq!(sweep, [b"a", b"b"]);
    }

    #[test]
    fn a_ring_of_key_changes_ends() {
        let mut parked = parked(&[(&["a", "b"], 1), (&["b", "a"], 2)]);
        let (marks, sweep) = write(&mut parked, "a", 5);
        assert_eq!(marks, [superseded(1, 5), superseded(2, 5)]);
        assert_eq!(sweep, [b"b"]);
        assert!(parked.is_empty());
    }
}
