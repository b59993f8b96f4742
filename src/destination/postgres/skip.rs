//! Queued records that a person has skipped: they pass, and nothing is written but the progress. Where only some are, they
//! pass among the others.

use super::{
    batch::{Act, Planned, bind, plan},
    error::{LaneError, Meaning},
    session::Session,
    target::{Item, Target},
    turn::{Purpose, SKIPPED, Turn, is_unjudged, own},
    write::{Around, Setback, last_of},
};
use crate::{
    failpoint,
    failure::Refusal,
    mapping::{Choice, FilterError, KeyReader},
    record::{Change, Fate, Position, Skip},
};
use std::sync::Arc;

/// What is to be skipped of a map, ready to be asked: what came first comes first.
#[derive(Clone, Debug, Default)]
pub struct Skips(Vec<Skipping>);

#[derive(Clone, Debug)]
struct Skipping {
    fate: Fate,
    after: Position,
    upto: Position,
    by: Arc<str>,
    /// None: all records up to its end.
    only: Option<Choice>,
}

impl Skips {
    /// # Errors
    /// What one of them means cannot be read.
    pub fn of(skips: &[Skip]) -> Result<Self, FilterError> {
        let mut skips: Vec<&Skip> = skips.iter().collect();
        skips.sort_unstable_by_key(|skip| skip.number);
        let compiled = skips.into_iter().map(|skip| {
            Ok(Skipping {
                fate: skip.fate,
                after: skip.after,
                upto: skip.upto,
                by: skip.operation.as_str().into(),
                only: skip.only.as_ref().map(Choice::of).transpose()?,
            })
        });
        Ok(Self(compiled.collect::<Result<_, FilterError>>()?))
    }

    pub(super) fn has(&self, operation: &str) -> bool {
        self.0.iter().any(|skipping| *skipping.by == *operation)
    }

    /// Up to where no record is written from `has` on.
    fn whole(&self, has: Position) -> Option<Position> {
        let all = self
            .0
            .iter()
            .filter(|skipping| skipping.only.is_none() && skipping.after <= has);
        all.map(|skipping| skipping.upto).max()
    }

    /// The first that takes a record.
    fn taker(&self, change: &Change, keys: &mut KeyReader<'_>) -> Option<&Skipping> {
        self.0.iter().find(|skipping| {
            // That an expression can be evaluated on every record was seen before it began.
            let mut takes = |only: &Choice| only.takes(change, keys).unwrap_or(false);
            let lies_within = change.position > skipping.after && change.position <= skipping.upto;
            lies_within && skipping.only.as_ref().is_none_or(&mut takes)
        })
    }
}

/// Of a map what is skipped whole comes before all else: its first records go, whoever's stand between them.
pub(super) fn split<'i>(targets: &[Target], items: Vec<&'i Item>) -> (Vec<&'i Item>, Vec<&'i Item>) {
    let whole: Vec<Option<Position>> = targets
        .iter()
        .map(|target| target.skips.whole(target.progress.position))
        .collect();
    if whole.iter().all(Option::is_none) {
        return (Vec::new(), items);
    }
    let is_skipped = |item: &&Item| {
        let upto = whole.get(item.map).copied().flatten();
        upto.is_some_and(|upto| item.change.position <= upto)
    };
    items.into_iter().partition(is_skipped)
}

/// What an operation has chosen is given up, or parked, where it would be written.
pub(super) fn choose(targets: &[Target], items: &[&Item], planned: &mut [Planned<'_>]) {
    for (map, target) in targets.iter().enumerate() {
        if target.skips.0.is_empty() {
            continue;
        }
        let mut keys = KeyReader::new(&target.mapping);
        for write in planned.iter_mut().filter(|write| write.map == map) {
            let change = items.get(write.index).map(|item| &item.change);
            let taker = change.and_then(|change| target.skips.taker(change, &mut keys));
            let Some(Skipping { fate, by, .. }) = taker else {
                continue;
            };
            let by = by.clone();
            write.act = match fate {
                Fate::Discard => Act::Discarded { by },
                Fate::Park => Act::Parked {
                    unjudged: is_unjudged(&write.act),
                    keys: write.act.keys().into_iter().cloned().collect(),
                    by,
                },
            };
        }
    }
}

pub(super) fn skipped() -> Refusal {
    own(
        SKIPPED,
        "It was skipped while it waited in the queue: retry it, or discard it.",
    )
}

impl Session {
    /// Passes these records in one transaction.
    pub(super) async fn skip(
        &mut self,
        targets: &mut [Target],
        items: &[&Item],
        around: Around<'_>,
    ) -> Result<(), Setback> {
        let deadline = self.deadline;
        match tokio::time::timeout(deadline, self.pass(targets, items, around)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(meaning)) => {
                let setback = self.failed(None, meaning).await;
                if !matches!(setback, Setback::Lane(LaneError::Lost { .. })) {
                    self.undo(targets, around.store).await?;
                }
                Err(setback)
            }
            Err(_) => Err(Setback::Lane(LaneError::lost("no answer in time"))),
        }
    }

    async fn pass(
        &mut self,
        targets: &mut [Target],
        items: &[&Item],
        around: Around<'_>,
    ) -> Result<(), Meaning> {
        let ends = last_of(items);
        let maps: Vec<usize> = ends.iter().map(|end| end.map).collect();
        let bindings = bind(targets, items);
        let mut planned = plan(items, &bindings);
        choose(targets, items, &mut planned);
        self.open(targets, &maps, "DEFERRED").await?;
        let mut turn = Turn::new(targets, &ends, Purpose::Skipped);
        for write in &planned {
            match &write.act {
                Act::Parked { .. } => turn.refuse(targets, write, items, skipped()),
                Act::Discarded { by } => turn.discard(write.map, by),
                // Up to the end of one that skips all, each record is taken.
                _ => return Err(Meaning::Surprise),
            }
        }
        turn.keep(targets, around.store).await.map_err(Meaning::Lane)?;
        failpoint::hit("between-park-and-commit");
        self.store(targets, &turn.next).await?;
        self.commit().await?;
        turn.settle(targets);
        Ok(())
    }
}
