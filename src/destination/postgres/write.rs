//! The choice among the three ways to write a batch.

use super::{
    ErrorStore, Parents,
    asleep::wake,
    batch::{Planned, bind, plan},
    error::{Aside, LaneError, Meaning},
    fast::{MapBatch, coalesce},
    progress::Upto,
    session::{Session, adopt, next_progress},
    skip::{choose, split},
    target::{Item, Target},
};
use crate::record::Position;

/// A batch of this many conflicts in a row is a destination that does not get on.
pub(super) const RETRIES: usize = 5;
/// A part of a batch that holds a refused record is made smaller until it has about so many, and then goes in order.
const SMALL: usize = 32;

/// What a batch has led to.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Maps that were left out, and why: nothing of them is committed beyond their progress.
    pub aside: Vec<(usize, Aside)>,
    /// The last commit was durable, and with it all that were committed before (rule 2).
    pub durable: bool,
}

impl Written {
    /// Whether a map was left out.
    #[must_use]
    pub fn is_aside(&self, map: usize) -> bool {
        self.aside.iter().any(|(aside, _)| *aside == map)
    }
}

/// Who takes part in a batch beside its items.
#[derive(Clone, Copy)]
pub struct Around<'a> {
    pub store: &'a dyn ErrorStore,
    pub parents: &'a dyn Parents,
}

/// How an attempt at a batch failed. Nothing of it is committed that the targets' progress does not tell.
pub(super) enum Setback {
    /// Not as it is: in source order.
    InOrder,
    Retry,
    /// Not so much at once; a single record's map is set aside.
    Slow(usize, Aside),
    Aside(usize, Aside),
    Lane(LaneError),
}

impl Session {
    /// Writes a batch: fast if it can be, in order if it must be. On success every item but those of maps that were
    /// set aside is committed, and `targets` hold the new progress.
    ///
    /// # Errors
    /// What of the batch is committed, the progress tells; with `Lost` that is not known.
    pub async fn write(
        &mut self,
        targets: &mut [Target],
        items: &[&Item],
        upto: &[Upto],
        durable: bool,
        around: Around<'_>,
    ) -> Result<Written, LaneError> {
        let mut written = Written::default();
        // An earlier try may have committed a part before it failed (I4).
        let items: Vec<&Item> = items
            .iter()
            .copied()
            .filter(|item| is_new(targets, item))
            .collect();
        let (skipped, mut items) = split(targets, items);
        if !skipped.is_empty() {
            match self.skip(targets, &skipped, around).await {
                Ok(()) => written.durable = true,
                Err(Setback::Lane(error)) => return Err(error),
                Err(_) => return Err(LaneError::lost("what is skipped could not be passed")),
            }
        }
        let mut retries = 0;
        let mut in_order = false;
        let mut reach = items.len();
        while !items.is_empty() {
            let part = &items[..cut(&items, reach)];
            let is_rest = part.len() == items.len();
            let is_one = part.len() <= SMALL || is_one_transaction(part);
            let own_ends;
            let ends = if is_rest {
                upto
            } else {
                own_ends = last_of(part);
                &own_ends
            };
            let bindings = bind(targets, part);
            let mut planned = plan(part, &bindings);
            choose(targets, part, &mut planned);
            wake(targets, &planned, around.store).await?;
            let durable = in_order || durable && is_rest;
            let attempt = if in_order {
                self.write_in_order(targets, part, &planned, ends, around).await
            } else {
                self.write_fast(targets, &planned, ends, durable).await
            };
            match attempt {
                Ok(()) => {
                    written.durable = durable;
                    let count = part.len();
                    items.drain(..count);
                    reach = count.saturating_mul(2);
                    in_order = false;
                    continue;
                }
                Err(Setback::InOrder) if in_order => {
                    return Err(LaneError::lost("a transaction failed in an unknown way"));
                }
                Err(Setback::InOrder | Setback::Slow(..)) if is_one && !in_order => {
                    (in_order, reach) = (true, part.len());
                }
                // Most of a batch has nothing to do with the record that is refused.
                Err(Setback::InOrder) => reach = part.len() / 4,
                Err(Setback::Slow(..)) if !in_order => reach = part.len() / 4,
                Err(Setback::Retry) if retries < RETRIES => retries += 1,
                Err(Setback::Retry) => return Err(LaneError::lost("too many conflicts with other writers")),
                Err(Setback::Lane(error)) => return Err(error),
                Err(Setback::Slow(map, aside) | Setback::Aside(map, aside)) => {
                    written.aside.push((map, aside));
                }
            }
            items.retain(|item| !written.is_aside(item.map) && is_new(targets, item));
        }
        Ok(written)
    }

