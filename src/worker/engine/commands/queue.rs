//! Skipping to what is live: what waits in the queue is given up, or kept as errors.

use super::{Engine, Next, SOON, Stand, failed, waiting};
use crate::{
    api::reasons::QUEUE_SKIPPED,
    destination::postgres::Progress,
    queue::QueueError,
    record::{Fate, Skip},
    worker::{
        command::{Counts, OnQueue, Work},
        engine::Event,
        map::{Map, MapId},
        plan::Plan,
    },
};
use std::sync::Arc;

/// So many records may be kept as errors at once: each costs memory in Redis and in the worker.
const PARKED: u64 = 100_000;

impl Engine {
    pub(super) fn next_on_queue(&self, id: &Arc<str>, plan: &Plan, order: OnQueue) -> Next {
        let map = self.maps.get(&plan.id).filter(|map| map.has_joined());
        let Some((map, progress)) = map.and_then(|map| Some((map, map.progress.as_ref()?))) else {
            return Next::Say(waiting("MapStarting", "The map has not started yet."));
        };
        if let Some(skip) = map.skip.as_ref().filter(|skip| *skip.operation == **id) {
            return self.follow(id, map, skip);
        }
        if self.commands.is_busy(&plan.id) || map.skip.is_some() {
            return Next::Say(waiting("Queued", "Another operation on the map comes first."));
        }
        if let Some(blocked) = map.blocked.as_ref().filter(|blocked| blocked.is_loss()) {
            return Next::Say(waiting(
                "MapBlocked",
                &format!("The map is blocked. {}", blocked.message()),
            ));
        }
        let (selected, upto) = (map.waiting(), map.stock.account.last);
        if order.fate == Fate::Park && selected > PARKED {
            let message = format!(
                "{selected} records wait in the queue, and at most {PARKED} are kept as errors at once: let the map catch up, or \
                 discard them."
            );
            return Next::Say(failed("TooMany", message));
        }
        let skip = Skip {
            fate: order.fate,
            upto,
            selected,
            base: skipped(progress, order.fate),
            operation: id.to_string(),
        };
        let map = plan.id.clone();
        match (order.dry_run, selected) {
            (true, _) => Next::Say(Stand::Complete {
                reason: "DryRun",
                message: format!("{selected} records wait in the queue; nothing was done."),
            }),
            (_, 0) => Next::Say(Stand::Complete {
                reason: "Completed",
                message: "Nothing waits in the queue.".into(),
            }),
            _ => Next::Skip { map, skip },
        }
    }

    fn follow(&self, id: &Arc<str>, map: &Map, skip: &Skip) -> Next {
        let Some(progress) = &map.progress else {
            return Next::Nothing;
        };
        if progress.position >= skip.upto {
            return Next::Skipped { map: map.id.clone() };
        }
        if map.gate.wanted() {
            let message = format!(
                "{} records will be skipped when the map is resumed. What is queued from now on is not touched.",
                skip.selected
            );
            return Next::Say(waiting("MapPaused", &message));
        }
        if let Some(unusable) = &map.unusable {
            let message = format!("The destination cannot be written now. {}", unusable.message);
            return Next::Say(waiting("MapBuffering", &message));
        }
        let said = self.commands.open.get(id).and_then(|open| open.stand.as_ref());
        let running = Stand::Running {
            message: "What waits in the queue is skipped.".into(),
        };
        if said == Some(&running) {
            let known = self.commands.open.get(id).and_then(|open| open.work.as_ref());
            let started = known.map_or_else(|| Work::begun().started, |work| work.started);
            return Next::Work(Work {
                started,
                counts: counts(map, skip, false),
                ..Work::default()
            });
        }
        Next::Say(running)
    }

    /// Redis knows it before it acts.
    pub(super) fn begin_skip(&mut self, operation: &Arc<str>, id: &MapId, skip: Skip) {
        self.commands.again_later(operation, SOON);
        let Some(map) = self.maps.get(id) else { return };
        let queue = map.queue.clone();
        let map = id.clone();
        self.spawn(async move {
            let result = queue.skip_queued(&skip).await;
            Event::SkipStored { map, skip, result }
        });
    }

    pub(in crate::worker::engine) fn skip_stored(
        &mut self,
        id: &MapId,
        skip: Skip,
        result: Result<(), QueueError>,
    ) {
        let is_open = self.commands.open.contains_key(&*skip.operation);
        let Some(map) = self.maps.get_mut(id) else { return };
        match result {
            Ok(()) if is_open => {
                map.skip = Some(skip);
                // A replay is told when it begins.
                map.gate.reread();
                self.drive(id);
            }
            // It was deleted meanwhile, or it is not known whether Redis has it.
            Ok(()) => map.swept = false,
            Err(error) => {
                tracing::info!(map = %id, %error, "what is skipped was not stored; trying again");
                map.swept = false;
            }
        }
    }

    pub(super) fn end_skip(&mut self, id: &Arc<str>, map: &MapId) {
        let Some(open) = self.commands.open.get(id) else {
            return;
        };
        let command = open.command.clone();
        let Some(known) = self.maps.get(map) else { return };
        let Some(skip) = &known.skip else { return };
        let work = Work {
            started: open
                .work
                .as_ref()
                .map_or_else(|| Work::begun().started, |work| work.started),
            counts: counts(known, skip, true),
            ..Work::default()
        };
        let done = work.counts.completed;
        let message = match skip.fate {
            Fate::Discard => {
                format!("{done} queued records were given up: they never reach the destination.")
            }
            Fate::Park => format!("{done} queued records were kept as errors: retry or discard them."),
        };
        self.account_for(&command, QUEUE_SKIPPED, &message);
        if let Some(open) = self.commands.open.get_mut(id) {
            open.work = Some(work);
        }
        let reason = "Completed";
        self.commands.say(id, Stand::Complete { reason, message });
    }
}

/// Records that were written before the replay knew of it were not skipped.
fn counts(map: &Map, skip: &Skip, is_over: bool) -> Counts {
    let progress = map.progress.as_ref();
    let now = progress.map_or(skip.base, |progress| skipped(progress, skip.fate));
    let completed = now.saturating_sub(skip.base).min(skip.selected);
    let selected = if is_over { completed } else { skip.selected };
    Counts {
        selected,
        completed,
        remaining: selected - completed,
        ..Counts::default()
    }
}

/// What the destination counts of records with this fate.
fn skipped(progress: &Progress, fate: Fate) -> u64 {
    match fate {
        Fate::Discard => progress.discarded,
        Fate::Park => progress.parks,
    }
}
