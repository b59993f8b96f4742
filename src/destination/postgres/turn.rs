//! What one destination transaction does beside its rows: progress, parks, and marks on parked records. It holds once
//! the transaction is committed; whatever was parked or marked before is provisional (rule 3).

use super::{
    ErrorStore, StoreError,
    batch::{Act, Planned},
    error::{Aside, LaneError},
    parked::{Parked, Replaced},
    progress::{Progress, Upto},
    session::{Session, adopt},
    target::{Item, Target},
    write::Setback,
};
use crate::{
    clock,
    failure::{Class, Refusal},
    mapping::Key,
    record::{Mark, Once, PackKeys, ParkedRecord, Retried},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// What the records of a turn are.
#[derive(Clone, Copy)]
pub(super) enum Purpose<'a> {
    /// Changes that come for the first time.
    Changes,
    /// Changes that are all skipped: those that are parked are so together.
    Skipped,
    /// Parked records, by their place among the items, that an operation tries again.
    Retry {
        operation: &'a str,
        records: &'a [&'a ParkedRecord],
    },
}

/// How one record's statement ended.
pub(super) enum Hit {
    Written,
    /// The row is missing, and that means the record is filtered.
    Missed,
    /// The row is missing, and that is an error.
    Missing,
    /// The destination never lets the row's key be changed.
    Fixed,
}

/// See the module.
pub(super) struct Turn<'a> {
    pub next: Vec<(usize, Progress)>,
    purpose: Purpose<'a>,
    /// Microseconds since the Unix epoch: what is refused in one turn is refused at one time.
    now: i64,
    parked: Vec<(usize, ParkedRecord)>,
    together: BTreeMap<usize, Vec<ParkedRecord>>,
    packs: Vec<(usize, PackKeys)>,
    marks: Vec<(usize, Mark)>,
    /// What has come of those that were tried again.
    retried: Vec<(usize, Retried)>,
    /// The parked records of those maps for which the turn has changed them.
    waiting: HashMap<usize, Parked>,
}

impl<'a> Turn<'a> {
    /// The progress of the maps at `ends`, before what is counted.
    pub fn new(targets: &[Target], ends: &[Upto], purpose: Purpose<'a>) -> Self {
        let at = ends.iter().filter_map(|end| {
            let known = &targets.get(end.map)?.progress;
            let progress = Progress {
                position: end.position.max(known.position),
                counters: end.counters,
                ..known.clone()
            };
            Some((end.map, progress))
        });
        Self {
            next: at.collect(),
            purpose,
            now: clock::now(),
            parked: Vec::new(),
            together: BTreeMap::new(),
            packs: Vec::new(),
            marks: Vec::new(),
            retried: Vec::new(),
            waiting: HashMap::new(),
        }
    }

    fn progress(&mut self, map: usize) -> Option<&mut Progress> {
        self.next
            .iter_mut()
            .find(|(known, _)| *known == map)
            .map(|(_, progress)| progress)
    }

    fn waiting<'t>(&'t self, targets: &'t [Target], map: usize) -> Option<&'t Parked> {
        self.waiting
            .get(&map)
            .or_else(|| targets.get(map).map(|target| &target.parked))
    }

    fn waiting_mut(&mut self, targets: &[Target], map: usize) -> &mut Parked {
        let known = || {
            targets
                .get(map)
                .map(|target| target.parked.clone())
                .unwrap_or_default()
        };
        self.waiting.entry(map).or_insert_with(known)
    }

    /// A partial record of a key of which an earlier one is parked must wait behind it (rule 11).
    pub fn is_behind(&self, targets: &[Target], write: &Planned<'_>) -> bool {
        let before = |parked: &Parked, key: &Key| parked.waits_before(key.as_bytes(), write.position);
        let waits = |parked: &Parked| write.act.keys().into_iter().any(|key| before(parked, key));
        !write.act.is_whole() && self.waiting(targets, write.map).is_some_and(waits)
    }

    /// What a record replaces that writes or removes its whole row (I3).
    pub fn replaced_by(&self, targets: &[Target], write: &Planned<'_>) -> Replaced {
        match self.waiting(targets, write.map) {
            Some(parked) if write.act.is_whole() && !parked.is_empty() => {
                parked.replaced_by(&write.act.keys(), write.position)
            }
            _ => Replaced::default(),
        }
    }

