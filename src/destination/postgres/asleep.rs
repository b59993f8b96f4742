//! Which keys have parked records that sleep in packs; and waking them before anything is written that concerns them: from
//! then on they lie alone, and what holds for parked records holds for them (I3, rule 11).

use super::{
    ErrorStore, StoreError,
    batch::{Act, Planned},
    error::LaneError,
    target::Target,
};
use crate::{
    failpoint,
    mapping::Key,
    record::{KeyHash, PackId, PackKeys, ParkedKey, Waiting, key_hash},
};
use std::collections::{BTreeMap, HashMap, HashSet};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Asleep {
    /// None: the pack is gone.
    packs: Vec<Option<PackId>>,
    /// Where a key sleeps, and where else: most keys do in one pack.
    places: HashMap<KeyHash, u32>,
    more: HashMap<KeyHash, Vec<u32>>,
    /// Keys that this lane has woken since it last read what waits. Redis may lose that, so no key leaves `places` (I3).
    awake: HashSet<KeyHash>,
}

impl Asleep {
    pub fn add(&mut self, pack: &PackKeys) {
        let Ok(number) = u32::try_from(self.packs.len()) else {
            return;
        };
        self.packs.push(Some(pack.id));
        for hash in &pack.hashes {
            self.awake.remove(hash);
            let first = *self.places.entry(*hash).or_insert(number);
            if first != number {
                self.more.entry(*hash).or_default().push(number);
            }
        }
    }

    /// What waits is read again: these packs are there, and no others.
    pub fn keep(&mut self, there: &[PackId]) {
        self.awake.clear();
        let there: HashSet<&PackId> = there.iter().collect();
        for pack in &mut self.packs {
            *pack = pack.filter(|id| there.contains(id));
        }
        if self.packs.iter().all(Option::is_none) {
            *self = Self::default();
        }
    }

    /// The packs that are known.
    pub fn packs(&self) -> Vec<PackId> {
        self.packs.iter().filter_map(|pack| *pack).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn holds(&self, hash: KeyHash) -> bool {
        self.places.contains_key(&hash) && !self.awake.contains(&hash)
    }

    fn packs_of(&self, hash: KeyHash) -> impl Iterator<Item = PackId> {
        let place = self.places.get(&hash).filter(|_| !self.awake.contains(&hash));
        let more = place.and_then(|_| self.more.get(&hash)).into_iter().flatten();
        let numbers = place.into_iter().chain(more);
        numbers.filter_map(|number| *self.packs.get(*number as usize)?)
    }

    /// All that sleep of a key were woken.
    fn woke(&mut self, hash: KeyHash) {
        self.awake.insert(hash);
    }
}

/// Wakes whatever sleeps of the keys of these writes.
pub(super) async fn wake(
    targets: &mut [Target],
    planned: &[Planned<'_>],
    store: &dyn ErrorStore,
) -> Result<(), LaneError> {
    for (map, target) in targets.iter_mut().enumerate() {
        if target.asleep.is_empty() || failpoint::is_broken("leave-asleep") {
            continue;
        }
        let writes = |write: &&Planned<'_>| {
            write.map == map && !matches!(write.act, Act::Parked { .. } | Act::Discarded { .. })
        };
        let keys = planned.iter().filter(writes).flat_map(|write| write.act.keys());
        let concerned: Vec<Vec<u8>> = keys
            .map(Key::as_bytes)
            .filter(|key| target.asleep.holds(key_hash(key)) || target.parked.waits(key))
            .map(Vec::from)
            .collect();
        target.wake(concerned, store).await?;
    }
    Ok(())
}

impl Target {
    /// Its parked records that wait: to be known before the first write (rule 3).
    pub fn remember(&mut self, waiting: Waiting) {
        // Whatever is written relies on it.
        self.progress.gone = self.progress.gone.max(waiting.gone);
        self.parked = waiting.awake.into_iter().collect();
        self.asleep.keep(&waiting.packs);
        for pack in &waiting.new {
            self.asleep.add(pack);
        }
    }

