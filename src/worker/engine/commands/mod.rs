//! Operations that people have asked for, each when its map is ready for it: one at a time for a map.

mod errors;
mod gap;
mod queue;
mod resume;

use super::{Engine, Event};
use crate::{
    queue::{Queue, QueueError},
    record::{Lsn, Skip},
    worker::{
        command::{Command, Counted, Order, Said, Stand, Work},
        map::{Map, MapId, Sweep},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The operations that have not ended.
pub struct Commands {
    said: mpsc::UnboundedSender<Said>,
    open: BTreeMap<Arc<str>, Open>,
    /// So many have been told of.
    arrived: u64,
    /// Those that have ended: what is still told of them is older than their end.
    ended: BTreeSet<Arc<str>>,
    /// Those of them whose end is not known to be written.
    unsaid: BTreeSet<Arc<str>>,
    /// All that were there when the worker began are known.
    listed: bool,
    /// Maps for which Redis is being told which of them there are.
    sweeping: BTreeSet<MapId>,
    /// A gap that is being accepted: one at a time, since it may make a slot.
    accepting: Option<Arc<str>>,
    /// What is done with parked records, or counted of queued ones.
    jobs: BTreeMap<MapId, Running>,
}

/// One operation.
struct Open {
    command: Command,
    /// Of those that were made in one second, which came first.
    arrival: u64,
    stand: Option<Stand>,
    work: Option<Work>,
    retry_at: Option<Instant>,
}

/// One that is being carried out beside the engine.
struct Running {
    operation: Arc<str>,
    cancel: CancellationToken,
}

/// What could not be done is tried again after this.
const AGAIN: Duration = Duration::from_secs(5);
/// What was interrupted goes on after this; and so often it is told how far it is.
const SOON: Duration = Duration::from_secs(1);

impl Commands {
    #[must_use]
    pub fn new(said: mpsc::UnboundedSender<Said>) -> Self {
        Self {
            said,
            open: BTreeMap::new(),
            ended: BTreeSet::new(),
            unsaid: BTreeSet::new(),
            listed: false,
            sweeping: BTreeSet::new(),
            arrived: 0,
            accepting: None,
            jobs: BTreeMap::new(),
        }
    }

    fn say(&mut self, id: &str, stand: Stand) {
        let Some(open) = self.open.get_mut(id) else { return };
        if open.stand.as_ref() != Some(&stand) {
            open.stand = Some(stand);
            self.tell(id);
        }
    }

    /// How far the work is.
    fn say_work(&mut self, id: &str, work: Work) {
        let Some(open) = self.open.get_mut(id) else { return };
        if open.work.as_ref() != Some(&work) {
            open.work = Some(work);
            self.tell(id);
        }
    }

    fn tell(&mut self, id: &str) {
        let Some(open) = self.open.get(id) else { return };
        let Some(stand) = open.stand.clone() else { return };
        let said = Said {
            command: open.command.clone(),
            stand,
            work: open.work.clone(),
        };
        if said.stand.is_end() {
            self.open.remove(id);
            self.ended.insert(id.into());
            self.unsaid.insert(id.into());
        }
        let _ = self.said.send(said);
    }

    /// What is to be looked at, in the order in which it was asked for: what waits for a moment holds the later ones of its
    /// map.
    fn due(&self, now: Instant) -> Vec<Arc<str>> {
        let mut open: Vec<(&Arc<str>, &Open)> = self.open.iter().collect();
        open.sort_unstable_by_key(|(_, open)| (open.command.created, open.arrival));
        let mut held: BTreeSet<&str> = BTreeSet::new();
        let mut due = Vec::new();
        for (id, open) in open {
            let map = open.command.map.as_str();
            if open.retry_at.is_some_and(|at| at > now) {
                held.insert(map);
            } else if !held.contains(map) && !self.is_running(id) {
                due.push(id.clone());
            }
        }
        due
    }

    fn is_running(&self, id: &Arc<str>) -> bool {
        self.accepting.as_ref() == Some(id) || self.jobs.values().any(|job| job.operation == *id)
    }

    /// An operation begins on a map. Returns how it is told to end.
    fn begins(&mut self, operation: &Arc<str>, map: &MapId) -> CancellationToken {
        let running = Running {
            operation: operation.clone(),
            cancel: CancellationToken::new(),
        };
        let cancel = running.cancel.clone();
        self.jobs.insert(map.clone(), running);
        cancel
    }

    /// Whether another operation comes first.
    pub(super) fn is_busy(&self, map: &MapId) -> bool {
        self.accepting.is_some() || self.jobs.contains_key(map)
    }

    /// Whether something is to be skipped of a map of which Redis does not know yet: nothing is written before.
    pub(super) fn is_to_skip(&self, map: &str, known: &[Skip]) -> bool {
        let is_known = |id: &Arc<str>| known.iter().any(|skip| *skip.operation == **id);
        let asked = self.open.iter().filter(|(_, open)| open.command.map == map);
        let mut skips =
            asked.filter(|(_, open)| matches!(&open.command.order, Order::Queue(order) if !order.dry_run));
        skips.any(|(id, _)| !is_known(id))
    }

    fn again_later(&mut self, id: &str, after: Duration) {
        if let Some(open) = self.open.get_mut(id) {
            open.retry_at = Some(Instant::now() + after);
        }
    }
}

/// What there is to do for an operation.
enum Next {
    /// Another worker's.
    Nothing,
    Say(Stand),
    Accept {
        map: MapId,
        lost_after: Lsn,
    },
    /// Begins; or, where it has to wait, only chooses.
    Begin {
        map: MapId,
        stand: Option<Stand>,
    },
    /// Says how far it is.
    Work(Work),
    /// Counts what is meant of the queue.
    Count {
        map: MapId,
    },
    /// It is known how many are meant.
    Counted {
        map: MapId,
        counted: Counted,
    },
    /// All that is skipped has passed.
    Skipped {
        map: MapId,
    },
    /// The pauses of rules end,
    Resume {
        map: MapId,
    },
    /// and that is stored.
    Resumed {
        map: MapId,
    },
}

impl Engine {
    pub(super) fn commanded(&mut self, command: Command) {
        let id = command.id.clone();
        if self.commands.ended.contains(&id) {
            return;
        }
        self.commands.arrived += 1;
        let arrival = self.commands.arrived;
        self.commands.open.entry(id).or_insert(Open {
            command,
            arrival,
            stand: None,
            work: None,
            retry_at: None,
        });
        self.look_at_commands(Instant::now());
    }

    /// An operation was deleted. A gap that is being accepted is accepted all the same.
    pub(super) fn taken_back(&mut self, id: &str) {
        self.commands.ended.remove(id);
        self.finished(id);
    }

    /// If somebody else has ended an operation, it does not begin, or go on. What has ended here stays known: a late write may
    /// make it look open again.
    pub(super) fn finished(&mut self, id: &str) {
        if let Some(open) = self.commands.open.remove(id) {
            self.cancel_job(&open.command);
        }
    }

    /// What is not in the list was deleted.
    pub(super) fn commands_listed(&mut self, all: &BTreeSet<Arc<str>>) {
        self.commands.listed = true;
        let known = self.commands.open.keys().chain(&self.commands.ended);
        let gone: Vec<Arc<str>> = known.filter(|id| !all.contains(*id)).cloned().collect();
        for id in gone {
            self.taken_back(&id);
        }
    }

    /// The end of an operation is written: nothing of it need be remembered.
    pub(super) fn end_said(&mut self, command: &Command) {
        self.commands.unsaid.remove(&command.id);
        self.sweep_again(&command.map);
    }

    fn sweep_again(&mut self, name: &str) {
        let of = |map: &&mut Map| map.plan.name == name;
        if let Some(map) = self.maps.values_mut().find(of) {
            map.sweep = Sweep::Due;
        }
    }

    /// Redis remembers operations that have ended, or were deleted while no worker ran: nothing is theirs any more. One that
    /// went back has forgotten what is skipped: the positions are as right as before.
    fn sweep(&mut self) {
        if !self.commands.listed {
            return;
        }
        let known = self.commands.open.keys().chain(&self.commands.unsaid);
        let open: Vec<Arc<str>> = known.cloned().collect();
        let unswept = self
            .maps
            .values()
            .filter(|map| map.has_joined() && map.sweep != Sweep::Done);
        let due: Vec<(MapId, Queue, Vec<Skip>)> = unswept
            .filter(|map| !self.commands.sweeping.contains(&map.id))
            .map(|map| (map.id.clone(), map.queue.clone(), map.skips.clone()))
            .collect();
        for (map, queue, skips) in due {
            self.commands.sweeping.insert(map.clone());
            if let Some(map) = self.maps.get_mut(&map) {
                map.sweep = Sweep::UnderWay;
            }
            let open = open.clone();
            self.spawn(async move {
                let result = remember(&queue, &skips, &open).await;
                // Not again at once.
                if result.is_err() {
                    tokio::time::sleep(AGAIN).await;
                }
                Event::Swept { map, result }
            });
        }
    }

    pub(super) fn swept(&mut self, id: &MapId, result: &Result<(), QueueError>) {
        self.commands.sweeping.remove(id);
        let Commands { open, unsaid, .. } = &self.commands;
        let Some(map) = self.maps.get_mut(id) else { return };
        if let Err(error) = result {
            map.sweep = Sweep::Due;
            return tracing::info!(map = %map.plan.name, %error, "old operations are still remembered");
        }
        // One may have ended since it began.
        if map.sweep == Sweep::UnderWay {
            map.sweep = Sweep::Done;
        }
        let is_known = |skip: &Skip| open.contains_key(&*skip.operation) || unsaid.contains(&*skip.operation);
        let before = map.skips.len();
        map.skips.retain(is_known);
        if map.skips.len() < before {
            map.gate.reread();
            self.drive(id);
        }
    }

    pub(super) fn look_at_commands(&mut self, now: Instant) {
        self.sweep();
        for id in self.commands.due(now) {
            match self.next(&id) {
                Next::Nothing => {}
                Next::Say(stand) => self.commands.say(&id, stand),
                Next::Accept { map, lost_after } => self.accept(&id, &map, lost_after),
                Next::Begin { map, stand } => self.begin_job(&id, &map, stand),
                Next::Work(work) => {
                    self.commands.say_work(&id, work);
                    self.commands.again_later(&id, SOON);
                }
                Next::Count { map } => self.begin_count(&id, &map),
                Next::Counted { map, counted } => self.counted(&id, &map, Ok(counted)),
                Next::Skipped { map } => self.end_skip(&id, &map),
                Next::Resume { map } => self.resume_by(&id, &map),
                Next::Resumed { map } => self.resumed(&id, &map),
            }
        }
    }

    fn next(&self, id: &Arc<str>) -> Next {
        let Some(open) = self.commands.open.get(id) else {
            return Next::Nothing;
        };
        let Some(plan) = self.plans.values().find(|plan| plan.name == open.command.map) else {
            return Next::Nothing;
        };
        // A rule may hold what a deletion has still to write.
        let is_resume = matches!(open.command.order, Order::Resume);
        if plan.deletion.is_some() && !is_resume {
            return Next::Say(failed("MapDeleted", "The map is being deleted.".into()));
        }
        let unswept = |map: &Map| map.has_joined() && map.sweep != Sweep::Done;
        let on_gap = matches!(open.command.order, Order::AcceptGap { .. });
        if !on_gap && self.maps.get(&plan.id).is_some_and(unswept) {
            return Next::Say(waiting("Queued", "What came before is still being ended."));
        }
        match &open.command.order {
            Order::AcceptGap { lost_after } => self.next_of_gap(id, plan, *lost_after),
            Order::Errors(order) => self.next_on_errors(id, plan, order),
            Order::Queue(order) => self.next_on_queue(id, plan, order),
            Order::Resume => self.next_of_resume(id, plan),
            Order::Unfit { message } => Next::Say(failed("SelectionInvalid", message.clone())),
        }
    }
}

impl Engine {
    /// An operation has ended: who asked for it, and what came of it.
    fn account_for(&self, command: &Command, reason: &'static str, message: &str) {
        let by = command.requested_by.as_deref().unwrap_or("unknown");
        tracing::info!(operation = %command.name, map = %command.map, reason, by, message, "an operation has ended");
        if let Some(plan) = self.plans.values().find(|plan| plan.name == command.map) {
            let note = format!("Operation {}, asked for by {by}: {message}", command.name);
            let operation = (command.name.clone(), command.id.to_string());
            self.statuses.note_of_operation(plan, reason, note, operation);
        }
    }
}

async fn remember(queue: &Queue, skips: &[Skip], open: &[Arc<str>]) -> Result<(), QueueError> {
    for skip in skips {
        queue.skip_queued(skip).await?;
    }
    queue.keep_operations(open).await
}

/// Of a map whose changes are lost nothing is written, and nothing is skipped.
fn is_lost(map: &Map) -> Option<Stand> {
    let blocked = map.blocked.as_ref().filter(|blocked| blocked.is_loss())?;
    let message = format!("The map is blocked. {}", blocked.message());
    Some(waiting("MapBlocked", &message))
}

fn is_buffering(map: &Map) -> Option<Stand> {
    let unusable = map.unusable.as_ref()?;
    let message = format!("The destination cannot be written now. {}", unusable.message);
    Some(waiting("MapBuffering", &message))
}

fn failed(reason: &'static str, message: String) -> Stand {
    Stand::Failed { reason, message }
}

fn waiting(reason: &'static str, message: &str) -> Stand {
    Stand::Waiting {
        reason,
        message: message.to_owned(),
    }
}
