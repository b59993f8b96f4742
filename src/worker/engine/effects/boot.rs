//! Taking a map over.

use super::{
    begin::settle,
    check::take,
    lost::{progress_gone, queue_gone, reached},
};
use crate::{
    connection::redis,
    destination::postgres::{Control, Progress, Target},
    queue::{Meta, Queue, QueueError},
    worker::{
        engine::event::{BootError, CheckFailure},
        plan::Plan,
    },
};
use std::sync::Arc;

/// A map taken over.
#[derive(Debug)]
pub struct Booted {
    pub queue: Queue,
    pub epoch: i64,
    /// None: the map has no position yet.
    pub meta: Option<Meta>,
    pub destination: Result<Option<Target>, CheckFailure>,
    pub partial: u64,
    pub durability: Option<redis::Durability>,
}

/// A queue is adopted only by a map of the same tables and key, and only where both custodians know it, or neither.
async fn may_adopt(
    plan: &Plan,
    queue: &Queue,
    destination_knows: Result<bool, &CheckFailure>,
) -> Result<(), BootError> {
    let refuse = |text: &str| {
        Err(BootError::NotAdopted(format!(
            "queue {} is not adopted: {text}",
            plan.id
        )))
    };
    let Ok(destination_knows) = destination_knows else {
        return refuse("the destination cannot be asked whether it knows it. Trying again.");
    };
    let meta = match queue.meta().await {
        Ok(meta) => meta.filter(|meta| meta.joined),
        Err(QueueError::EpochMissing) => None,
        Err(error) => return Err(error.into()),
    };
    match (meta, destination_knows) {
        (Some(meta), _) if meta.serves != Some(plan.serves()) => {
            let serves = meta.serves.unwrap_or_default();
            refuse(&format!(
                "it was made for {serves}, and this map is of {}. Correct tables and key, or name another queue.",
                plan.serves()
            ))
        }
        (None, true) => refuse(
            "the destination knows it, and Redis has nothing of it in this namespace. Name the Connection to the Redis \
             where it is.",
        ),
        _ => Ok(()),
    }
}

/// The version of a queue's account that has only just joined.
const JOINED: u64 = 1;

/// Takes a map over: its queue first, then its destination, each with a higher epoch than any seen (rule 4).
/// `turn` is waited for before the destination is asked.
pub async fn boot<T>(
    plan: Arc<Plan>,
    lease_epoch: i64,
    turn: impl Future<Output = T>,
) -> Result<Booted, BootError> {
    let mut queue = plan.connect_queue().await?;
    let durability = queue.durability().await.ok();
    let seen = queue.seen_epoch().await?;
    let _turn = turn.await;
    let control = Control::connect(&plan.destination_settings).await;
    let known = match &control {
        Ok(control) => control.peek(&plan.id).await.map_err(CheckFailure::from),
        Err(error) => Err(CheckFailure::Away(error.clone())),
    };
    let progress = known.as_ref().ok().and_then(Option::as_ref);
    if plan.adopts && !plan.joined() {
        may_adopt(&plan, &queue, known.as_ref().map(Option::is_some)).await?;
    }
    let epoch = next_epoch(lease_epoch, seen, progress);
    queue.use_epoch(epoch);
    let joined = plan.joined() || matches!(known, Ok(Some(_)));
    let after = known.as_ref().ok().map(|known| reached(known.as_ref()));
    let Some(_) = seen else {
        return if joined {
            Err(BootError::Lost(queue_gone(after)))
        } else {
            Ok(Booted {
                queue,
                epoch,
                meta: None,
                destination: Ok(None),
                partial: 0,
                durability,
            })
        };
    };
    queue.take_epoch(epoch, seen).await?;
    let meta = queue
        .meta()
        .await?
        .ok_or_else(|| BootError::Lost(queue_gone(after)))?;
    // A join whose end nobody has seen, and after which nothing has come, is done once more.
    if meta.account.version == JOINED && !plan.joined() {
        return Ok(Booted {
            queue,
            epoch,
            meta: None,
            destination: Ok(None),
            partial: 0,
            durability,
        });
    }
    if matches!(known, Ok(None)) {
        return Err(BootError::Lost(progress_gone(&meta)));
    }
    // A failover of Redis has lost the end of the join, and nothing of what came after it.
    if !meta.joined {
        queue.finish_join().await?;
    }
    let destination = match control {
        Ok(control) => take(&control, &plan, epoch, &queue, &meta).await,
        Err(error) => Err(CheckFailure::Away(error)),
    };
    let partial = match &destination {
        Ok(target) => settle(&queue, &target.progress).await?.partial,
        Err(_) => 0,
    };
    let meta = queue
        .meta()
        .await?
        .ok_or_else(|| BootError::Lost(queue_gone(after)))?;
    Ok(Booted {
        queue,
        epoch,
        meta: Some(meta),
        destination: destination.map(Some),
        partial,
        durability,
    })
}

/// Higher than any that was seen (rule 4).
pub fn next_epoch(lease: i64, queue: Option<i64>, destination: Option<&Progress>) -> i64 {
    let at_destination = destination.map_or(0, |progress| progress.epoch);
    lease.max(queue.unwrap_or(0)).max(at_destination) + 1
}
