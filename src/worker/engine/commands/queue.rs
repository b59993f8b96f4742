//! Skipping to what is live: what waits in the queue, or some of it, is given up, or kept as errors.

use super::{AGAIN, Engine, Next, Stand, failed, is_buffering, is_lost, waiting};
use crate::{
    api::reasons::QUEUE_SKIPPED,
    failpoint,
    queue::QueueError,
    record::{Fate, Skip},
    worker::{
        command::{Count, CountError, Counted, Counts, OnQueue, Order, QueueSelection, Work},
        engine::Event,
        map::{Map, MapId, Sweep},
        plan::Plan,
    },
};
use std::sync::Arc;

/// So many of those that are selected may be kept as errors at once: each lies alone, and costs memory in Redis and in the
/// worker.
const PARKED: u64 = 100_000;
const PARKED_AND_ONE: u64 = PARKED + 1;
/// And so many in all: the worker keeps 35 bytes in memory of each that sleeps, and must have them to start.
const MOST_PARKED: u64 = 5_000_000;

impl Engine {
    pub(super) fn next_on_queue(&self, id: &Arc<str>, plan: &Plan, order: &OnQueue) -> Next {
        let map = self.maps.get(&plan.id).filter(|map| map.has_joined());
        let Some(map) = map.filter(|map| map.progress.is_some()) else {
            return Next::Say(waiting("MapStarting", "The map has not started yet."));
        };
        if let Some(skip) = map.skips.iter().find(|skip| *skip.operation == **id) {
            return self.follow(id, map, skip);
        }
        if self.commands.is_busy(&plan.id) {
            return Next::Say(waiting("Queued", "Another operation on the map comes first."));
        }
        if let Some(stand) = is_lost(map) {
            return Next::Say(stand);
        }
        if order.selection != QueueSelection::All {
            return Next::Count { map: map.id.clone() };
        }
        let counted = Counted {
            selected: map.waiting(),
            only: None,
            after: map
                .progress
                .as_ref()
                .map(|progress| progress.position)
                .unwrap_or_default(),
            upto: map.stock.account.last,
        };
        Next::Counted {
            map: map.id.clone(),
            counted,
        }
    }

    /// Counts what is meant, beside the engine.
    pub(super) fn begin_count(&mut self, id: &Arc<str>, map: &MapId) {
        let (Some(open), Some(known)) = (self.commands.open.get(id), self.maps.get(map)) else {
            return;
        };
        let (Order::Queue(order), Some(progress)) = (&open.command.order, &known.progress) else {
            return;
        };
        let count = Count {
            map: known.plan.name.clone(),
            queue: known.queue.clone(),
            mapping: known.plan.mapping.clone(),
            selection: order.selection.clone(),
            after: progress.position,
            upto: known.stock.account.last,
            cancelled: self.commands.begins(id, map),
        };
        let message = "The selected records are counted in the queue.".to_owned();
        self.commands.say(id, Stand::Running { message });
        let (command, map) = (id.clone(), map.clone());
        self.spawn(async move {
            let result = count.run().await;
            Event::Counted { command, map, result }
        });
    }

    pub(in crate::worker::engine) fn counted(
        &mut self,
        id: &Arc<str>,
        map: &MapId,
        result: Result<Counted, CountError>,
    ) {
        self.commands.jobs.remove(map);
        let selected = result.as_ref().map_or(0, |counted| counted.selected);
        let Some(open) = self.commands.open.get(id) else {
            return;
        };
        let (Order::Queue(order), Some(known)) = (&open.command.order, self.maps.get(map)) else {
            return;
        };
        let waiting_errors = known.errors.summary.count;
        match result.map(|counted| begun(id, order, counted, &known.skips, waiting_errors)) {
            Ok(Ok(skip)) => self.begin_skip(id, map, skip),
            Ok(Err(stand)) => {
                if let Some(open) = self.commands.open.get_mut(id) {
                    open.work = Some(only_counted(selected));
                }
                self.commands.say(id, stand);
            }
            // One that cannot be read now is not read better later.
            Err(error @ CountError::Queue(QueueError::Batch(_))) => {
                self.commands
                    .say(id, failed("SelectionFailed", error.to_string()));
            }
            Err(CountError::Queue(error)) => {
                self.commands.say(id, waiting("Unreachable", &error.to_string()));
                self.commands.again_later(id, AGAIN);
            }
            Err(error) => self
                .commands
                .say(id, failed("SelectionFailed", error.to_string())),
        }
    }

