//! The fast way: a batch coalesced by key and reordered by foreign keys, in one transaction. Only for batches that
//! succeed (rule 9): anything unusual is left to the ordered way.

use super::{
    batch::{Act, Planned},
    bulk,
    cascade::refers_to_deleted,
    error::{Meaning, meaning},
    progress::Progress,
    session::Session,
    statement::{Text, text},
    target::Target,
};
use crate::{
    failpoint,
    mapping::{IfMissing, Key, Value, key_columns},
};
use std::collections::{HashMap, HashSet, hash_map::Entry};
use tokio_postgres::Statement;

/// The last state of each key, split by kind.
#[derive(Debug, Default)]
pub struct Coalesced<'p, 'a> {
    pub maps: Vec<MapBatch<'p, 'a>>,
}

/// One map's share.
#[derive(Debug)]
pub struct MapBatch<'p, 'a> {
    pub map: usize,
    /// New rows, which are copied into the table itself.
    pub inserts: Vec<Row<'p, 'a>>,
    pub upserts: Vec<Row<'p, 'a>>,
    pub updates: Vec<(&'p Key, &'p [Value<'a>])>,
    pub deletes: Vec<&'p Key>,
}

/// A row, and its place in the batch: rows of one table may refer to each other.
pub type Row<'p, 'a> = (usize, &'p [Value<'a>]);

/// Coalesces a batch. None: it holds something that must go in order.
pub fn coalesce<'p, 'a>(planned: &'p [Planned<'a>], targets: &[Target]) -> Option<Coalesced<'p, 'a>> {
    let mut last: HashMap<(usize, &Key), (&'p Planned<'a>, bool)> = HashMap::with_capacity(planned.len());
    let passes = |write: &&Planned<'_>| !matches!(write.act, Act::Discarded { .. });
    for write in planned.iter().filter(passes) {
        let target = targets.get(write.map)?;
        let key = simple_key(target, &write.act)?;
        if target.parked.waits(key.as_bytes()) {
            return None;
        }
        match last.entry((write.map, key)) {
            // A partial update completes what came before it: their order matters.
            Entry::Occupied(_) if matches!(write.act, Act::Update { .. }) => return None,
            Entry::Occupied(mut known) => known.get_mut().0 = write,
            Entry::Vacant(first) => drop(first.insert((write, write.is_new))),
        }
    }
    let mut maps: Vec<MapBatch<'p, 'a>> = Vec::new();
    for write in planned.iter().filter(passes) {
        let [key] = write.act.keys()[..] else { return None };
        let Some((_, is_new)) = last
            .get(&(write.map, key))
            .filter(|(last, _)| last.index == write.index)
        else {
            continue;
        };
        let batch = if let Some(at) = maps.iter_mut().position(|batch| batch.map == write.map) {
            &mut maps[at]
        } else {
            maps.push(MapBatch {
                map: write.map,
                inserts: vec![],
                upserts: vec![],
                updates: vec![],
                deletes: vec![],
            });
            maps.last_mut()?
        };
        match &write.act {
            Act::Upsert { values, .. } if *is_new => batch.inserts.push((write.index, values)),
            Act::Upsert { values, .. } => batch.upserts.push((write.index, values)),
            Act::Update { key, values, .. } => batch.updates.push((key, values)),
            Act::Delete { key } => batch.deletes.push(key),
            _ => return None,
        }
    }
    if share_a_table(&maps, targets) || refers_to_deleted(planned, targets) {
        return None;
    }
    for batch in &mut maps {
        let copies = targets
            .get(batch.map)
            .is_some_and(|target| target.direct.may_copy());
        if !copies || batch.inserts.len() < bulk::COPY_FROM {
            batch.give_up_copy();
        }
    }
    let ranks = ranks(&maps, targets);
    maps.sort_by_key(|batch| ranks.get(&batch.map).copied().unwrap_or(0));
    Some(Coalesced { maps })
}

impl MapBatch<'_, '_> {
    /// New rows go the way of all others. False: there are none.
    pub fn give_up_copy(&mut self) -> bool {
        if self.inserts.is_empty() {
            return false;
        }
        self.upserts.append(&mut self.inserts);
        self.upserts.sort_by_key(|(index, _)| *index);
        true
    }
}

/// The key of a write that needs neither its place among the others nor more than one statement.
fn simple_key<'p>(target: &Target, act: &'p Act<'_>) -> Option<&'p Key> {
    match act {
        // Only an insert from before a column was added lacks values.
        Act::Upsert { key, values } => (!values.contains(&Value::NotSent)).then_some(key),
        Act::Delete { key } => Some(key),
        Act::Update {
            key,
            values,
            if_missing: IfMissing::Refuse,
        } => (!sent(target, values).is_empty()).then_some(key),
        _ => None,
    }
}

