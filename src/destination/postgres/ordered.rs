//! The ordered way: one destination transaction for each source transaction, uncoalesced, constraints deferred.

use super::{
    ErrorStore, Parents,
    batch::{Act, Planned, key_columns},
    error::{LaneError, Meaning, meaning},
    fast::sent,
    progress::{Progress, Upto},
    session::{Session, Setback, adopt, setback},
    statement::{Text, text},
    target::{Item, Target},
};
use crate::{failpoint, mapping::IfMissing, record::Position};

/// How one record's statement ended.
pub(super) enum Hit {
    Written,
    /// The row is missing, and that means the record is filtered.
    Missed,
    /// The row is missing, and that is an error.
    Missing,
}

impl Session {
    /// Writes the batch in source order.
    #[allow(
        clippy::too_many_arguments,
        reason = "the batch and the four who take part in it"
    )]
    pub(super) async fn write_in_order(
        &mut self,
        targets: &mut [Target],
        items: &[&Item],
        planned: &[Planned<'_>],
        upto: &[Upto],
        store: &dyn ErrorStore,
        parents: &dyn Parents,
    ) -> Result<(), Setback> {
        for group in planned.chunk_by(|one, next| one.position.commit == next.position.commit) {
            let ends = ends(group, items, upto, planned);
            match self.write_together(targets, group, &ends, store).await {
                Ok(()) => {}
                Err(Setback::InOrder) => {
                    self.write_singly(targets, group, items, &ends, store, parents)
                        .await?;
                }
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// One source transaction, or what the batch holds of it.
    async fn write_together(
        &mut self,
        targets: &mut [Target],
        group: &[Planned<'_>],
        ends: &[Upto],
        store: &dyn ErrorStore,
    ) -> Result<(), Setback> {
        let refuses = |write: &Planned<'_>| {
            let target = targets.get(write.map);
            let parked = |target: &Target| {
                write
                    .act
                    .keys()
                    .iter()
                    .any(|key| target.parked.contains_key(key.as_bytes()))
            };
            matches!(write.act, Act::Refused { .. }) || (!write.act.is_whole() && target.is_some_and(parked))
        };
        if group.iter().any(refuses) {
            return Err(Setback::InOrder);
        }
        let result = self.together(targets, group, ends, store).await;
        match result {
            Ok((next, superseded)) => {
                adopt(targets, next);
                for (map, positions) in superseded {
                    if let Some(target) = targets.get_mut(map) {
                        target.unpark(&positions);
                    }
                }
                Ok(())
            }
            Err((map, meaning)) => {
                self.roll_back().await?;
                Err(setback(map, meaning))
            }
        }
    }

    #[allow(
        clippy::type_complexity,
        reason = "progress and what was superseded, for each map"
    )]
    async fn together(
        &mut self,
        targets: &[Target],
        group: &[Planned<'_>],
        ends: &[Upto],
        store: &dyn ErrorStore,
    ) -> Result<(Vec<(usize, Progress)>, Vec<(usize, Vec<Position>)>), (Option<usize>, Meaning)> {
        let maps: Vec<usize> = ends.iter().map(|end| end.map).collect();
        self.open(targets, &maps, "DEFERRED")
            .await
            .map_err(|meaning| (None, meaning))?;
        let mut next: Vec<(usize, Progress)> = progress_at(targets, ends);
        let mut superseded: Vec<(usize, Vec<Position>)> = Vec::new();
        for write in group {
            let hit = self
                .write_one(targets, write)
                .await
                .map_err(|meaning| (Some(write.map), meaning))?;
            let progress = next
                .iter_mut()
                .find(|(map, _)| *map == write.map)
                .map(|(_, progress)| progress);
            match (hit, progress) {
                (Hit::Written, Some(progress)) => progress.written += 1,
                (Hit::Missed, Some(progress)) => progress.missed += 1,
                _ => return Err((Some(write.map), Meaning::Surprise)),
            }
            let marks = self
                .supersede(targets, write, store)
                .await
                .map_err(|error| (None, Meaning::Lane(error)))?;
            if let Some((_, progress)) = next.iter_mut().find(|(map, _)| *map == write.map) {
                progress.superseded += marks.len() as u64;
            }
            superseded.push((write.map, marks));
        }
        failpoint::hit("between-check-and-commit");
        self.store(targets, &next)
            .await
            .map_err(|meaning| (None, meaning))?;
        self.commit().await.map_err(|meaning| (None, meaning))?;
        Ok((next, superseded))
    }

    /// Begins a transaction with its constraints checked late or at once, and locks the progress rows.
    pub(super) async fn open(
        &self,
        targets: &[Target],
        maps: &[usize],
        constraints: &str,
    ) -> Result<(), Meaning> {
        let begin = format!("{}; SET CONSTRAINTS ALL {constraints}", self.begin_sql(true));
        failpoint::hit("before-destination-check");
        self.client()
            .batch_execute(&begin)
            .await
            .map_err(|error| meaning(&error))?;
        self.fence(targets, maps).await
    }

    /// Marks parked records of this record's keys as replaced by it (I3). Durable before the commit that makes it so.
    pub(super) async fn supersede(
        &self,
        targets: &[Target],
        write: &Planned<'_>,
        store: &dyn ErrorStore,
    ) -> Result<Vec<Position>, LaneError> {
        let Some(target) = targets.get(write.map).filter(|target| !target.parked.is_empty()) else {
            return Ok(Vec::new());
        };
        if !write.act.is_whole() {
            return Ok(Vec::new());
        }
        let keys = write.act.keys();
        let mut positions: Vec<Position> = keys
            .iter()
            .filter_map(|key| target.parked.get(key.as_bytes()))
            .flatten()
            .copied()
            .filter(|position| *position < write.position)
            .collect();
        positions.sort_unstable();
        positions.dedup();
        if positions.is_empty() {
            return Ok(positions);
        }
        let marks: Vec<(Position, Position)> =
            positions.iter().map(|parked| (*parked, write.position)).collect();
        let failed = |error: super::StoreError| LaneError::Store {
            map: target.map_id.clone(),
            message: error.0,
        };
        store.supersede(&target.map_id, &marks).await.map_err(failed)?;
        Ok(positions)
    }

    /// One record's statements.
    pub(super) async fn write_one(
        &mut self,
        targets: &[Target],
        write: &Planned<'_>,
    ) -> Result<Hit, Meaning> {
        let Some(target) = targets.get(write.map) else {
            return Err(Meaning::Surprise);
        };
        let failed = |error: tokio_postgres::Error| meaning(&error);
        match &write.act {
            Act::Upsert { values, .. } => {
                self.execute(&target.upsert_sql(), values.iter().map(text).collect())
                    .await
                    .map_err(failed)?;
                Ok(Hit::Written)
            }
            Act::Delete { key } => {
                let columns = key_columns(key);
                let parameters = columns.iter().map(|column| Text(Some(column))).collect();
                self.execute(&target.delete_sql(), parameters)
                    .await
                    .map_err(failed)?;
                Ok(Hit::Written)
            }
            Act::Update {
                key,
                values,
                if_missing,
            } => {
                let set = sent(target, values);
                let hits = self
                    .update(target, &set, values, &key_columns(key))
                    .await
                    .map_err(failed)?;
                Ok(missed(hits, *if_missing))
            }
            Act::Move {
                old,
                values,
                if_missing,
                ..
            } => self.shift(target, old, values, *if_missing).await,
            Act::Refused { .. } => Err(Meaning::Surprise),
        }
    }

    /// A key change: one UPDATE that also sets the key. Without a row of the old key, a whole row is inserted.
    async fn shift(
        &mut self,
        target: &Target,
        old: &crate::mapping::Key,
        values: &[crate::mapping::Value<'_>],
        if_missing: IfMissing,
    ) -> Result<Hit, Meaning> {
        let failed = |error: tokio_postgres::Error| meaning(&error);
        let is_sent = |index: &usize| values.get(*index) != Some(&crate::mapping::Value::NotSent);
        let set: Vec<usize> = (0..values.len()).filter(is_sent).collect();
        if if_missing == IfMissing::Insert {
            // A row of the new key may be there already: left by a change that was not replicated.
            let columns = key_columns(old);
            let parameters = columns.iter().map(|column| Text(Some(column))).collect();
            self.execute(&target.delete_sql(), parameters)
                .await
                .map_err(failed)?;
            self.execute(&target.upsert_sql(), values.iter().map(text).collect())
                .await
                .map_err(failed)?;
            return Ok(Hit::Written);
        }
        let hits = self
            .update(target, &set, values, &key_columns(old))
            .await
            .map_err(failed)?;
        Ok(missed(hits, if_missing))
    }

    async fn update(
        &mut self,
        target: &Target,
        set: &[usize],
        values: &[crate::mapping::Value<'_>],
        key: &[Vec<u8>],
    ) -> Result<u64, tokio_postgres::Error> {
        if set.is_empty() {
            return Ok(1);
        }
        let parameters = set.iter().filter_map(|index| values.get(*index).map(text));
        let parameters = parameters
            .chain(key.iter().map(|column| Text(Some(column))))
            .collect();
        self.execute(&target.update_sql(set), parameters).await
    }

    async fn execute(&mut self, sql: &str, parameters: Vec<Text<'_>>) -> Result<u64, tokio_postgres::Error> {
        let statement = self.statement(sql).await?;
        self.client().execute_raw(&statement, parameters).await
    }
}

fn missed(hits: u64, if_missing: IfMissing) -> Hit {
    match (hits, if_missing) {
        (0, IfMissing::Filter) => Hit::Missed,
        (0, _) => Hit::Missing,
        _ => Hit::Written,
    }
}

/// The progress of the group's maps, before what is counted.
pub(super) fn progress_at(targets: &[Target], ends: &[Upto]) -> Vec<(usize, Progress)> {
    let at = ends.iter().filter_map(|end| {
        let known = &targets.get(end.map)?.progress;
        let progress = Progress {
            position: end.position.max(known.position),
            counters: end.counters,
            ..known.clone()
        };
        Some((end.map, progress))
    });
    at.collect()
}

/// How far each map of a group is after it: at its last record there, or, with the batch's last of it, at `upto`.
fn ends(group: &[Planned<'_>], items: &[&Item], upto: &[Upto], planned: &[Planned<'_>]) -> Vec<Upto> {
    let mut ends: Vec<Upto> = Vec::new();
    for write in group {
        let Some(item) = items.get(write.index) else {
            continue;
        };
        let last_of_batch = !planned
            .iter()
            .any(|other| other.map == write.map && other.index > write.index);
        let whole = upto.iter().find(|upto| upto.map == write.map);
        let end = match whole {
            Some(whole) if last_of_batch => *whole,
            _ => Upto {
                map: write.map,
                position: write.position,
                counters: item.counters,
            },
        };
        match ends.iter_mut().find(|known| known.map == write.map) {
            Some(known) => *known = end,
            None => ends.push(end),
        }
    }
    ends
}
