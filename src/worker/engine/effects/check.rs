//! Checking a destination, and fencing it.

use super::{
    begin::{Settled, settle},
    lost::{errors_gone, held_by_nobody, progress_gone, queue_gone, reached},
};
use crate::{
    destination::postgres::{Control, LaneError, Progress, Target},
    queue::{Meta, Queue},
    record::Position,
    worker::{custody::Held, engine::event::CheckFailure, plan::Plan},
};
use std::{sync::Arc, time::Duration};

/// The fence must hold within this long, or the destination counts as unreachable (rule 5).
const FENCE_DEADLINE: Duration = Duration::from_secs(4);
/// What the check of a destination has found.
#[derive(Debug)]
pub struct Checked {
    pub target: Target,
    pub partial: u64,
    pub meta: Meta,
}

/// Checks the destination's schema, raises the map's token, and compares what its custodians say.
/// `confirmed` is what the source has forgotten: what is missing then is missing for good, and nothing is dropped over it.
pub async fn check(
    plan: Arc<Plan>,
    epoch: i64,
    queue: Queue,
    confirmed: Position,
) -> Result<Checked, CheckFailure> {
    let control = Control::connect(&plan.destination_settings)
        .await
        .map_err(CheckFailure::Away)?;
    let (meta, _) = custodians(&control, &plan, &queue).await?;
    let mut target = take(&control, &plan, epoch, &queue, &meta).await?;
    let has = target.progress.position;
    let held = Held {
        destination: Some(has),
        queue: meta.account.q,
        trimmed: meta.account.t,
    };
    if let Err(gap) = held.check(confirmed) {
        return Err(CheckFailure::Lost(held_by_nobody(gap)));
    }
    // What was parked beyond all that is held comes again, unless the source has forgotten it.
    let unknown = confirmed == Position::ZERO;
    if unknown && queue.has_errors_beyond(held.durable()).await? {
        return Err(CheckFailure::SourceNotSeen);
    }
    let Settled { account, partial } = settle(&queue, &target.progress).await?;
    // What it has beyond the queue comes again first, so that it is known how much of it the queue has counted.
    if account.base.is_none() {
        return Err(CheckFailure::NotCounted(Box::new(target.progress)));
    }
    target.remember(queue.settle_errors(target.progress.has(), &[]).await?);
    let (meta, _) = custodians(&control, &plan, &queue).await?;
    Ok(Checked {
        target,
        partial,
        meta,
    })
}

/// What both custodians hold: neither may be missing.
async fn custodians(control: &Control, plan: &Plan, queue: &Queue) -> Result<(Meta, Progress), CheckFailure> {
    let progress = control.peek(&plan.id).await?;
    let meta = queue.meta().await?;
    let after = Some(reached(progress.as_ref()));
    let meta = meta.ok_or_else(|| CheckFailure::Lost(queue_gone(after)))?;
    let progress = progress.ok_or_else(|| CheckFailure::Lost(progress_gone(&meta)))?;
    Ok((meta, progress))
}

/// What both custodians hold, after something was missing there.
pub async fn look_at_custodians(
    plan: &Plan,
    mut queue: Queue,
    epoch: i64,
) -> Result<(Meta, Progress), CheckFailure> {
    queue.take_epoch(epoch, None).await?;
    let control = Control::connect(&plan.destination_settings)
        .await
        .map_err(CheckFailure::Away)?;
    custodians(&control, plan, &queue).await
}

/// Whether the destination can be reached.
pub async fn knock(plan: &Plan) -> Result<(), LaneError> {
    Control::look(&plan.destination_settings).await.map(|_| ())
}

/// Whether the destination can be reached and its schema fits; changes nothing there.
pub async fn probe(plan: &Plan) -> Result<(), CheckFailure> {
    let control = Control::look(&plan.destination_settings)
        .await
        .map_err(CheckFailure::Away)?;
    control.inspect(&plan.destination_table, &plan.mapping).await?;
    Ok(())
}

pub(super) async fn take(
    control: &Control,
    plan: &Plan,
    epoch: i64,
    queue: &Queue,
    meta: &Meta,
) -> Result<Target, CheckFailure> {
    let shape = control.inspect(&plan.destination_table, &plan.mapping).await?;
    if meta.destination != *control.database() {
        queue.rename_destination(control.database()).await?;
    }
    // A worker that stopped in the middle of a write may still hold the row: it is ended (rule 5).
    let progress = fence(plan, epoch).await?;
    if meta.missing_parks(&progress.parks()) > 0 {
        return Err(CheckFailure::Lost(errors_gone(meta, progress.last_park)));
    }
    let mut target = Target::new(
        plan.id.to_string(),
        plan.name.clone(),
        plan.destination_table.clone(),
        meta.source.clone(),
        plan.mapping.clone(),
        shape,
        epoch,
        progress,
    );
    target.most_parked = plan.most_errors;
    Ok(target)
}
/// Raises the map's token at the destination, ending whoever stands in the way (rule 5).
pub async fn fence(plan: &Plan, epoch: i64) -> Result<Progress, LaneError> {
    let raise = Control::raise(&plan.destination_settings, &plan.id, epoch);
    match tokio::time::timeout(FENCE_DEADLINE, raise).await {
        Ok(raised) => raised,
        Err(_) => Err(LaneError::Lost {
            message: "the destination did not answer in time".into(),
        }),
    }
}
