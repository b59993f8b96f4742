//! Parked records that are tried again: in the lane, in the order of their positions, each with its own savepoint. What is
//! written counts in the transaction that writes it (rule 15), and nothing newer is overwritten (I3).

use super::{
    ErrorStore, Parents,
    batch::{Act, Planned, bind, plan},
    error::{Aside, LaneError},
    ordered::Group,
    parked::Parked,
    progress::Upto,
    session::Session,
    target::{Item, Target},
    turn::{Purpose, own, row_missing},
    write::{Around, RETRIES, Setback},
};
use crate::{
    failpoint,
    failure::{Refusal, judge},
    mapping::{Binding, Decision, IfMissing, Key, into_exit},
    record::{Change, ParkedRecord, Position, Retried},
};
use std::time::{Duration, Instant};

/// The first transaction has so many records; later ones more, or fewer, as they take long.
const FIRST: usize = 16;
/// The lane's other maps wait so long for a retry, about.
const MOMENT: Duration = Duration::from_millis(400);

/// What has come of some parked records; those that are not named were not come to.
#[derive(Debug, Default)]
pub struct Tried {
    pub retried: Vec<Retried>,
    /// They do not wait any more: a newer record has replaced them, or they were given up.
    pub skipped: Vec<Position>,
    /// So many may be tried at once next.
    pub reach: usize,
}

/// A retry waits for no other map: its record is behind that one already.
struct Nobody;

impl Parents for Nobody {
    fn behind(&self, _: &str, _: (&str, &str), _: Position) -> Option<String> {
        None
    }
}

impl Session {
    /// Tries these parked records of one map again, which are in the order of their positions: as many as a moment allows,
    /// so that the lane's other maps do not wait; in one transaction at first `first`. What is written is durable.
    ///
    /// # Errors
    /// The connection fails, or a token was raised; it is not known of which records something came then.
    pub async fn retry(
        &mut self,
        targets: &mut [Target],
        map: usize,
        records: &[ParkedRecord],
        operation: &str,
        first: Option<usize>,
        store: &dyn ErrorStore,
    ) -> Result<Tried, LaneError> {
        let mut tried = Tried::default();
        let (begun, mut reach, mut conflicts) = (Instant::now(), first.unwrap_or(FIRST), 0);
        let mut blame = None;
        if let Some(target) = targets.get_mut(map) {
            // Whoever has chosen them may have woken them, and no earlier one of their keys may be left asleep.
            let keys = records.iter().flat_map(|record| record.keys.clone());
            target.wake(keys.collect(), store).await?;
        }
        while let Some(target) = targets.get_mut(map) {
            target.retried.clear();
            let is_done = |record: &&ParkedRecord| {
                let mut tried = tried.retried.iter();
                tried.any(|one| one.position() == record.change.position)
            };
            let left = records.iter().filter(|record| !is_done(record));
            let (waiting, gone): (Vec<_>, Vec<_>) = left.partition(|record| is_waiting(target, record));
            tried.skipped = gone.into_iter().map(|record| record.change.position).collect();
            if waiting.is_empty() || (begun.elapsed() > MOMENT && !tried.retried.is_empty()) {
                break;
            }
            let part = &waiting[..reach.min(waiting.len())];
            let started = Instant::now();
            let attempt = self
                .try_again(targets, map, part, blame.take(), operation, store)
                .await;
            tried.retried.append(&mut targets[map].retried);
            match attempt {
                Ok(()) if started.elapsed() < MOMENT / 4 => reach *= 2,
                Ok(()) => reach = (reach / 2).max(1),
                // What one record's write has met is no matter of the others, nor of the map.
                Err(Setback::Slow(_, aside) | Setback::Aside(_, aside)) if part.len() == 1 => {
                    blame = Some(refusal(&aside));
                }
                Err(Setback::Slow(..) | Setback::Aside(..)) => reach = 1,
                Err(Setback::Retry) if conflicts < RETRIES => conflicts += 1,
                Err(Setback::Retry) => return Err(LaneError::lost("too many conflicts with other writers")),
                Err(Setback::Lane(error)) => return Err(error),
                Err(Setback::InOrder) => {
                    return Err(LaneError::lost("a transaction failed in an unknown way"));
                }
            }
        }
        replaced_meanwhile(&mut tried, targets.get(map));
        tried.reach = reach;
        Ok(tried)
    }

    /// One transaction, if all goes well. `blame` is what the only record is refused for.
    async fn try_again(
        &mut self,
        targets: &mut [Target],
        map: usize,
        records: &[&ParkedRecord],
        blame: Option<Refusal>,
        operation: &str,
        store: &dyn ErrorStore,
    ) -> Result<(), Setback> {
        let Some(target) = targets.get_mut(map) else {
            return Ok(());
        };
        let counters = target.progress.counters;
        let items: Vec<Item> = records
            .iter()
            .map(|record| Item {
                map,
                change: judged_again(target, record),
                counters,
            })
            .collect();
        let items: Vec<&Item> = items.iter().collect();
        // It is no place in the source's log: the map stays where it is.
        let end = Upto {
            map,
            position: target.progress.position,
            counters,
        };
        let bindings = bind(targets, &items);
        let mut planned = plan(&items, &bindings);
        for ((write, record), binding) in planned.iter_mut().zip(records).zip(&bindings) {
            guard(write, record, binding.as_deref().ok(), &targets[map].parked);
        }
        if let (Some(refusal), [write]) = (blame, planned.as_mut_slice()) {
            let keys = write.act.keys().into_iter().cloned().collect();
            write.act = Act::Refused { keys, refusal };
        }
        let group = Group {
            writes: &planned,
            items: &items,
            ends: &[end],
            purpose: Purpose::Retry { operation, records },
        };
        let around = Around {
            store,
            parents: &Nobody,
        };
        let deadline = self.deadline;
        match tokio::time::timeout(deadline, self.write_singly(targets, group, around)).await {
            Ok(written) => written,
            Err(_) => Err(Setback::Lane(LaneError::lost("no answer in time"))),
        }
    }
}