    /// Counts a record's statement, with what it replaced. Some: the record is refused after all.
    pub fn count(
        &mut self,
        targets: &[Target],
        write: &Planned<'_>,
        hit: &Hit,
        replaced: &Replaced,
    ) -> Option<Refusal> {
        let is_retry = matches!(self.purpose, Purpose::Retry { .. });
        let progress = self.progress(write.map)?;
        match hit {
            Hit::Written => progress.written += 1,
            Hit::Missed => progress.missed += 1,
            Hit::Missing => return Some(row_missing()),
            Hit::Fixed => return Some(key_fixed()),
        }
        for mark in &replaced.marks {
            match mark {
                Mark::Superseded { .. } => progress.superseded += 1,
                Mark::Moved { .. } => progress.moved += 1,
            }
        }
        progress.settled += u64::from(is_retry);
        let settled = Once::Settled(progress.settled);
        // A retry is no place in the source's log: the destination's count of them says when its marks hold.
        let marks: Vec<Mark> = match self.purpose {
            Purpose::Changes | Purpose::Skipped => replaced.marks.clone(),
            Purpose::Retry { .. } => replaced.marks.iter().map(|mark| mark.from(settled)).collect(),
        };
        if is_retry {
            let completed = Retried::Completed {
                parked: write.position,
                once: settled,
            };
            self.retried.push((write.map, completed));
            self.waiting_mut(targets, write.map).remove(write.position);
        }
        if !marks.is_empty() {
            self.waiting_mut(targets, write.map).apply(&marks);
            self.marks.extend(marks.into_iter().map(|mark| (write.map, mark)));
        }
        None
    }

    /// Gives a queued record up.
    pub fn discard(&mut self, map: usize, by: &Arc<str>) {
        if let Some(progress) = self.progress(map) {
            progress.discarded += 1;
            progress.skipped.add(by, 1);
        }
    }

    /// One record more cannot be parked. What is tried again is parked already.
    pub fn is_full(&self, targets: &[Target], write: &Planned<'_>) -> Option<Aside> {
        let most = targets.get(write.map)?.most_parked;
        // What a person parks is bound by the operation.
        let is_new = matches!(self.purpose, Purpose::Changes) && !matches!(write.act, Act::Parked { .. });
        let parked = self.waiting(targets, write.map)?;
        (is_new && parked.len() >= most).then_some(Aside::TooManyErrors {
            most,
            since: write.position,
        })
    }

    /// Parks a record; one that was tried again stays parked.
    pub fn refuse(&mut self, targets: &[Target], write: &Planned<'_>, items: &[&Item], refusal: Refusal) {
        let now = self.now;
        if let Purpose::Retry { records, .. } = self.purpose {
            let known = records.get(write.index).copied();
            if let Some(known) = known {
                let failed = Retried::Failed(Box::new(ParkedRecord {
                    refusal,
                    last_time: now,
                    attempts: known.attempts.saturating_add(1),
                    ..known.clone()
                }));
                self.retried.push((write.map, failed));
            }
            return;
        }
        let Some(item) = items.get(write.index) else {
            return;
        };
        let keys: Vec<Vec<u8>> = write
            .act
            .keys()
            .into_iter()
            .map(|key| key.as_bytes().to_vec())
            .collect();
        // Nobody can tell what a newer row of another key has to do with one that has none.
        let sleeps = matches!(self.purpose, Purpose::Skipped) && !keys.is_empty() && !is_unjudged(&write.act);
        if !sleeps {
            self.waiting_mut(targets, write.map).park(&keys, write.position);
        }
        let record = ParkedRecord {
            id: String::new(),
            keys,
            change: item.change.clone(),
            refusal,
            first_time: now,
            last_time: now,
            attempts: 1,
            unjudged: is_unjudged(&write.act),
            superseded: None,
            moved: None,
            completed: None,
            operation: None,
        };
        if sleeps {
            self.together.entry(write.map).or_default().push(record);
        } else {
            self.parked.push((write.map, record));
        }
        if let Some(progress) = self.progress(write.map) {
            progress.parks += 1;
            if let Act::Parked { by, .. } = &write.act {
                progress.skipped.add(by, 1);
            }
            progress.last_park = progress.last_park.max(Some(write.position));
        }
    }

    /// Makes parks and marks durable, before the progress that passes them (rule 3).
    pub async fn keep(&mut self, targets: &mut [Target], store: &dyn ErrorStore) -> Result<(), LaneError> {
        for (map, target) in targets.iter_mut().enumerate() {
            let records = of(map, &self.parked);
            let marks = of(map, &self.marks);
            // What was refused again is kept once that is sure: there is nothing to be undone for it.
            let mut completed = of(map, &self.retried);
            completed.retain(|retried| matches!(retried, Retried::Completed { .. }));
            let together = self.together.remove(&map).unwrap_or_default();
            if records.is_empty() && marks.is_empty() && completed.is_empty() && together.is_empty() {
                continue;
            }
            target.provisional = true;
            let id = target.map_id.clone();
            let failed = |error: StoreError| LaneError::Store {
                map: id.clone(),
                message: error.0,
            };
            if !records.is_empty() {
                store.park(&id, &records).await.map_err(failed)?;
            }
            if !together.is_empty() {
                let packs = store.pack(&id, &together).await.map_err(failed)?;
                self.packs.extend(packs.into_iter().map(|pack| (map, pack)));
            }
            if let Purpose::Retry { operation, .. } = self.purpose {
                store
                    .completed(&id, operation, &completed)
                    .await
                    .map_err(failed)?;
            }
            if !marks.is_empty() {
                let new = store.mark(&id, &marks).await.map_err(failed)?;
                self.take_back(map, &marks, &new);
            }
        }
        Ok(())
    }

