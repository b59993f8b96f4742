//! What is done with parked records, as operations.

use super::{AGAIN, Engine, Next, Running, SOON, Stand, failed, waiting};
use crate::{
    api::reasons::{RECORDS_DISCARDED, RECORDS_RETRIED},
    destination::postgres::Progress,
    record::Position,
    worker::{
        command::{Act, Command, Ended, Job, JobError, Lent, OnErrors, Order, Teller, Work},
        engine::Event,
        map::{Map, MapId},
        plan::Plan,
    },
};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

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
    pub(super) fn next_on_errors(&self, plan: &Plan, order: &OnErrors) -> Next {
        let Some(map) = self.maps.get(&plan.id).filter(|map| map.has_joined()) else {
            return Next::Say(waiting("MapStarting", "The map has not started yet."));
        };
        if map.progress.is_none() {
            return Next::Say(waiting("MapStarting", "The destination was not reached yet."));
        }
        if self.commands.is_busy(&plan.id) || map.errors.purging {
            return Next::Say(waiting("Queued", "Another operation on the map comes first."));
        }
        let begin = || Next::Begin { map: plan.id.clone() };
        keeps_waiting(map, order).map_or_else(begin, Next::Say)
    }

    pub(super) fn begin_job(&mut self, id: &Arc<str>, map: &MapId) {
        let Some(open) = self.commands.open.get(id) else {
            return;
        };
        let (Order::Errors(order), Some(known)) = (open.command.order.clone(), self.maps.get(map)) else {
            return;
        };
        let lane = self.lanes.get(&known.plan.destination).filter(|_| order.writes());
        let cancel = CancellationToken::new();
        let job = Job {
            operation: id.clone(),
            queue: known.queue.clone(),
            has: known.progress.as_ref().map(Progress::has).unwrap_or_default(),
            lane: lane.map(|seating| Lent {
                orders: seating.lane.orders(),
                seat: known.seat,
            }),
            work: open.work.clone().unwrap_or_else(Work::begun),
            first: None,
            cancelled: cancel.clone(),
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
        let operation = id.clone();
        self.commands
            .jobs
            .insert(map.clone(), Running { operation, cancel });
        self.commands.say(id, Stand::Running { message });
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
                map.swept = false;
            }
            return;
        };
        let command = open.command.clone();
        match result {
            Ok(Ended::Complete(work)) => self.complete(&command, work),
            Ok(Ended::Interrupted(work)) => {
                self.commands.say_work(id, work);
                self.commands.again_later(id, SOON);
            }
            Ok(Ended::Cancelled) => {}
            Err(JobError::Queue(error)) => {
                self.commands.say(id, waiting("Unreachable", &error.to_string()));
                self.commands.again_later(id, AGAIN);
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
fn keeps_waiting(map: &Map, order: &OnErrors) -> Option<Stand> {
    let gate = &map.gate;
    let say = |reason, message: String| Some(Stand::Waiting { reason, message });
    if let Some(blocked) = map.blocked.as_ref().filter(|blocked| blocked.is_loss()) {
        return say("MapBlocked", format!("The map is blocked. {}", blocked.message()));
    }
    if !order.writes() {
        return None;
    }
    if gate.wanted() {
        let message = "A pause holds the map: nothing is written before it is resumed.";
        return say("MapPaused", message.into());
    }
    if let Some(unusable) = &map.unusable {
        let message = format!("The destination cannot be written now. {}", unusable.message);
        return say("MapBuffering", message);
    }
    if !gate.is_direct() && !gate.draining() {
        let message = "The map is on its way to its destination.";
        return say("MapStarting", message.into());
    }
    None
}
