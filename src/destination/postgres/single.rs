//! The sure way: record by record, constraints immediate, a savepoint each. Only a record that fails here is parked.

use super::{
    ErrorStore, Parents, StoreError,
    batch::{Act, Planned},
    error::{Aside, LaneError, Meaning, meaning},
    ordered::{Hit, progress_at},
    progress::Upto,
    session::{Session, Setback, adopt, setback},
    target::{Item, Target},
};
use crate::{
    failpoint,
    failure::{Class, Refusal, judge},
    record::{ParkedRecord, Position},
};
use tokio_postgres::error::DbError;

impl Session {
    /// One source transaction, record by record.
    #[allow(
        clippy::too_many_arguments,
        reason = "the batch and the four who take part in it"
    )]
    pub(super) async fn write_singly(
        &mut self,
        targets: &mut [Target],
        group: &[Planned<'_>],
        items: &[&Item],
        ends: &[Upto],
        store: &dyn ErrorStore,
        parents: &dyn Parents,
    ) -> Result<(), Setback> {
        let maps: Vec<usize> = ends.iter().map(|end| end.map).collect();
        if let Err(meaning) = self.open(targets, &maps, "IMMEDIATE").await {
            self.roll_back().await?;
            return Err(setback(None, meaning));
        }
        let mut outcome = Outcome {
            next: progress_at(targets, ends),
            parked: Vec::new(),
            superseded: Vec::new(),
        };
        let result = self
            .singly(targets, group, items, store, parents, &mut outcome)
            .await;
        if let Err((map, meaning)) = result {
            self.roll_back().await?;
            return Err(setback(map, meaning));
        }
        self.park(targets, &outcome, store).await?;
        failpoint::hit("between-park-and-commit");
        let stored = self.store(targets, &outcome.next).await;
        let committed = match stored {
            Ok(()) => self.commit().await,
            Err(meaning) => Err(meaning),
        };
        if let Err(meaning) = committed {
            self.roll_back().await?;
            return Err(setback(None, meaning));
        }
        outcome.settle(targets);
        Ok(())
    }

    async fn singly(
        &mut self,
        targets: &[Target],
        group: &[Planned<'_>],
        items: &[&Item],
        store: &dyn ErrorStore,
        parents: &dyn Parents,
        outcome: &mut Outcome,
    ) -> Result<(), (Option<usize>, Meaning)> {
        for write in group {
            let refusal = match &write.act {
                Act::Refused { refusal, .. } => Some(refusal.clone()),
                _ if behind(targets, write, outcome) => Some(parked_behind()),
                _ => self
                    .attempt(targets, write, parents, outcome)
                    .await
                    .map_err(|why| (Some(write.map), why))?,
            };
            if let Some(refusal) = refusal {
                outcome.refuse(write, items, refusal);
            } else {
                let marks = self.supersede(targets, write, store).await;
                outcome.supersede(write.map, marks.map_err(|error| (None, Meaning::Lane(error)))?);
                outcome.supersede_own(write);
            }
        }
        Ok(())
    }

    /// Tries one record behind a savepoint. Some: it is refused.
    async fn attempt(
        &mut self,
        targets: &[Target],
        write: &Planned<'_>,
        parents: &dyn Parents,
        outcome: &mut Outcome,
    ) -> Result<Option<Refusal>, Meaning> {
        let failed = |error: tokio_postgres::Error| meaning(&error);
        self.client()
            .batch_execute("SAVEPOINT record")
            .await
            .map_err(failed)?;
        let error = match self.write_one(targets, write).await {
            Ok(hit) => {
                self.client()
                    .batch_execute("RELEASE SAVEPOINT record")
                    .await
                    .map_err(failed)?;
                return Ok(outcome.count(write.map, &hit));
            }
            Err(Meaning::Record(error)) => error,
            Err(other) => return Err(other),
        };
        self.client()
            .batch_execute("ROLLBACK TO SAVEPOINT record; RELEASE SAVEPOINT record")
            .await
            .map_err(failed)?;
        match targets
            .get(write.map)
            .and_then(|target| waits_for(target, &error, write.position, parents))
        {
            Some(aside) => Err(Meaning::Aside(aside)),
            None => Ok(Some(refused(targets.get(write.map), &error))),
        }
    }

    /// Durable among the errors before the progress that passes them (rule 3).
    async fn park(
        &self,
        targets: &[Target],
        outcome: &Outcome,
        store: &dyn ErrorStore,
    ) -> Result<(), Setback> {
        for (map, target) in targets.iter().enumerate() {
            let records: Vec<ParkedRecord> = outcome
                .parked
                .iter()
                .filter(|(owner, _)| *owner == map)
                .map(|(_, record)| record.clone())
                .collect();
            if records.is_empty() {
                continue;
            }
            if let Err(error) = keep(store, &target.map_id, &records).await {
                self.roll_back().await?;
                return Err(Setback::Lane(LaneError::Store {
                    map: target.map_id.clone(),
                    message: error.0,
                }));
            }
        }
        Ok(())
    }
}

/// Parks records, and marks those that a later record of the same transaction has replaced.
async fn keep(store: &dyn ErrorStore, map_id: &str, records: &[ParkedRecord]) -> Result<(), StoreError> {
    store.park(map_id, records).await?;
    let marks: Vec<(Position, Position)> = records
        .iter()
        .filter_map(|record| Some((record.change.position, record.superseded_by?)))
        .collect();
    if marks.is_empty() {
        Ok(())
    } else {
        store.supersede(map_id, &marks).await
    }
}

/// What a transaction of single records will have done.
struct Outcome {
    next: Vec<(usize, super::Progress)>,
    parked: Vec<(usize, ParkedRecord)>,
    superseded: Vec<(usize, Vec<Position>)>,
}

impl Outcome {
    fn progress(&mut self, map: usize) -> Option<&mut super::Progress> {
        self.next
            .iter_mut()
            .find(|(known, _)| *known == map)
            .map(|(_, progress)| progress)
    }

    fn count(&mut self, map: usize, hit: &Hit) -> Option<Refusal> {
        let progress = self.progress(map)?;
        match hit {
            Hit::Written => progress.written += 1,
            Hit::Missed => progress.missed += 1,
            Hit::Missing => return Some(row_missing()),
        }
        None
    }

    fn refuse(&mut self, write: &Planned<'_>, items: &[&Item], refusal: Refusal) {
        let Some(item) = items.get(write.index) else {
            return;
        };
        let now = jiff::Timestamp::now().as_microsecond();
        let record = ParkedRecord {
            id: String::new(),
            keys: write
                .act
                .keys()
                .into_iter()
                .map(|key| key.as_bytes().to_vec())
                .collect(),
            change: item.change.clone(),
            refusal,
            first_time: now,
            last_time: now,
            attempts: 1,
            superseded_by: None,
        };
        self.parked.push((write.map, record));
        if let Some(progress) = self.progress(write.map) {
            progress.parks += 1;
        }
    }

    fn supersede(&mut self, map: usize, positions: Vec<Position>) {
        if let Some(progress) = self.progress(map) {
            progress.superseded += positions.len() as u64;
        }
        self.superseded.push((map, positions));
    }

    /// A whole record replaces those of its key that were parked before it in this transaction (I3).
    fn supersede_own(&mut self, write: &Planned<'_>) {
        if !write.act.is_whole() {
            return;
        }
        let keys = write.act.keys();
        let mut count = 0;
        for (map, record) in &mut self.parked {
            let same = record
                .keys
                .iter()
                .any(|parked| keys.iter().any(|key| key.as_bytes() == parked.as_slice()));
            if *map == write.map && same && record.superseded_by.is_none() {
                record.superseded_by = Some(write.position);
                count += 1;
            }
        }
        if let Some(progress) = self.progress(write.map) {
            progress.superseded += count;
        }
    }

    /// Committed: the targets know.
    fn settle(self, targets: &mut [Target]) {
        adopt(targets, self.next);
        for (map, record) in self.parked {
            if let Some(target) = targets.get_mut(map).filter(|_| record.superseded_by.is_none()) {
                target.park(&record.keys, record.change.position);
            }
        }
        for (map, positions) in self.superseded {
            if let Some(target) = targets.get_mut(map) {
                target.unpark(&positions);
            }
        }
    }
}

/// A partial record of a key of which a record is parked must wait behind it (rule 11).
fn behind(targets: &[Target], write: &Planned<'_>, outcome: &Outcome) -> bool {
    if write.act.is_whole() {
        return false;
    }
    let keys = write.act.keys();
    let before = targets
        .get(write.map)
        .is_some_and(|target| keys.iter().any(|key| target.parked.contains_key(key.as_bytes())));
    let now = outcome.parked.iter().any(|(map, record)| {
        *map == write.map
            && keys
                .iter()
                .any(|key| record.keys.iter().any(|parked| parked == key.as_bytes()))
    });
    before || now
}

/// A foreign key whose other table belongs to a map that stands behind this record (rule 10).
fn waits_for(target: &Target, error: &DbError, record: Position, parents: &dyn Parents) -> Option<Aside> {
    if error.code().code() != "23503" {
        return None;
    }
    let constraint = error.constraint()?;
    let keys = target
        .shape
        .foreign_keys
        .iter()
        .filter(|key| key.name == constraint && key.other != target.table);
    keys.filter_map(|key| parents.behind(&target.map_id, (&key.other.0, &key.other.1), record))
        .map(|name| Aside::WaitsForParent {
            name,
            position: record,
        })
        .next()
}

fn refused(target: Option<&Target>, error: &DbError) -> Refusal {
    let verdict = judge(error.code().code());
    let table = target.map(|target| format!("{}.{}", target.table.0, target.table.1));
    let within = error.constraint().or(error.column());
    let object = match (table, within) {
        (Some(table), Some(within)) => Some(format!("{table}/{within}")),
        (table, _) => table,
    };
    let text = [Some(error.message()), error.detail()]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" ");
    Refusal {
        class: verdict.class,
        code: error.code().code().to_owned(),
        object,
        server_text: text,
        remedy: verdict.remedy.to_owned(),
    }
}

fn own(code: &str, remedy: &str) -> Refusal {
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

fn parked_behind() -> Refusal {
    own(
        "ParkedBehind",
        "An earlier record of this key is parked: retry that one first.",
    )
}
