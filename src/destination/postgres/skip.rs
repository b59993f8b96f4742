//! Queued records that a person has skipped: they pass, and nothing is written but the progress.

use super::{
    batch::{bind, plan},
    error::{LaneError, Meaning},
    session::Session,
    target::{Item, Target},
    turn::{Purpose, Turn, own},
    write::{Around, Setback, last_of},
};
use crate::{failpoint, record::Fate};

/// Of a map what is skipped comes before all else: its first records go, whoever's stand between them.
pub(super) fn split<'i>(targets: &[Target], items: Vec<&'i Item>) -> (Vec<&'i Item>, Vec<&'i Item>) {
    if targets.iter().all(|target| target.skip.is_none()) {
        return (Vec::new(), items);
    }
    let is_skipped = |item: &&Item| {
        let target = targets.get(item.map);
        target.is_some_and(|target| target.skips(item.change.position).is_some())
    };
    items.into_iter().partition(is_skipped)
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
        self.open(targets, &maps, "DEFERRED").await?;
        let mut turn = Turn::new(targets, &ends, Purpose::Changes);
        for write in plan(items, &bindings) {
            match targets
                .get(write.map)
                .and_then(|target| target.skips(write.position))
            {
                Some(Fate::Park) => {
                    let skipped = own(
                        "Skipped",
                        "It was skipped while it waited in the queue: retry it, or discard it.",
                    );
                    turn.refuse(targets, &write, items, skipped);
                }
                Some(Fate::Discard) | None => turn.discard(write.map),
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
