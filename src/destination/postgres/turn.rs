//! What one destination transaction does beside its rows: progress, parks, and marks on parked records. It holds once
//! the transaction is committed; whatever was parked or marked before is provisional (rule 3).

use super::{
    ErrorStore, StoreError,
    batch::Planned,
    error::LaneError,
    parked::{Parked, Replaced},
    progress::{Progress, Upto},
    session::{Session, adopt},
    target::{Item, Target},
    write::Setback,
};
use crate::{
    failure::{Class, Refusal},
    record::{Mark, ParkedRecord},
};
use std::collections::HashMap;

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
pub(super) struct Turn {
    pub next: Vec<(usize, Progress)>,
    parked: Vec<(usize, ParkedRecord)>,
    marks: Vec<(usize, Mark)>,
    /// The parked records of those maps for which the turn has changed them.
    waiting: HashMap<usize, Parked>,
}

impl Turn {
    /// The progress of the maps at `ends`, before what is counted.
    pub fn new(targets: &[Target], ends: &[Upto]) -> Self {
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
            parked: Vec::new(),
            marks: Vec::new(),
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

    /// A partial record of a key of which a record is parked must wait behind it (rule 11).
    pub fn is_behind(&self, targets: &[Target], write: &Planned<'_>) -> bool {
        let waits = |parked: &Parked| write.act.keys().iter().any(|key| parked.waits(key.as_bytes()));
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
        let progress = self.progress(write.map)?;
        match hit {
            Hit::Written => progress.written += 1,
            Hit::Missed => progress.missed += 1,
            Hit::Missing => return Some(row_missing()),
            Hit::Fixed => return Some(key_fixed()),
        }
        progress.superseded += replaced.superseded();
        if !replaced.marks.is_empty() {
            self.marks
                .extend(replaced.marks.iter().map(|mark| (write.map, *mark)));
            self.waiting_mut(targets, write.map).apply(&replaced.marks);
        }
        None
    }

    /// Parks a record.
    pub fn refuse(&mut self, targets: &[Target], write: &Planned<'_>, items: &[&Item], refusal: Refusal) {
        let Some(item) = items.get(write.index) else {
            return;
        };
        let now = jiff::Timestamp::now().as_microsecond();
        let keys: Vec<Vec<u8>> = write
            .act
            .keys()
            .into_iter()
            .map(|key| key.as_bytes().to_vec())
            .collect();
        self.waiting_mut(targets, write.map).park(&keys, write.position);
        let record = ParkedRecord {
            id: String::new(),
            keys,
            change: item.change.clone(),
            refusal,
            first_time: now,
            last_time: now,
            attempts: 1,
            superseded_by: None,
            moved_by: None,
        };
        self.parked.push((write.map, record));
        if let Some(progress) = self.progress(write.map) {
            progress.parks += 1;
            progress.last_park = progress.last_park.max(Some(write.position));
        }
    }

    /// Makes parks and marks durable, before the progress that passes them (rule 3).
    pub async fn keep(&self, targets: &mut [Target], store: &dyn ErrorStore) -> Result<(), LaneError> {
        for (map, target) in targets.iter_mut().enumerate() {
            let of = |owner: usize| owner == map;
            let records: Vec<ParkedRecord> = self
                .parked
                .iter()
                .filter(|(owner, _)| of(*owner))
                .map(|(_, record)| record.clone())
                .collect();
            let marks: Vec<Mark> = self
                .marks
                .iter()
                .filter(|(owner, _)| of(*owner))
                .map(|(_, mark)| *mark)
                .collect();
            if records.is_empty() && marks.is_empty() {
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
            if !marks.is_empty() {
                store.mark(&id, &marks).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Committed: the targets know.
    pub fn settle(self, targets: &mut [Target]) {
        adopt(targets, self.next);
        for (map, parked) in self.waiting {
            if let Some(target) = targets.get_mut(map) {
                target.parked = parked;
            }
        }
        for (map, _) in &self.parked {
            clear(targets, *map);
        }
        for (map, _) in &self.marks {
            clear(targets, *map);
        }
    }
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
        let waiting = store.settle(&self.map_id, self.progress.position).await;
        let failed = |error: StoreError| LaneError::Store {
            map: self.map_id.clone(),
            message: error.0,
        };
        self.parked = waiting.map_err(failed)?.into_iter().collect();
        self.provisional = false;
        Ok(())
    }
}

pub(super) fn own(code: &str, remedy: &str) -> Refusal {
    Refusal {
        class: Class::Application,
        code: code.into(),
        object: None,
        server_text: String::new(),
        remedy: remedy.into(),
    }
}

fn row_missing() -> Refusal {
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
