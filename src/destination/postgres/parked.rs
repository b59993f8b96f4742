//! The parked records of a map that wait, by key: what a later record replaces, and what must wait behind them (I3,
//! rule 11). Pure.

use crate::{
    mapping::Key,
    record::{Mark, Once, ParkedKey, Position},
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
    /// Those whose key nobody can tell.
    keyless: BTreeSet<Position>,
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

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_position.len() + self.keyless.len()
    }

    /// Whether a record of this key waits.
    #[must_use]
    pub fn waits(&self, key: &[u8]) -> bool {
        self.by_key.contains_key(key)
    }

    /// Whether an earlier record of this key waits.
    #[must_use]
    pub fn waits_before(&self, key: &[u8], position: Position) -> bool {
        let waiting = self.by_key.get(key).into_iter().flatten();
        waiting.into_iter().any(|before| *before < position)
    }

    /// All keys of the records that wait of this one.
    pub fn bound_to(&self, key: &[u8]) -> impl Iterator<Item = Vec<u8>> {
        let waiting = self.by_key.get(key).into_iter().flatten();
        let keys = waiting.filter_map(|position| self.by_position.get(position));
        keys.flat_map(|keys| keys.old.iter().chain([&keys.key]).map(|key| key.to_vec()))
    }

    /// The keys of the record that is parked at a position, if it waits: of a key change whose old key has a newer row
    /// only the new one.
    #[must_use]
    pub fn keys(&self, position: Position) -> Option<Vec<&[u8]>> {
        let keys = self.by_position.get(&position)?;
        Some(keys.old.iter().chain([&keys.key]).map(AsRef::as_ref).collect())
    }

    /// Remembers that a record of these keys is parked: of a key change the old key comes first. A record whose key
    /// nobody can tell has none.
    pub fn park(&mut self, keys: &[Vec<u8>], position: Position) {
        let Some((key, old)) = keys.split_last() else {
            self.keyless.insert(position);
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

    /// Forgets a record that is not parked any more.
    pub fn remove(&mut self, position: Position) {
        self.keyless.remove(&position);
        let Some(keys) = self.by_position.remove(&position) else {
            return;
        };
        for key in keys.old.into_iter().chain([keys.key]) {
            self.forget(&key, position);
        }
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
        let once = Once::Has(by);
        let moved = moved.difference(&gone).map(|parked| Mark::Moved {
            parked: *parked,
            once,
        });
        let superseded = gone.iter().map(|parked| Mark::Superseded {
            parked: *parked,
            once,
        });
        replaced.marks = superseded.chain(moved).collect();
        replaced
    }

    /// Forgets what a newer record has replaced.
    pub fn apply(&mut self, marks: &[Mark]) {
        for mark in marks {
            let parked = mark.parked();
            if matches!(mark, Mark::Superseded { .. }) {
                self.remove(parked);
            } else if let Some(old) = self.by_position.get_mut(&parked).and_then(|keys| keys.old.take()) {
                self.forget(&old, parked);
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
        let (parked, once) = (at(parked), Once::Has(at(by)));
        Mark::Superseded { parked, once }
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
            once: Once::Has(at(5)),
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
    fn a_record_waits_behind_earlier_ones_of_its_key_only() {
        let mut parked = parked(&[(&["a"], 1), (&["a", "b"], 3)]);
        assert!(parked.waits_before(b"a", at(3)) && !parked.waits_before(b"a", at(1)));
        assert_eq!(parked.keys(at(3)), Some(vec![&b"a"[..], b"b"]));
        parked.remove(at(1));
        assert!(!parked.waits_before(b"a", at(3)) && parked.waits(b"a"));
        parked.remove(at(3));
        assert!(parked.is_empty() && parked.keys(at(3)).is_none());
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