/// What the destination says of the write of one record.
fn refusal(aside: &Aside) -> Refusal {
    let (code, remedy) = match aside {
        Aside::Stuck { code, remedy } | Aside::Unfit { code, remedy } | Aside::Failing { code, remedy } => {
            (code.as_str(), remedy.as_str())
        }
        Aside::WaitsForParent { .. } | Aside::TooManyErrors { .. } => {
            ("23503", "Write the parent, then retry.")
        }
    };
    Refusal {
        class: judge(code).class,
        ..own(code, remedy)
    }
}

/// Without the guard that keeps newer rows: a test must see that.
fn is_broken() -> bool {
    failpoint::is_broken("retry-replaced")
}

/// Nothing replaces a record whose key nobody can tell.
fn is_waiting(target: &Target, record: &ParkedRecord) -> bool {
    if is_broken() {
        return true;
    }
    record.keys.is_empty() || target.parked.keys(record.change.position).is_some()
}

/// One that was refused again, and then replaced by a later one of the same key.
fn replaced_meanwhile(tried: &mut Tried, target: Option<&Target>) {
    let Some(target) = target else { return };
    let is_replaced = |retried: &Retried| match retried {
        Retried::Failed(record) => !is_waiting(target, record),
        Retried::Completed { .. } => false,
    };
    let (replaced, kept) = std::mem::take(&mut tried.retried)
        .into_iter()
        .partition::<Vec<_>, _>(is_replaced);
    tried.retried = kept;
    for one in replaced {
        if let Retried::Failed(record) = one {
            tried.skipped.push(record.change.position);
        }
    }
}

/// The filter judges where a change is taken; one that it could not judge then, it judges now.
fn judged_again(target: &mut Target, record: &ParkedRecord) -> Change {
    match decision(target.binding(&record.change.relation).ok().as_deref(), record) {
        Some(Decision::Exit) => into_exit(record.change.clone()),
        _ => record.change.clone(),
    }
}

fn decision(binding: Option<&Binding>, record: &ParkedRecord) -> Option<Decision> {
    binding
        .filter(|_| record.unjudged)
        .map(|binding| binding.decide(&record.change))
}

/// What must not be done any more is not done: only what is still known of the record's keys may be written.
fn guard(write: &mut Planned<'_>, record: &ParkedRecord, binding: Option<&Binding>, parked: &Parked) {
    if matches!(write.act, Act::Refused { .. }) || is_broken() {
        return;
    }
    let waiting = parked.keys(record.change.position).unwrap_or_default();
    let is = |key: &Key, known: &[u8]| key.as_bytes() == known;
    let was = |key: &&Key| record.keys.iter().any(|known| is(key, known));
    let waits = |key: &&Key| waiting.iter().any(|known| is(key, known));
    let keys = write.act.keys();
    let refusal = if record.keys.is_empty() {
        Some(key_unknown())
    } else if !keys.iter().all(was) {
        Some(key_differs())
    } else {
        None
    };
    let is_moved = !keys.iter().all(waits);
    let keys: Vec<Key> = keys.into_iter().cloned().collect();
    if let Some(refusal) = refusal {
        write.act = Act::Refused { keys, refusal };
    } else if decision(binding, record) == Some(Decision::Filtered) {
        write.act = Act::Filtered { keys };
    } else if is_moved {
        leave_the_old_key(write);
    }
}

/// The old key of a key change has a newer row: only the new row is still wanted.
fn leave_the_old_key(write: &mut Planned<'_>) {
    let act = std::mem::replace(&mut write.act, Act::Filtered { keys: Vec::new() });
    write.act = match act {
        Act::Move {
            key,
            values,
            if_missing: IfMissing::Insert,
            ..
        } => Act::Upsert { key, values },
        Act::Move { key, .. } => Act::Refused {
            keys: vec![key],
            refusal: row_missing(),
        },
        // The row that it would remove is the newer one.
        other => Act::Filtered {
            keys: other.keys().into_iter().cloned().collect(),
        },
    };
}

fn key_unknown() -> Refusal {
    own(
        "KeyUnknown",
        "It cannot be told which row this is, and so not whether a newer one was written: write the row anew at the source, \
         then discard this record.",
    )
}

fn key_differs() -> Refusal {
    own(
        "KeyDiffers",
        "A column of the key has another type or collation at the destination than when the record was refused, so that it \
         cannot be told whether a newer one was written: write the row anew at the source, then discard this record.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Lsn;

    fn at(lsn: u64) -> Position {
        Position::through(1, Lsn(lsn))
    }

    fn move_of(if_missing: IfMissing) -> Planned<'static> {
        Planned {
            map: 0,
            position: at(5),
            index: 0,
            is_new: false,
            act: Act::Move {
                old: Key::from_text("a"),
                key: Key::from_text("b"),
                values: Vec::new(),
                if_missing,
            },
        }
    }

    #[test]
    fn a_key_change_whose_old_key_has_a_newer_row_only_writes_the_new_one() {
        let mut whole = move_of(IfMissing::Insert);
        leave_the_old_key(&mut whole);
        assert!(matches!(&whole.act, Act::Upsert { key, .. } if key.as_str() == "b"));
        let mut partial = move_of(IfMissing::Refuse);
        leave_the_old_key(&mut partial);
        assert!(matches!(&partial.act, Act::Refused { refusal, .. } if refusal.code == "RowMissing"));
    }
}