    /// Wakes whatever sleeps of these keys, and of those that are bound to them by parked key changes.
    pub(super) async fn wake(
        &mut self,
        mut keys: Vec<Vec<u8>>,
        store: &dyn ErrorStore,
    ) -> Result<(), LaneError> {
        let mut seen = HashSet::new();
        while !keys.is_empty() && !self.asleep.is_empty() {
            let mut wanted: BTreeMap<PackId, HashSet<KeyHash>> = BTreeMap::new();
            let mut reached = Vec::new();
            for key in keys {
                let hash = key_hash(&key);
                for pack in self.asleep.packs_of(hash) {
                    wanted.entry(pack).or_default().insert(hash);
                }
                reached.extend(self.parked.bound_to(&key));
                seen.insert(key);
            }
            let Some(woken) = self.woken(&wanted, store).await? else {
                // Of what it held others may have woken some: all is read anew.
                self.settle(store).await?;
                keys = seen.drain().collect();
                continue;
            };
            for ParkedKey { keys, position } in woken {
                if self.parked.keys(position).is_none() {
                    self.parked.park(&keys, position);
                }
                reached.extend(keys);
            }
            for hash in wanted.values().flatten() {
                self.asleep.woke(*hash);
            }
            reached.retain(|key| !seen.contains(key));
            keys = reached;
        }
        Ok(())
    }

    /// None: a pack is gone.
    async fn woken(
        &self,
        wanted: &BTreeMap<PackId, HashSet<KeyHash>>,
        store: &dyn ErrorStore,
    ) -> Result<Option<Vec<ParkedKey>>, LaneError> {
        let mut all = Vec::new();
        for (pack, hashes) in wanted {
            let woken = store.wake(&self.map_id, *pack, hashes).await;
            let woken = woken.map_err(|StoreError(message)| LaneError::Store {
                map: self.map_id.clone(),
                message,
            })?;
            let Some(woken) = woken else { return Ok(None) };
            all.extend(woken);
        }
        Ok(Some(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Lsn, Position};

    fn pack(first: u64, base: u64, keys: &[&str]) -> PackKeys {
        let first = Position::through(1, Lsn(first));
        PackKeys {
            id: PackId { first, base },
            hashes: keys.iter().map(|key| key_hash(key.as_bytes())).collect(),
        }
    }

    fn of(asleep: &Asleep, key: &str) -> Vec<u64> {
        asleep
            .packs_of(key_hash(key.as_bytes()))
            .map(|pack| pack.base)
            .collect()
    }

    #[test]
    fn a_key_is_found_in_each_pack_that_is_there() {
        let (one, two) = (pack(1, 1, &["a", "b", "a"]), pack(5, 4, &["a", "c"]));
        let mut asleep = Asleep::default();
        asleep.add(&one);
        asleep.add(&two);
        assert_eq!(of(&asleep, "a"), [1, 4]);
        assert_eq!((of(&asleep, "b"), of(&asleep, "d")), (vec![1], vec![]));
        asleep.keep(&[two.id]);
        assert_eq!((of(&asleep, "a"), asleep.packs()), (vec![4], vec![two.id]));
        // What was dropped and is packed anew begins where it began, and has another number.
        asleep.add(&pack(1, 6, &["a"]));
        assert_eq!(of(&asleep, "a"), [4, 6]);
        asleep.keep(&[]);
        assert!(asleep.is_empty());
    }

    /// Redis may have lost the waking by a failover: whatever the lane reads again may sleep again (I3).
    #[test]
    fn a_key_that_was_woken_may_sleep_again_once_what_waits_is_read_again() {
        let (one, two) = (pack(1, 1, &["a", "b"]), pack(5, 3, &["a"]));
        let mut asleep = Asleep::default();
        asleep.add(&one);
        asleep.woke(key_hash(b"a"));
        assert!(of(&asleep, "a").is_empty() && !asleep.holds(key_hash(b"a")));
        assert_eq!(of(&asleep, "b"), [1]);
        asleep.add(&two);
        assert_eq!(of(&asleep, "a"), [1, 3]);
        asleep.woke(key_hash(b"a"));
        asleep.keep(&[one.id, two.id]);
        assert!(asleep.holds(key_hash(b"a")));
        assert_eq!(of(&asleep, "a"), [1, 3]);
    }
}
