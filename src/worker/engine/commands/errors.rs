//! What is done with parked records, as operations.

use super::{AGAIN, Engine, Next, SOON, Stand, failed, is_buffering, is_lost, waiting};
use crate::{
    api::reasons::{RECORDS_DISCARDED, RECORDS_RETRIED},
    destination::postgres::Progress,
    record::Position,
    worker::{
        command::{Act, Command, Ended, Job, JobError, Lent, OnErrors, Order, Teller, Work},
        engine::Event,
        map::{Map, MapId, Sweep},
        plan::Plan,
    },
};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Tells the engine how far a job is.
struct ToEngine {
    operation: Arc<str>,
    map: MapId,
    events: mpsc::UnboundedSender<Event>,
}

impl Teller for ToEngine {
    fn worked(&self, work: &Work) {
        let _ = self.events.send(Event::Worked {
            command: self.operation.clone(),
            work: work.clone(),
        });
    }

    fn given_up(&self, positions: Vec<Position>, all: u64) {
        let _ = self.events.send(Event::GivenUp {
            map: self.map.clone(),
            positions,
            all,
        });
    }
}

impl Engine {
    pub(super) fn next_on_errors(&self, id: &Arc<str>, plan: &Plan, order: &OnErrors) -> Next {
        let Some(map) = self.maps.get(&plan.id).filter(|map| map.has_joined()) else {
            return Next::Say(waiting("MapStarting", "The map has not started yet."));
        };
        if map.progress.is_none() {
            return Next::Say(waiting("MapStarting", "The destination was not reached yet."));
        }
        if self.commands.is_busy(&plan.id) || map.errors.purging {
            return Next::Say(waiting("Queued", "Another operation on the map comes first."));
        }
        // What is being skipped may become errors: it is not chosen from half of them.
        let is_skipping = !map.skips.is_empty() && !map.gate.wanted() && map.unusable.is_none();
        if is_skipping {
            return Next::Say(waiting("Queued", "What is queued is being skipped first."));
        }
        let map = plan.id.clone();
        let is_chosen = self.commands.open.get(id).is_some_and(|open| open.work.is_some());
        match self.maps.get(&map).and_then(|map| keeps_waiting(map, order)) {
            None => Next::Begin { map, stand: None },
            // What it takes is what there is when it is asked for, not when the map may write again.
            Some(Keeps {
                stand,
                may_choose: true,
            }) if !is_chosen => Next::Begin {
                map,
                stand: Some(stand),
            },
            Some(Keeps { stand, .. }) => Next::Say(stand),
        }
    }

    /// Carries it out; or, if it has to wait, chooses what it takes, and says why.
    pub(super) fn begin_job(&mut self, id: &Arc<str>, map: &MapId, waits: Option<Stand>) {
        let Some(open) = self.commands.open.get(id) else {
            return;
        };
        let (Order::Errors(order), Some(known)) = (open.command.order.clone(), self.maps.get(map)) else {
            return;
        };
        let lane = self.lanes.get(&known.plan.destination).filter(|_| order.writes());
        let job = Job {
            operation: id.clone(),
            queue: known.queue.clone(),
            has: known.progress.as_ref().map(Progress::has).unwrap_or_default(),
            lane: lane.map(|seating| Lent {
                orders: seating.lane.orders(),
                seat: known.seat,
            }),
            work: open.work.clone().unwrap_or_else(Work::begun),
            only_chooses: waits.is_some(),
            first: None,
            cancelled: self.commands.begins(id, map),
            teller: ToEngine {
                operation: id.clone(),
                map: map.clone(),
                events: self.events.clone(),
            },
            order,
        };
        let message = match job.order.act {
            Act::Retry => format!(
                "The selected records are written to {} again.",
                known.plan.destination
            ),
            Act::Discard => "The selected records are given up.".to_owned(),
        };
        self.commands.say(id, waits.unwrap_or(Stand::Running { message }));
        let (command, map) = (id.clone(), map.clone());
        self.spawn(async move {
            let result = job.run().await;
            Event::JobEnded { command, map, result }
        });
    }