    /// A record that was given up meanwhile is not replaced any more: it counts as given up.
    fn take_back(&mut self, map: usize, marks: &[Mark], new: &[bool]) {
        let Some(progress) = self.progress(map) else {
            return;
        };
        for (mark, _) in marks.iter().zip(new).filter(|(_, new)| !**new) {
            match mark {
                Mark::Superseded { .. } => progress.superseded -= 1,
                Mark::Moved { .. } => progress.moved -= 1,
            }
        }
    }

    /// Committed: the targets know.
    pub fn settle(self, targets: &mut [Target]) {
        adopt(targets, self.next);
        let failed = self.retried.iter().filter_map(|(map, retried)| match retried {
            Retried::Failed(record) => Some((*map, &record.refusal)),
            Retried::Completed { .. } => None,
        });
        let parked = self.parked.iter().map(|(map, record)| (*map, &record.refusal));
        for (map, refusal) in parked.chain(failed).filter(|(_, refusal)| is_news(refusal)) {
            if let Some(target) = targets.get_mut(map) {
                target.refused.add(refusal.class, &refusal.code, 1);
            }
        }
        for (map, parked) in self.waiting {
            if let Some(target) = targets.get_mut(map) {
                target.parked = parked;
            }
        }
        let parked = self.parked.iter().map(|(map, _)| *map);
        let marked = self.marks.iter().map(|(map, _)| *map);
        let tried = self.retried.iter().map(|(map, _)| *map);
        let together = self.packs.iter().map(|(map, _)| *map);
        for map in parked.chain(marked).chain(tried).chain(together) {
            clear(targets, map);
        }
        for (map, pack) in &self.packs {
            if let Some(target) = targets.get_mut(*map) {
                target.asleep.add(pack);
            }
        }
        for (map, retried) in self.retried {
            if let Some(target) = targets.get_mut(map) {
                target.retried.push(retried);
            }
        }
    }
}

/// Whether it says something of the destination: a person has skipped the record, or it waits behind one that was refused.
fn is_news(refusal: &Refusal) -> bool {
    !matches!(refusal.code.as_str(), SKIPPED | BEHIND)
}

/// The filter could not judge it.
pub(super) fn is_unjudged(act: &Act<'_>) -> bool {
    match act {
        Act::Refused { refusal, .. } => refusal.code == "FilterFailed",
        Act::Parked { unjudged, .. } => *unjudged,
        _ => false,
    }
}

/// One map's share.
fn of<T: Clone>(map: usize, all: &[(usize, T)]) -> Vec<T> {
    let of = all.iter().filter(|(owner, _)| *owner == map);
    of.map(|(_, one)| one.clone()).collect()
}

fn clear(targets: &mut [Target], map: usize) {
    if let Some(target) = targets.get_mut(map) {
        target.provisional = false;
    }
}

impl Session {
    /// Drops what was parked or marked for a transaction that was rolled back, so that it cannot be taken for true
    /// once the progress has passed it in another way.
    pub(super) async fn undo(&self, targets: &mut [Target], store: &dyn ErrorStore) -> Result<(), Setback> {
        for target in targets.iter_mut().filter(|target| target.provisional) {
            target.settle(store).await.map_err(Setback::Lane)?;
        }
        Ok(())
    }
}

impl Target {
    /// Drops what is parked or marked beyond the progress, and reads again what waits.
    ///
    /// # Errors
    /// The error store cannot be reached.
    pub async fn settle(&mut self, store: &dyn ErrorStore) -> Result<(), LaneError> {
        let known = self.asleep.packs();
        let waiting = store.settle(&self.map_id, self.progress.has(), &known).await;
        let failed = |error: StoreError| LaneError::Store {
            map: self.map_id.clone(),
            message: error.0,
        };
        self.remember(waiting.map_err(failed)?);
        self.provisional = false;
        Ok(())
    }
}

/// The code of records that a person has skipped,
pub(super) const SKIPPED: &str = "Skipped";
/// and of those that wait behind one of their key.
pub(super) const BEHIND: &str = "ParkedBehind";

pub(super) fn own(code: &str, remedy: &str) -> Refusal {
    Refusal {
        class: Class::Application,
        code: code.into(),
        object: None,
        server_text: String::new(),
        remedy: remedy.into(),
    }
}

pub(super) fn row_missing() -> Refusal {
    own(
        "RowMissing",
        "The destination has no such row, and the source sent only part of it: write the row anew at the source.",
    )
}

fn key_fixed() -> Refusal {
    own(
        "KeyFixed",
        "The key's column is GENERATED ALWAYS AS IDENTITY at the destination, and the source sent only part of the row: \
         make it GENERATED BY DEFAULT, then retry.",
    )
}