/// Two maps that write one table have one row of a key between them, whose changes must keep their order (I2).
fn share_a_table(maps: &[MapBatch<'_, '_>], targets: &[Target]) -> bool {
    let mut tables = HashSet::new();
    let tables_of = maps.iter().filter_map(|batch| targets.get(batch.map));
    !tables_of.into_iter().all(|target| tables.insert(&target.table))
}

/// Parents before children: how many foreign keys lie between each table and one that refers to none of the others.
/// Tables that refer to each other in a ring end at the number of maps.
fn ranks(maps: &[MapBatch<'_, '_>], targets: &[Target]) -> HashMap<usize, usize> {
    let of: HashMap<_, usize> = maps
        .iter()
        .filter_map(|batch| Some((&targets.get(batch.map)?.table, batch.map)))
        .collect();
    let mut ranks: HashMap<usize, usize> = maps.iter().map(|batch| (batch.map, 0)).collect();
    for _ in 0..maps.len() {
        let mut changed = false;
        for batch in maps {
            let keys = targets.get(batch.map).map(|target| &target.shape.foreign_keys);
            let parents = keys.into_iter().flatten().filter(|key| key.refers);
            let above = parents
                .filter_map(|key| of.get(&key.other).filter(|parent| **parent != batch.map))
                .filter_map(|parent| ranks.get(parent))
                .max();
            let rank = above.map_or(0, |above| (above + 1).min(maps.len()));
            changed |= ranks.insert(batch.map, rank) != Some(rank);
        }
        if !changed {
            break;
        }
    }
    ranks
}

/// Which map's statement failed, and what that means.
type Failed = (Option<usize>, Meaning);

impl Session {
    /// One transaction for the whole batch.
    pub(super) async fn fast_transaction(
        &mut self,
        targets: &[Target],
        batch: &Coalesced<'_, '_>,
        next: &[(usize, Progress)],
        durable: bool,
    ) -> Result<(), Failed> {
        let maps: Vec<usize> = next.iter().map(|(map, _)| *map).collect();
        let statements = self.prepare_batch(targets, batch).await?;
        let begin = self.begin_write_sql(targets, &maps, durable);
        let client = self.client();
        failpoint::hit("before-destination-check");
        let opened = futures::join!(client.batch_execute(&begin), self.fence(targets, &maps));
        opened.0.map_err(|error| (None, meaning(&error)))?;
        opened.1.map_err(|meaning| (None, meaning))?;
        let mut used = HashSet::new();
        for (map, statements) in batch.maps.iter().zip(&statements) {
            self.upsert(targets, map, statements, &mut used)
                .await
                .map_err(|meaning| (Some(map.map), meaning))?;
        }
        for (map, statements) in batch.maps.iter().zip(&statements).rev() {
            self.delete(targets, map, statements, &mut used)
                .await
                .map_err(|meaning| (Some(map.map), meaning))?;
        }
        failpoint::hit("between-check-and-commit");
        self.store(targets, next)
            .await
            .map_err(|meaning| (None, meaning))?;
        // A deferred constraint may fail here: then it goes in order.
        self.commit().await.map_err(|meaning| (None, meaning))
    }

    /// Prepares what the batch needs before its transaction begins.
    async fn prepare_batch(
        &mut self,
        targets: &[Target],
        batch: &Coalesced<'_, '_>,
    ) -> Result<Vec<Statements>, Failed> {
        let mut all = Vec::new();
        for map in &batch.maps {
            let prepared = self.prepare_map(targets, map).await;
            all.push(prepared.map_err(|error| (Some(map.map), meaning(&error)))?);
        }
        Ok(all)
    }

    async fn prepare_map(
        &mut self,
        targets: &[Target],
        batch: &MapBatch<'_, '_>,
    ) -> Result<Statements, tokio_postgres::Error> {
        let Some(target) = targets.get(batch.map) else {
            return Ok(Statements::default());
        };
        let mut statements = Statements::default();
        if batch.upserts.len() >= bulk::FROM || batch.deletes.len() >= bulk::FROM {
            statements.stage = Some(self.stage(target, batch.map).await?);
        }
        if !batch.upserts.is_empty() && batch.upserts.len() < bulk::FROM {
            statements.upsert = Some(self.statement(&target.upsert_all_sql()).await?);
        }
        if !batch.deletes.is_empty() && batch.deletes.len() < bulk::FROM {
            statements.delete = Some(self.statement(&target.delete_sql()).await?);
        }
        for (_, values) in &batch.updates {
            statements
                .updates
                .push(self.statement(&target.update_sql(&sent(target, values))).await?);
        }
        Ok(statements)
    }

