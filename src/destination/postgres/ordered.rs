//! The ordered way: one destination transaction for each source transaction, uncoalesced, constraints deferred.

use super::{
    batch::{Act, Planned},
    error::{LaneError, Meaning, meaning},
    fast::sent,
    parked::Replaced,
    progress::Upto,
    session::Session,
    statement::{Text, text},
    target::{Item, Target},
    turn::{Hit, Purpose, Turn},
    write::{Around, Setback},
};
use crate::{
    failpoint,
    mapping::{IfMissing, Key, Value, key_columns},
};
use std::collections::HashMap;

/// One source transaction, or what a batch holds of it.
#[derive(Clone, Copy)]
pub(super) struct Group<'g, 'a> {
    pub writes: &'g [Planned<'a>],
    /// Those of the whole batch.
    pub items: &'g [&'g Item],
    /// Where each map is after the group.
    pub ends: &'g [Upto],
    pub purpose: Purpose<'g>,
}

impl Group<'_, '_> {
    pub fn maps(&self) -> Vec<usize> {
        self.ends.iter().map(|end| end.map).collect()
    }
}

impl Session {
    /// Writes the batch in source order.
    pub(super) async fn write_in_order(
        &mut self,
        targets: &mut [Target],
        items: &[&Item],
        planned: &[Planned<'_>],
        upto: &[Upto],
        around: Around<'_>,
    ) -> Result<(), Setback> {
        let last = last_writes(planned);
        for writes in planned.chunk_by(|one, next| one.position.commit == next.position.commit) {
            let ends = ends(writes, items, upto, &last);
            let ends = &ends;
            let group = Group {
                writes,
                items,
                ends,
                purpose: Purpose::Changes,
            };
            match self.write_together(targets, group, around).await {
                Ok(()) => {}
                Err(Setback::InOrder) => self.one_by_one(targets, group, around).await?,
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    async fn one_by_one(
        &mut self,
        targets: &mut [Target],
        group: Group<'_, '_>,
        around: Around<'_>,
    ) -> Result<(), Setback> {
        let deadline = self.deadline;
        match tokio::time::timeout(deadline, self.write_singly(targets, group, around)).await {
            Ok(written) => written,
            Err(_) => Err(Setback::Lane(LaneError::lost("no answer in time"))),
        }
    }

    /// The group in one transaction. What must be refused, or must wait, is for the next way.
    async fn write_together(
        &mut self,
        targets: &mut [Target],
        group: Group<'_, '_>,
        around: Around<'_>,
    ) -> Result<(), Setback> {
        let refuses = |write: &Planned<'_>| {
            let waits = |target: &Target| {
                let keys = write.act.keys();
                keys.iter().any(|key| target.parked.waits(key.as_bytes()))
            };
            let is_refused = matches!(write.act, Act::Refused { .. } | Act::Parked { .. });
            is_refused || (!write.act.is_whole() && targets.get(write.map).is_some_and(waits))
        };
        if group.writes.iter().any(refuses) {
            return Err(Setback::InOrder);
        }
        let deadline = self.deadline;
        match tokio::time::timeout(deadline, self.together(targets, group, around)).await {
            Ok(Ok(turn)) => {
                turn.settle(targets);
                Ok(())
            }
            Ok(Err((map, meaning))) => {
                let setback = self.failed(map, meaning).await;
                if !matches!(setback, Setback::Lane(LaneError::Lost { .. })) {
                    self.undo(targets, around.store).await?;
                }
                Err(setback)
            }
            Err(_) => Err(Setback::Lane(LaneError::lost("no answer in time"))),
        }
    }

    async fn together<'g>(
        &mut self,
        targets: &mut [Target],
        group: Group<'g, '_>,
        around: Around<'_>,
    ) -> Result<Turn<'g>, (Option<usize>, Meaning)> {
        let none = |meaning| (None, meaning);
        self.open(targets, &group.maps(), "DEFERRED")
            .await
            .map_err(none)?;
        let mut turn = Turn::new(targets, group.ends, group.purpose);
        for write in group.writes {
            if let Act::Discarded { by } = &write.act {
                turn.discard(write.map, by);
                continue;
            }
            let replaced = turn.replaced_by(targets, write);
            let hit = self
                .write_one(targets, write, &replaced)
                .await
                .map_err(|meaning| (Some(write.map), meaning))?;
            if turn.count(targets, write, &hit, &replaced).is_some() {
                return Err((Some(write.map), Meaning::Surprise));
            }
        }
        failpoint::hit("between-check-and-commit");
        let kept = turn.keep(targets, around.store).await;
        kept.map_err(|error| (None, Meaning::Lane(error)))?;
        self.store(targets, &turn.next).await.map_err(none)?;
        self.commit().await.map_err(none)?;
        Ok(turn)
    }

    /// Begins a transaction with its constraints checked late or at once, and locks the progress rows.
    pub(super) async fn open(
        &self,
        targets: &[Target],
        maps: &[usize],
        constraints: &str,
    ) -> Result<(), Meaning> {
        let begin = self.begin_write_sql(targets, maps, true);
        let begin = format!("{begin}; SET CONSTRAINTS ALL {constraints}");
        failpoint::hit("before-destination-check");
        self.client()
            .batch_execute(&begin)
            .await
            .map_err(|error| meaning(&error))?;
        self.fence(targets, maps).await
    }

    /// One record's statements. What stands at the old keys of replaced key changes goes first.
    pub(super) async fn write_one(
        &mut self,
        targets: &[Target],
        write: &Planned<'_>,
        replaced: &Replaced,
    ) -> Result<Hit, Meaning> {
        let Some(target) = targets.get(write.map) else {
            return Err(Meaning::Surprise);
        };
        for old in &replaced.sweep {
            self.delete_row(target, &key_columns(old)).await?;
        }
        match &write.act {
            Act::Upsert { values, .. } => self.upsert_row(target, values).await,
            Act::Delete { key } => self.delete_row(target, &key_columns(key.as_bytes())).await,
            Act::Update {
                key,
                values,
                if_missing,
            } => {
                let set = sent(target, values);
                let hits = self
                    .update_row(target, &set, values, &key_columns(key.as_bytes()))
                    .await?;
                Ok(missed(hits, *if_missing))
            }
            Act::Move {
                old,
                key,
                values,
                if_missing,
            } => self.shift(target, [old, key], values, *if_missing).await,
            Act::Filtered { .. } => Ok(Hit::Missed),
            Act::Refused { .. } | Act::Parked { .. } | Act::Discarded { .. } => Err(Meaning::Surprise),
        }
    }

    /// A key change: one UPDATE that also sets the key, so that what refers to the row, and columns that no field
    /// fills, stay. Without a row of the old key, or with one of the new key, a whole row is written anew.
    async fn shift(
        &mut self,
        target: &Target,
        [old, key]: [&Key; 2],
        values: &[Value<'_>],
        if_missing: IfMissing,
    ) -> Result<Hit, Meaning> {
        let (old, key) = (key_columns(old.as_bytes()), key_columns(key.as_bytes()));
        let is_whole = if_missing == IfMissing::Insert;
        let set: Vec<usize> = (0..values.len())
            .filter(|index| values.get(*index) != Some(&Value::NotSent))
            .collect();
        if target.shape.fixed_key && !is_whole {
            return Ok(Hit::Fixed);
        }
        if !target.shape.fixed_key {
            let sql = target.shift_sql(&set, is_whole);
            let parameters = set.iter().filter_map(|index| values.get(*index).map(text));
            let keys = old.iter().chain(key.iter().filter(|_| is_whole));
            let parameters = parameters.chain(keys.map(|column| Text(Some(column)))).collect();
            let hits = self.execute(&sql, parameters).await?;
            if hits > 0 || !is_whole {
                return Ok(missed(hits, if_missing));
            }
        }
        // A row of the new key may be there already: left by a change that was not replicated.
        self.delete_row(target, &old).await?;
        self.upsert_row(target, values).await
    }

    async fn upsert_row(&mut self, target: &Target, values: &[Value<'_>]) -> Result<Hit, Meaning> {
        let is_sent = |value: &&Value<'_>| **value != Value::NotSent;
        let set: Vec<usize> = (0..values.len())
            .filter(|index| values.get(*index).as_ref().is_some_and(is_sent))
            .collect();
        let parameters = values.iter().filter(is_sent).map(text).collect();
        self.execute(&target.upsert_sql(&set), parameters).await?;
        Ok(Hit::Written)
    }

    async fn delete_row(&mut self, target: &Target, key: &[Vec<u8>]) -> Result<Hit, Meaning> {
        let parameters = key.iter().map(|column| Text(Some(column))).collect();
        self.execute(&target.delete_sql(), parameters).await?;
        Ok(Hit::Written)
    }

    /// How many rows were there to update. Nothing to set is asked for all the same: the row may be missing.
    async fn update_row(
        &mut self,
        target: &Target,
        set: &[usize],
        values: &[Value<'_>],
        key: &[Vec<u8>],
    ) -> Result<u64, Meaning> {
        let key = key.iter().map(|column| Text(Some(column)));
        if set.is_empty() {
            return self.execute(&target.look_sql(), key.collect()).await;
        }
        let parameters = set.iter().filter_map(|index| values.get(*index).map(text));
        self.execute(&target.update_sql(set), parameters.chain(key).collect())
            .await
    }

    async fn execute(&mut self, sql: &str, parameters: Vec<Text<'_>>) -> Result<u64, Meaning> {
        let failed = |error: tokio_postgres::Error| meaning(&error);
        let statement = self.statement(sql).await.map_err(failed)?;
        self.client()
            .execute_raw(&statement, parameters)
            .await
            .map_err(failed)
    }
}

fn missed(hits: u64, if_missing: IfMissing) -> Hit {
    match (hits, if_missing) {
        (0, IfMissing::Filter) => Hit::Missed,
        (0, _) => Hit::Missing,
        _ => Hit::Written,
    }
}

/// The last write of each map.
fn last_writes(planned: &[Planned<'_>]) -> HashMap<usize, usize> {
    planned.iter().map(|write| (write.map, write.index)).collect()
}

/// How far each map of a group is after it: at its last record there, or, with the batch's last of it, at `upto`.
fn ends(group: &[Planned<'_>], items: &[&Item], upto: &[Upto], last: &HashMap<usize, usize>) -> Vec<Upto> {
    let mut ends: Vec<Upto> = Vec::new();
    for write in group {
        let Some(item) = items.get(write.index) else {
            continue;
        };
        let whole = upto.iter().find(|upto| upto.map == write.map);
        let end = match whole {
            Some(whole) if last.get(&write.map) == Some(&write.index) => *whole,
            _ => own_end(write, item),
        };
        match ends.iter_mut().find(|known| known.map == write.map) {
            Some(known) => *known = end,
            None => ends.push(end),
        }
    }
    ends
}

fn own_end(write: &Planned<'_>, item: &Item) -> Upto {
    Upto {
        map: write.map,
        position: write.position,
        counters: item.counters,
    }
}

/// Where a map is after one record of a group.
pub(super) fn end_of_one(group: Group<'_, '_>, index: usize) -> Option<Upto> {
    let write = group.writes.get(index)?;
    let is_last = group
        .writes
        .iter()
        .skip(index + 1)
        .all(|later| later.map != write.map);
    let whole = group.ends.iter().find(|end| end.map == write.map);
    match whole {
        Some(whole) if is_last => Some(*whole),
        _ => Some(own_end(write, group.items.get(write.index)?)),
    }
}
