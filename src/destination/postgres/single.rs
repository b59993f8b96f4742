//! The sure way: record by record, constraints immediate, a savepoint each. Only a record that fails here is parked.

use super::{
    Parents,
    batch::{Act, Planned},
    error::{Aside, LaneError, Meaning, meaning},
    ordered::{Group, end_of_one},
    progress::Upto,
    session::Session,
    skip::skipped,
    target::{Item, Target},
    turn::{BEHIND, Turn, own},
    write::{Around, Setback, last_of},
};
use crate::{
    failpoint,
    failure::{Refusal, judge},
    record::Position,
};
use tokio_postgres::error::DbError;

/// Which map's record failed, and what that means.
type Failed = (Option<usize>, Meaning);

/// What became of one record.
enum Outcome {
    Done,
    Refused(Refusal),
    /// A foreign key refuses it: a later record of the same source transaction may bring or remove what it wants.
    Early(Box<DbError>),
}

impl Session {
    /// One source transaction, record by record.
    pub(super) async fn write_singly(
        &mut self,
        targets: &mut [Target],
        group: Group<'_, '_>,
        around: Around<'_>,
    ) -> Result<(), Setback> {
        match self.commit_singly(targets, group, None, around).await {
            Err((_, Meaning::Record(error))) if group.writes.len() == 1 => {
                let refusal = refused(targets.get(group.writes[0].map), &error);
                let alone = self.commit_singly(targets, group, Some(refusal), around).await;
                self.ended(targets, alone, around).await
            }
            // What comes before is written: else two maps, each of which waits for a record of this transaction, would
            // wait for ever (rule 10).
            Err((
                Some(map),
                Meaning::Aside(
                    aside @ (Aside::WaitsForParent { since, .. } | Aside::TooManyErrors { since, .. }),
                ),
            )) => {
                self.roll_back().await?;
                self.undo(targets, around.store).await?;
                let count = group
                    .writes
                    .iter()
                    .take_while(|write| write.position < since)
                    .count();
                if count > 0 {
                    let writes = &group.writes[..count];
                    let item = |write: &Planned<'_>| group.items.get(write.index).copied();
                    let items: Vec<&Item> = writes.iter().filter_map(item).collect();
                    let ends = &last_of(&items);
                    let before = Group {
                        writes,
                        ends,
                        ..group
                    };
                    Box::pin(self.write_singly(targets, before, around)).await?;
                }
                Err(Setback::Aside(map, aside))
            }
            // A constraint that is checked at the commit, whatever was said: which record's it is, shows one by one.
            Err((_, Meaning::Record(_))) => {
                for (index, writes) in group.writes.chunks(1).enumerate() {
                    let ends: Vec<Upto> = end_of_one(group, index).into_iter().collect();
                    let ends = &ends;
                    let one = Group {
                        writes,
                        ends,
                        ..group
                    };
                    Box::pin(self.write_singly(targets, one, around)).await?;
                }
                Ok(())
            }
            other => self.ended(targets, other, around).await,
        }
    }

    async fn ended(
        &mut self,
        targets: &mut [Target],
        result: Result<(), Failed>,
        around: Around<'_>,
    ) -> Result<(), Setback> {
        match result {
            Ok(()) => Ok(()),
            Err((map, meaning)) => {
                let setback = self.failed(map, meaning).await;
                if !matches!(setback, Setback::Lane(LaneError::Lost { .. })) {
                    self.undo(targets, around.store).await?;
                }
                Err(setback)
            }
        }
    }

    /// One destination transaction. A refusal that is given is that of its one record. When a constraint fails at the
    /// commit, it is rolled back.
    async fn commit_singly(
        &mut self,
        targets: &mut [Target],
        group: Group<'_, '_>,
        refusal: Option<Refusal>,
        around: Around<'_>,
    ) -> Result<(), Failed> {
        let none = |meaning| (None, meaning);
        self.open(targets, &group.maps(), "IMMEDIATE")
            .await
            .map_err(none)?;
        let mut turn = Turn::new(targets, group.ends, group.purpose);
        match (refusal, group.writes) {
            (Some(refusal), [write]) => {
                refuse(targets, write, group, refusal, &mut turn)?;
            }
            _ => self.singly(targets, group, around.parents, &mut turn).await?,
        }
        let kept = turn.keep(targets, around.store).await;
        kept.map_err(|error| (None, Meaning::Lane(error)))?;
        failpoint::hit("between-park-and-commit");
        self.store(targets, &turn.next).await.map_err(none)?;
        match self.commit().await {
            Ok(()) => {
                turn.settle(targets);
                Ok(())
            }
            // The server has rolled back; what was parked for it goes too.
            Err(Meaning::Record(error)) => {
                for target in targets.iter_mut().filter(|target| target.provisional) {
                    target
                        .settle(around.store)
                        .await
                        .map_err(|error| (None, Meaning::Lane(error)))?;
                }
                Err((None, Meaning::Record(error)))
            }
            Err(other) => Err((None, other)),
        }
    }