    pub(in crate::worker::engine) fn job_ended(
        &mut self,
        id: &Arc<str>,
        map: &MapId,
        result: Result<Ended, JobError>,
    ) {
        self.commands.jobs.remove(map);
        if let Some(map) = self.maps.get_mut(map) {
            map.errors.look_again();
        }
        let Some(open) = self.commands.open.get(id) else {
            // It was deleted meanwhile.
            if let Some(map) = self.maps.get_mut(map) {
                map.sweep = Sweep::Due;
            }
            return;
        };
        let command = open.command.clone();
        match result {
            Ok(Ended::Complete(work)) => self.complete(&command, work),
            Ok(Ended::Chosen(work)) => self.commands.say_work(id, work),
            Ok(Ended::Interrupted(work)) => {
                self.commands.say_work(id, work);
                self.commands.again_later(id, SOON);
            }
            Ok(Ended::Cancelled) => {}
            Err(JobError::Queue(error)) => {
                if matches!(&command.order, Order::Errors(order) if order.act == Act::Discard) {
                    self.doubt(map);
                }
                self.commands.say(id, waiting("Unreachable", &error.to_string()));
                self.commands.again_later(id, AGAIN);
            }
            Err(error @ JobError::TooMany(..)) => {
                self.commands.say(id, failed("TooMany", error.to_string()));
            }
            Err(error @ JobError::Match(_)) => {
                self.commands
                    .say(id, failed("SelectionFailed", error.to_string()));
            }
        }
    }

    fn complete(&mut self, command: &Command, work: Work) {
        let Order::Errors(order) = &command.order else {
            return;
        };
        let counts = work.counts;
        let (reason, message) = match (order.dry_run, order.act, counts.failed) {
            (true, ..) => (
                "DryRun",
                format!("{} records are selected; nothing was done.", counts.selected),
            ),
            (_, Act::Retry, 0) => (
                "Completed",
                format!(
                    "Of {} records {} are written, and {} were replaced by newer ones before.",
                    counts.selected, counts.completed, counts.superseded
                ),
            ),
            (_, Act::Retry, failed) => (
                "CompletedWithFailures",
                format!(
                    "Of {} records {} are written, and {failed} were refused again: look at status.failures, mend the cause, \
                     and retry those.",
                    counts.selected, counts.completed
                ),
            ),
            (_, Act::Discard, _) => (
                "Completed",
                format!("{} records were given up.", counts.completed),
            ),
        };
        if !order.dry_run {
            let event = match order.act {
                Act::Retry => RECORDS_RETRIED,
                Act::Discard => RECORDS_DISCARDED,
            };
            self.account_for(command, event, &message);
        }
        if let Some(open) = self.commands.open.get_mut(&command.id) {
            open.work = Some(work);
        }
        self.commands
            .say(&command.id, Stand::Complete { reason, message });
    }

    pub(in crate::worker::engine) fn worked(&mut self, id: &Arc<str>, work: Work) {
        if self.commands.is_running(id) {
            self.commands.say_work(id, work);
        }
    }

    /// Records were given up: they are parked no more.
    pub(in crate::worker::engine) fn given_up(&mut self, id: &MapId, positions: Vec<Position>, all: u64) {
        let Some(map) = self.maps.get_mut(id) else { return };
        map.errors.given_up = map.errors.given_up.max(all);
        map.errors.look_again();
        self.forget_parked(id, positions);
        self.report(id);
    }

    /// It was deleted: it ends with the part that is under way.
    pub(super) fn cancel_job(&mut self, command: &Command) {
        let job = self
            .commands
            .jobs
            .values()
            .find(|job| job.operation == command.id);
        match job {
            Some(job) => job.cancel.cancel(),
            None => self.sweep_again(&command.map),
        }
    }
}

/// Why an operation cannot begin, or go on, now.
struct Keeps {
    stand: Stand,
    /// What it takes may be chosen all the same.
    may_choose: bool,
}

fn keeps_waiting(map: &Map, order: &OnErrors) -> Option<Keeps> {
    let gate = &map.gate;
    let keep = |may_choose| move |stand| Keeps { stand, may_choose };
    if let Some(keeps) = is_lost(map).map(keep(false)) {
        return Some(keeps);
    }
    if !order.writes() {
        return None;
    }
    if gate.wanted() {
        let message = "A pause holds the map: nothing is written before it is resumed.";
        return Some(keep(true)(waiting("MapPaused", message)));
    }
    if let Some(keeps) = is_buffering(map).map(keep(true)) {
        return Some(keeps);
    }
    if !gate.is_direct() && !gate.draining() {
        let message = "The map is on its way to its destination.";
        return Some(keep(true)(waiting("MapStarting", message)));
    }
    None
}