    /// The session's table for one target, made once.
    async fn stage(&mut self, target: &Target, map: usize) -> Result<String, tokio_postgres::Error> {
        let name = format!("pg_temp.tm_stage_{map}_{}", self.stages);
        let sql = target.stage_sql(&name);
        if let Some((_, name)) = self
            .staged
            .iter()
            .find(|(known, _)| *known == target.stage_sql(""))
        {
            Ok(name.clone())
        } else {
            self.client().batch_execute(&sql).await?;
            self.stages += 1;
            self.staged.push((target.stage_sql(""), name.clone()));
            Ok(name)
        }
    }

    /// `used` names the session's tables that hold rows of this transaction.
    async fn upsert<'s>(
        &self,
        targets: &[Target],
        batch: &MapBatch<'_, '_>,
        statements: &'s Statements,
        used: &mut HashSet<&'s str>,
    ) -> Result<(), Meaning> {
        let (Some(target), client) = (targets.get(batch.map), self.client()) else {
            return Ok(());
        };
        if !batch.inserts.is_empty() {
            bulk::insert(client, target, &batch.inserts).await?;
        }
        match (&statements.upsert, &statements.stage) {
            (Some(statement), _) => {
                let rows = batch.upserts.iter().map(|(_, values)| {
                    let parameters: Vec<Text<'_>> = values.iter().map(text).collect();
                    client.execute_raw(statement, parameters)
                });
                all(rows).await?;
            }
            (None, Some(stage)) if !batch.upserts.is_empty() => {
                bulk::upsert(client, target, stage, &batch.upserts, used).await?;
            }
            _ => {}
        }
        let updates = batch
            .updates
            .iter()
            .zip(&statements.updates)
            .map(|((key, values), statement)| {
                let columns = key_columns(key.as_bytes());
                async move {
                    let parameters = sent(target, values)
                        .into_iter()
                        .filter_map(|index| values.get(index).map(text));
                    let parameters: Vec<Text<'_>> = parameters
                        .chain(columns.iter().map(|column| Text(Some(column))))
                        .collect();
                    client.execute_raw(statement, parameters).await
                }
            });
        let hits = all(updates).await?;
        // A row that is missing is told in order, where it is one record's own.
        if hits.contains(&0) {
            Err(Meaning::Surprise)
        } else {
            Ok(())
        }
    }

    async fn delete<'s>(
        &self,
        targets: &[Target],
        batch: &MapBatch<'_, '_>,
        statements: &'s Statements,
        used: &mut HashSet<&'s str>,
    ) -> Result<(), Meaning> {
        let (Some(target), client) = (targets.get(batch.map), self.client()) else {
            return Ok(());
        };
        match (&statements.delete, &statements.stage) {
            (Some(statement), _) => {
                let deletes = batch.deletes.iter().map(|key| {
                    let columns = key_columns(key.as_bytes());
                    async move {
                        let parameters: Vec<Text<'_>> =
                            columns.iter().map(|column| Text(Some(column))).collect();
                        client.execute_raw(statement, parameters).await
                    }
                });
                all(deletes).await?;
                Ok(())
            }
            (None, Some(stage)) if !batch.deletes.is_empty() => {
                bulk::delete(client, target, stage, &batch.deletes, used).await
            }
            _ => Ok(()),
        }
    }
}

/// One map's statements for one batch.
#[derive(Default)]
struct Statements {
    upsert: Option<Statement>,
    delete: Option<Statement>,
    updates: Vec<Statement>,
    stage: Option<String>,
}

/// Sends all, then waits for all: one flight. The first failure tells.
async fn all(
    rows: impl Iterator<Item = impl Future<Output = Result<u64, tokio_postgres::Error>>>,
) -> Result<Vec<u64>, Meaning> {
    let results = futures::future::join_all(rows).await;
    results
        .into_iter()
        .collect::<Result<Vec<u64>, _>>()
        .map_err(|error| meaning(&error))
}

/// Which columns an update sets: those that were sent, but for the key.
pub(super) fn sent(target: &Target, values: &[Value<'_>]) -> Vec<usize> {
    let sent = |(index, value): (usize, &Value<'_>)| {
        (*value != Value::NotSent && !target.mapping.key().contains(&index)).then_some(index)
    };
    values.iter().enumerate().filter_map(sent).collect()
}