    /// Tries the fast way.
    async fn write_fast(
        &mut self,
        targets: &mut [Target],
        planned: &[Planned<'_>],
        upto: &[Upto],
        durable: bool,
    ) -> Result<(), Setback> {
        let Some(mut coalesced) = coalesce(planned, targets) else {
            return Err(Setback::InOrder);
        };
        let next = next_progress(targets, planned, upto);
        let deadline = self.deadline;
        loop {
            let attempt = self.fast_transaction(targets, &coalesced, &next, durable);
            let (map, meaning) = match tokio::time::timeout(deadline, attempt).await {
                Ok(Ok(())) => break,
                Ok(Err(failed)) => failed,
                Err(_) => return Err(Setback::Lane(LaneError::lost("no answer in time"))),
            };
            let refused = matches!(meaning, Meaning::Record(_) | Meaning::Surprise);
            let setback = self.failed(map, meaning).await;
            // It may only be that a row is there that was taken for new.
            let batch = coalesced.maps.iter_mut().find(|batch| Some(batch.map) == map);
            if !refused || !batch.is_some_and(MapBatch::give_up_copy) {
                return Err(setback);
            }
            if let Setback::Lane(error) = setback {
                return Err(Setback::Lane(error));
            }
            if let Some(target) = map.and_then(|map| targets.get_mut(map)) {
                target.direct.failed();
            }
        }
        for batch in &coalesced.maps {
            if let Some(target) = targets.get_mut(batch.map) {
                target.direct.wrote(!batch.inserts.is_empty());
            }
        }
        adopt(targets, next);
        Ok(())
    }

    /// Rolls back, and says what a failure means for the batch.
    pub(super) async fn failed(&mut self, map: Option<usize>, meaning: Meaning) -> Setback {
        if let Meaning::Lane(lost @ LaneError::Lost { .. }) = meaning {
            return Setback::Lane(lost);
        }
        if let Err(setback) = self.roll_back().await {
            return setback;
        }
        match (meaning, map) {
            (Meaning::Record(_) | Meaning::Surprise, _) => Setback::InOrder,
            (Meaning::Retry, _) => Setback::Retry,
            (Meaning::Slow(aside), Some(map)) => Setback::Slow(map, aside),
            (Meaning::Aside(aside), Some(map)) => Setback::Aside(map, aside),
            (meaning, _) => Setback::Lane(meaning.of_the_lane()),
        }
    }
}

/// Whether the destination does not have an item yet.
fn is_new(targets: &[Target], item: &Item) -> bool {
    let has = targets
        .get(item.map)
        .map_or(Position::ZERO, |target| target.progress.position);
    item.change.position > has
}

/// Where to end a part of about `reach` items: between two source transactions.
fn cut(items: &[&Item], reach: usize) -> usize {
    if reach >= items.len() {
        return items.len();
    }
    let commit = |index: usize| items.get(index).map(|item| item.change.position.commit);
    let is_between = |index: &usize| commit(index - 1) != commit(*index);
    let before = (1..=reach).rev().find(is_between);
    let after = || (reach + 1..items.len()).find(is_between);
    before.or_else(after).unwrap_or(items.len())
}

fn is_one_transaction(items: &[&Item]) -> bool {
    let commit = |item: Option<&&Item>| item.map(|item| item.change.position.commit);
    commit(items.first()) == commit(items.last())
}

/// How far each map is after these items: at its last one.
#[must_use]
pub fn last_of(items: &[&Item]) -> Vec<Upto> {
    let mut ends: Vec<Upto> = Vec::new();
    for item in items {
        let end = Upto {
            map: item.map,
            position: item.change.position,
            counters: item.counters,
        };
        match ends.iter_mut().find(|known| known.map == item.map) {
            Some(known) => *known = end,
            None => ends.push(end),
        }
    }
    ends
}