    /// Every record once, then those that came too early for a foreign key, as long as that helps.
    async fn singly(
        &mut self,
        targets: &[Target],
        group: Group<'_, '_>,
        parents: &dyn Parents,
        turn: &mut Turn<'_>,
    ) -> Result<(), Failed> {
        let mut left: Vec<&Planned<'_>> = group.writes.iter().collect();
        let mut is_last = false;
        let mut since = None;
        while !left.is_empty() {
            let mut early: Vec<&Planned<'_>> = Vec::new();
            for write in &left {
                // The records of a key keep their order.
                if early
                    .iter()
                    .any(|before| before.map == write.map && share_a_key(before, write))
                {
                    early.push(write);
                    continue;
                }
                let outcome = self.attempt(targets, write, turn).await;
                match outcome.map_err(|meaning| (Some(write.map), meaning))? {
                    Outcome::Done => {}
                    Outcome::Refused(refusal) => {
                        refuse(targets, write, group, refusal, turn)?;
                    }
                    Outcome::Early(_) if !is_last => {
                        since.get_or_insert(write.position);
                        early.push(write);
                    }
                    Outcome::Early(error) => {
                        let target = targets.get(write.map);
                        let waits = target
                            .and_then(|target| waits_for(target, &error, (write.position, since), parents));
                        if let Some(aside) = waits {
                            return Err((Some(write.map), Meaning::Aside(aside)));
                        }
                        refuse(targets, write, group, refused(target, &error), turn)?;
                    }
                }
            }
            is_last = early.len() == left.len();
            left = early;
        }
        Ok(())
    }

    /// Tries one record behind a savepoint.
    async fn attempt(
        &mut self,
        targets: &[Target],
        write: &Planned<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Outcome, Meaning> {
        match &write.act {
            Act::Refused { refusal, .. } => return Ok(Outcome::Refused(refusal.clone())),
            Act::Parked { .. } => return Ok(Outcome::Refused(skipped())),
            Act::Discarded { by } => {
                turn.discard(write.map, by);
                return Ok(Outcome::Done);
            }
            _ => {}
        }
        if turn.is_behind(targets, write) {
            return Ok(Outcome::Refused(parked_behind()));
        }
        let failed = |error: tokio_postgres::Error| meaning(&error);
        self.client()
            .batch_execute("SAVEPOINT record")
            .await
            .map_err(failed)?;
        let replaced = turn.replaced_by(targets, write);
        match self.write_one(targets, write, &replaced).await {
            Ok(hit) => {
                self.client()
                    .batch_execute("RELEASE SAVEPOINT record")
                    .await
                    .map_err(failed)?;
                let refusal = turn.count(targets, write, &hit, &replaced);
                Ok(refusal.map_or(Outcome::Done, Outcome::Refused))
            }
            Err(Meaning::Record(error)) => {
                self.client()
                    .batch_execute("ROLLBACK TO SAVEPOINT record; RELEASE SAVEPOINT record")
                    .await
                    .map_err(failed)?;
                let target = targets.get(write.map);
                match target.and_then(|target| unfilled(target, &error)) {
                    Some(aside) => Err(Meaning::Aside(aside)),
                    None if error.code().code() == FOREIGN_KEY => Ok(Outcome::Early(error)),
                    None => Ok(Outcome::Refused(refused(target, &error))),
                }
            }
            Err(other) => Err(other),
        }
    }
}

/// `not_null_violation`.
const NOT_NULL: &str = "23502";
/// `foreign_key_violation`.
const FOREIGN_KEY: &str = "23503";

/// Parks a record, unless as many wait as may.
fn refuse(
    targets: &[Target],
    write: &Planned<'_>,
    group: Group<'_, '_>,
    refusal: Refusal,
    turn: &mut Turn<'_>,
) -> Result<(), Failed> {
    if let Some(full) = turn.is_full(targets, write) {
        return Err((Some(write.map), Meaning::Aside(full)));
    }
    turn.refuse(targets, write, group.items, refusal);
    Ok(())
}

fn share_a_key(one: &Planned<'_>, other: &Planned<'_>) -> bool {
    one.act
        .keys()
        .iter()
        .any(|key| other.act.keys().iter().any(|known| known == key))
}

/// A column of the table that must not be NULL, and that no field fills: every record would be refused.
fn unfilled(target: &Target, error: &DbError) -> Option<Aside> {
    let of = (error.schema()?, error.table()?);
    let column = error.column()?;
    let ours = of == (target.table.0.as_str(), target.table.1.as_str());
    let filled = target.mapping.destinations().any(|name| name == column);
    (error.code().code() == NOT_NULL && ours && !filled).then(|| Aside::Unfit {
        code: NOT_NULL.into(),
        remedy: format!(
            "no field fills the column {column:?}, which must not be NULL: give it a default, or add a field."
        ),
    })
}

/// A foreign key whose other table belongs to a map that stands behind this record (rule 10).
fn waits_for(
    target: &Target,
    error: &DbError,
    (record, since): (Position, Option<Position>),
    parents: &dyn Parents,
) -> Option<Aside> {
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
            since: since.unwrap_or(record),
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

fn parked_behind() -> Refusal {
    own(
        BEHIND,
        "An earlier record of this key is parked: retry that one first.",
    )
}