    fn follow(&self, id: &Arc<str>, map: &Map, skip: &Skip) -> Next {
        let Some(progress) = &map.progress else {
            return Next::Nothing;
        };
        if progress.position >= skip.upto {
            return Next::Skipped { map: map.id.clone() };
        }
        if let Some(stand) = is_lost(map) {
            return Next::Say(stand);
        }
        if map.gate.wanted() {
            let message = format!(
                "{} records will be skipped when the map is resumed. What is queued from now on is not touched.",
                skip.selected
            );
            return Next::Say(waiting("MapPaused", &message));
        }
        if let Some(stand) = is_buffering(map) {
            return Next::Say(stand);
        }
        let said = self.commands.open.get(id).and_then(|open| open.stand.as_ref());
        let running = Stand::Running {
            message: match skip.only {
                None => "What waits in the queue is skipped.".into(),
                Some(_) => "What is selected in the queue is skipped; what waits between is written.".into(),
            },
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
        let Some(map) = self.maps.get(id) else { return };
        let queue = map.queue.clone();
        self.commands.begins(operation, id);
        let map = id.clone();
        self.spawn(async move {
            let result = queue.skip_queued(&skip).await;
            failpoint::hit("skip-stored");
            Event::SkipStored { map, skip, result }
        });
    }

    pub(in crate::worker::engine) fn skip_stored(
        &mut self,
        id: &MapId,
        skip: Skip,
        result: Result<(), QueueError>,
    ) {
        self.commands.jobs.remove(id);
        if result.is_err() {
            self.commands.again_later(&skip.operation, AGAIN);
        }
        let is_open = self.commands.open.contains_key(&*skip.operation);
        let Some(map) = self.maps.get_mut(id) else { return };
        match result {
            Ok(()) if is_open => {
                map.skips.retain(|known| known.operation != skip.operation);
                // A replay is told when it begins.
                if skip.selected > 0 {
                    map.gate.reread();
                }
                map.skips.push(skip);
                self.drive(id);
            }
            // It was deleted meanwhile, or it is not known whether Redis has it.
            Ok(()) => map.sweep = Sweep::Due,
            Err(error) => {
                tracing::info!(map = %id, %error, "what is skipped was not stored; trying again");
                map.sweep = Sweep::Due;
            }
        }
    }

    pub(super) fn end_skip(&mut self, id: &Arc<str>, map: &MapId) {
        let Some(open) = self.commands.open.get(id) else {
            return;
        };
        let command = open.command.clone();
        let Some(known) = self.maps.get(map) else { return };
        let Some(skip) = known.skips.iter().find(|skip| *skip.operation == **id) else {
            return;
        };
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
            _ if skip.selected == 0 && skip.only.is_none() => "Nothing waits in the queue.".to_owned(),
            _ if skip.selected == 0 => "Nothing that is selected waits in the queue.".to_owned(),
            Fate::Discard => {
                format!("{done} queued records were given up: they never reach the destination.")
            }
            Fate::Park => format!("{done} queued records were kept as errors: retry or discard them."),
        };
        if skip.selected > 0 {
            self.account_for(&command, QUEUE_SKIPPED, &message);
        }
        if let Some(open) = self.commands.open.get_mut(id) {
            open.work = Some(work);
        }
        let reason = "Completed";
        self.commands.say(id, Stand::Complete { reason, message });
    }
}

/// Nothing is done with what was counted.
fn only_counted(selected: u64) -> Work {
    let counts = Counts {
        selected,
        remaining: selected,
        ..Counts::default()
    };
    Work {
        counts,
        ..Work::begun()
    }
}

/// What is to be stored; or what there is to say, since there is nothing to do.
/// `parked` records wait as errors already.
fn begun(
    id: &Arc<str>,
    order: &OnQueue,
    counted: Counted,
    known: &[Skip],
    parked: u64,
) -> Result<Skip, Stand> {
    let Counted {
        selected,
        only,
        after,
        upto,
    } = counted;
    let complete = |reason, message| Err(Stand::Complete { reason, message });
    match (order.dry_run, order.fate, selected) {
        (true, ..) => complete(
            "DryRun",
            match only {
                None => format!("{selected} records wait in the queue; nothing was done."),
                Some(_) => format!("{selected} of the records in the queue are selected; nothing was done."),
            },
        ),
        (_, Fate::Park, 1..) if selected.saturating_add(parked) > MOST_PARKED => Err(failed(
            "TooMany",
            format!(
                "{selected} records would become errors, {parked} wait as errors already, and a map may have {MOST_PARKED}: \
                 discard some, or let the map catch up."
            ),
        )),
        (_, Fate::Park, PARKED_AND_ONE..) if only.is_some() => Err(failed(
            "TooMany",
            format!(
                "{selected} records are selected, and of those that are selected at most {PARKED} are kept as errors at \
                 once: select fewer, or all of them."
            ),
        )),
        // One that selects nothing is over at once; that is stored too, so that it is not begun again when more is queued.
        _ => Ok(Skip {
            fate: order.fate,
            after,
            upto: if selected == 0 { after } else { upto },
            selected,
            number: known.iter().map(|skip| skip.number + 1).max().unwrap_or(1),
            operation: id.to_string(),
            only,
        }),
    }
}

/// Records that were written before the replay knew of it were not skipped.
fn counts(map: &Map, skip: &Skip, is_over: bool) -> Counts {
    let progress = map.progress.as_ref();
    let skipped = progress.map_or(0, |progress| progress.skipped.of(&skip.operation));
    let completed = skipped.min(skip.selected);
    let selected = if is_over { completed } else { skip.selected };
    Counts {
        selected,
        completed,
        remaining: selected - completed,
        ..Counts::default()
    }
}
