//! Carries out the gate's steps.

use super::{
    Engine, Event, Seating,
    effects::{self, Checked, Closed},
    event::CheckFailure,
};
use crate::{
    destination::postgres::{Item, LaneError, Progress, Skips},
    failpoint,
    gate::{Outcome, Step},
    queue::Counts,
    record::Position,
    trace,
    worker::{
        budget::Share,
        lane::{Evicted, Lane, Order},
        map::{CatchUp, Counting, Map, MapId, Sweep, Unusable, UnusableKind},
    },
};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// A replay that waits for old operations to be forgotten begins after this.
const UNSWEPT: Duration = Duration::from_millis(200);
/// One that cannot tell what is skipped asks again after this.
const UNREADABLE: Duration = Duration::from_secs(10);

impl Engine {
    /// Takes every step that is due for a map, and reports what has changed.
    pub(super) fn drive(&mut self, id: &MapId) {
        loop {
            let Some(map) = self.maps.get_mut(id).filter(|map| map.has_joined()) else {
                return;
            };
            if map.retry_at.is_some() {
                break;
            }
            let Some(step) = map.gate.step() else { break };
            tracing::debug!(map = %map.plan.name, ?step, "step");
            self.carry_out(id, step);
        }
        self.report(id);
    }

    pub(super) fn carry_out(&mut self, id: &MapId, step: Step) {
        match step {
            Step::Leave | Step::Halt | Step::Fence => self.close(id, step),
            Step::Record | Step::Forget => self.mark(id, step),
            Step::Show => self.done(id, step, Outcome::Done),
            Step::Open => self.open(id),
            Step::Check => self.check(id),
            Step::Drain => self.drain(id),
            Step::Cut => self.cut(id),
            Step::Back => self.back(id),
            // Taken for all maps of a lane at once: see `cutover`.
            Step::Direct => self.done(id, step, Outcome::Failed),
        }
    }

    pub(super) fn done(&mut self, id: &MapId, step: Step, outcome: Outcome) {
        let retry = self.pace.retry;
        let Some(map) = self.maps.get_mut(id) else { return };
        map.gate.done(step, outcome);
        let again =
            matches!(outcome, Outcome::Failed) || (step == Step::Fence && outcome == Outcome::NotFenced);
        map.retry_at = again.then(|| Instant::now() + retry);
    }

    /// Takes the map out of its lane; raises its token if a pause is wanted; begins its queue (rules 5 and 2).
    fn close(&mut self, id: &MapId, step: Step) {
        let Some(map) = self.maps.get(id) else { return };
        let wanted = map.gate.wanted();
        let (plan, epoch, queue) = (map.plan.clone(), map.epoch, map.queue.clone());
        let known = map.progress.clone();
        let (falls, counting) = (map.falls, map.counting);
        // None until the source was looked at: a queue that begins without the destination begins there.
        let floor = Some(map.forgotten(self.link.confirmed())).filter(|floor| *floor > Position::ZERO);
        let evicted = self.evict(id);
        let map = id.clone();
        self.spawn(async move {
            if wanted {
                failpoint::hit("pausing");
            }
            // One after the other: a lane that is just connecting would raise the token once more.
            let evicted = evicted.await;
            let raised = if wanted {
                let span = trace::span!("destination.fence", map = %plan.name, epoch);
                Some(trace::within(span, effects::fence(&plan, epoch)).await)
            } else {
                None
            };
            let (fenced, failure) = match raised {
                Some(Ok(fenced)) => (Some(fenced), None),
                Some(Err(failure)) => (None, Some(failure)),
                None => (None, None),
            };
            let base = base(fenced.as_ref(), evicted.flushed.as_ref(), known.as_ref());
            let begun = effects::begin(&queue, step == Step::Leave, base.as_ref(), floor).await;
            let closed = Closed {
                fenced,
                failure,
                begun,
                falls,
                counting,
            };
            Event::Closed {
                map,
                step,
                evicted: Box::new(evicted),
                closed: Box::new(closed),
            }
        });
    }

    /// Orders the lane to give a map back.
    pub(super) fn evict(&mut self, id: &MapId) -> impl Future<Output = Evicted> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        let map = self.maps.get(id);
        let seating = map.and_then(|map| self.lanes.get(&map.plan.destination));
        if let (Some(seating), Some(map)) = (seating, map) {
            seating.lane.order(Order::Evict {
                seat: map.seat,
                reply,
            });
        }
        async move {
            answer.await.unwrap_or(Evicted {
                flushed: None,
                leftover: Vec::new(),
            })
        }
    }

    pub(super) fn closed(&mut self, id: &MapId, step: Step, evicted: Evicted, closed: Closed) {
        let Some(map) = self.maps.get_mut(id) else { return };
        let flushed = evicted.flushed.iter().chain(&map.progress);
        let flushed = flushed.map(|known| known.position).max();
        // The fence is the first to see a destination that was put back: what it lacks is sent again, or missing.
        let went_back = closed
            .fenced
            .as_ref()
            .is_some_and(|fenced| Some(fenced.position) < flushed);
        match (&closed.fenced, &evicted.flushed) {
            (Some(fenced), _) => adopt(map, fenced.clone()),
            (None, Some(flushed)) => advance(map, flushed.clone()),
            (None, None) => {}
        }
        let begun = match closed.begun {
            Ok(begun) => begun,
            // What the lane gave up, and the fence, hold all the same.
            Err(error) => {
                let outcome = match (step, closed.fenced.is_some()) {
                    (Step::Leave, true) => Outcome::FencedOnly,
                    (Step::Leave, false) => Outcome::Failed,
                    (_, fenced) => halted(fenced, map.gate.wanted()),
                };
                self.done(id, step, outcome);
                self.not_fenced(id, closed.failure);
                self.write_failed(id, &error);
                return self.drive(id);
            }
        };
        // What was taken before the destination was known was counted without it, and may be there already; and a queue that
        // does not know what was counted before it counts from its beginning, whatever the map does (I5).
        let is_since = closed.counting == Counting::SinceBeginning;
        let counts_anew = match begun.counts {
            Counts::Unknown => true,
            Counts::At(_) => closed.counting != Counting::FromBoth,
            Counts::GoOn => begun.account.base.is_none() && !is_since,
        };
        map.restock(&begun.account, Some(begun.partial));
        let outcome = halted(closed.fenced.is_some(), map.gate.wanted());
        match step {
            Step::Leave if map.blocked.is_some() || counts_anew || went_back => self.fall_back(id),
            // What the map fell back over meanwhile is sent again.
            Step::Leave if map.falls != closed.falls => requeue_held(map, Position::ZERO),
            Step::Leave => requeue(map, evicted),
            _ => {}
        }
        self.done(id, step, outcome);
        self.not_fenced(id, closed.failure);
        self.pump(id);
        self.drive(id);
    }

    /// The fence is tried again; meanwhile a person is told what is wrong. Other trouble than the destination's is said first.
    fn not_fenced(&mut self, id: &MapId, failure: Option<LaneError>) {
        let Some(map) = self.maps.get_mut(id) else { return };
        map.unfenced = failure.as_ref().map(ToString::to_string);
        let Some(failure) = failure else { return };
        tracing::warn!(map = %map.plan.name, %failure, "the destination could not be fenced; trying again");
        if map.unusable.as_ref().is_none_or(Unusable::is_of_destination) {
            self.check_failed(id, CheckFailure::Away(failure));
        }
    }

    /// Remembers or forgets the fence in Redis.
    fn mark(&mut self, id: &MapId, step: Step) {
        let Some(map) = self.maps.get(id) else { return };
        let queue = map.queue.clone();
        let token = map.progress.as_ref().map_or(0, |progress| progress.token);
        let map = id.clone();
        self.spawn(async move {
            let ended = match step {
                Step::Record => queue.set_fenced(token).await,
                _ => queue.clear_fenced().await,
            };
            Event::Stepped {
                map,
                step,
                ended: ended.map_err(|error| error.to_string()),
            }
        });
    }

    pub(super) fn stepped(&mut self, id: &MapId, step: Step, ended: Result<(), String>) {
        let outcome = match ended {
            Ok(()) => Outcome::Done,
            Err(error) => {
                tracing::warn!(map = %id, ?step, %error, "a step failed; trying again");
                Outcome::Failed
            }
        };
        self.done(id, step, outcome);
        self.drive(id);
    }

    /// Opening: the status must be seen written before the gate opens (rule 6).
    fn open(&mut self, id: &MapId) {
        let Some(facts) = self.maps.get(id).map(|map| self.facts(map)) else {
            return;
        };
        let version = self.statuses.say_now(id, facts);
        if let Some(map) = self.maps.get_mut(id) {
            map.awaited = version;
        }
    }

    pub(super) fn status_written(&mut self, id: &MapId, version: u64) {
        let opening = self
            .maps
            .get(id)
            .is_some_and(|map| map.gate.busy() == Some(Step::Open) && version >= map.awaited);
        if opening {
            self.done(id, Step::Open, Outcome::Done);
            self.drive(id);
        }
    }

    fn check(&mut self, id: &MapId) {
        let Some(map) = self.maps.get(id) else { return };
        let (plan, epoch, queue) = (map.plan.clone(), map.epoch, map.queue.clone());
        let confirmed = map.forgotten(self.link.confirmed());
        let turn = self.turn(&plan.destination);
        let map = id.clone();
        self.spawn(async move {
            let _turn = turn.await;
            let span = trace::span!("destination.check", map = %plan.name, epoch);
            let result = trace::within(span, effects::check(plan, epoch, queue, confirmed)).await;
            Event::Checked {
                map,
                result: result.map(Box::new),
            }
        });
    }

    pub(super) fn checked(&mut self, id: &MapId, result: Result<Box<Checked>, CheckFailure>) {
        let Some(map) = self.maps.get_mut(id) else { return };
        match result {
            Ok(checked) => {
                let Checked {
                    target,
                    partial,
                    meta,
                } = *checked;
                map.restock(&meta.account, Some(partial));
                map.errors.learn(&meta);
                map.destination = meta.destination;
                adopt(map, target.progress.clone());
                if map.counting == Counting::FromQueue {
                    map.counting = Counting::FromBoth;
                }
                map.unsafe_log = target.shape.unsafe_log;
                map.target = Some(target);
                match map.check(self.link.confirmed()) {
                    Ok(()) => {
                        let away = |unusable: &Unusable| unusable.kind != UnusableKind::SourceUnfit;
                        if map.unusable.as_ref().is_some_and(away) {
                            map.unusable = None;
                            map.gate.set_usable(true);
                        }
                        self.done(id, Step::Check, Outcome::Done);
                        if let Some(map) = self.maps.get_mut(id) {
                            map.looked.destination |= map.gate.is_checked();
                        }
                    }
                    Err(gap) => {
                        self.done(id, Step::Check, Outcome::Failed);
                        self.lose(id, gap);
                    }
                }
            }
            Err(failure) => {
                self.done(id, Step::Check, Outcome::Failed);
                self.check_failed(id, failure);
            }
        }
        self.drive(id);
    }

    pub(super) fn check_failed(&mut self, id: &MapId, failure: CheckFailure) {
        let other = match Unusable::try_from(failure) {
            Ok(unusable) => return self.unusable(id, unusable),
            Err(other) => other,
        };
        match other {
            CheckFailure::Queue(error) => self.queue_failed(id, &error),
            CheckFailure::Lost(blocked) => self.block(id, blocked),
            // It has what is queued: that does not wait any more, and what comes again is taken.
            CheckFailure::NotCounted(progress) => {
                if let Some(map) = self.maps.get_mut(id) {
                    adopt(map, *progress);
                }
            }
            CheckFailure::SourceNotSeen | CheckFailure::Away(_) | CheckFailure::Unfit(_) => {}
        }
    }

    /// Replays the queue's head through the lane.
    fn drain(&mut self, id: &MapId) {
        let Some(map) = self.maps.get_mut(id) else { return };
        // Whether what is skipped is still to be must be known first.
        let is_asked = self.commands.is_to_skip(&map.plan.name, &map.skips);
        if is_asked || !map.skips.is_empty() && map.sweep != Sweep::Done {
            map.gate.done(Step::Drain, Outcome::Failed);
            map.retry_at = Some(Instant::now() + UNSWEPT);
            return;
        }
        let skips = match Skips::of(&map.skips) {
            Ok(skips) => skips,
            // Nothing is written that may have to be skipped. A newer worker has stored it: the expression was tried.
            Err(error) => {
                tracing::warn!(map = %map.plan.name, %error, "what is skipped cannot be read: delete the operation");
                map.gate.done(Step::Drain, Outcome::Failed);
                map.retry_at = Some(Instant::now() + UNREADABLE);
                return;
            }
        };
        let Some(mut target) = map.target.take() else {
            map.gate.done(Step::Drain, Outcome::Failed);
            map.gate.recheck();
            return;
        };
        target.set_skips(skips);
        self.ensure_seat(id);
        let Some(map) = self.maps.get_mut(id) else { return };
        map.catch_up = Some(CatchUp {
            since: jiff::Timestamp::now().as_microsecond(),
            started: Instant::now(),
            written_before: target.progress.written,
            parks_before: target.progress.parks,
            received_before: map.counters.received,
        });
        let Some(seating) = self.lanes.get(&map.plan.destination) else {
            return;
        };
        map.tell_tail(self.through);
        map.comes = None;
        map.unbegun = true;
        self.arrived = Some(Instant::now());
        seating.lane.order(Order::Replay {
            seat: map.seat,
            target: Box::new(target),
            queue: map.queue.clone(),
            tail: map.tail.subscribe(),
            base: map.stock.account.base.unwrap_or_default(),
            // What is skipped whole costs the destination nothing; once that is over the map reads again, capped.
            cap: map
                .plan
                .cap
                .filter(|_| map.skips.iter().all(|skip| skip.only.is_some())),
            ramps: std::mem::take(&mut map.outage.returns),
            most: map.ruling.trial,
        });
        self.done(id, Step::Drain, Outcome::Done);
        self.call_those_that_wait_for(id);
        self.begin_replays();
    }

    fn cut(&mut self, id: &MapId) {
        if let Some(map) = self.maps.get_mut(id) {
            self.cutovers += usize::from(map.cutover_since.is_none());
            map.cutover_since = Some(Instant::now());
        }
        self.done(id, Step::Cut, Outcome::Done);
    }

    /// The cutover did not come about: what was held goes to the queue's tail.
    fn back(&mut self, id: &MapId) {
        if let Some(map) = self.maps.get_mut(id) {
            let (account, flushed) = (
                &map.stock.account,
                map.progress.as_ref().map(|known| known.position),
            );
            tracing::debug!(
                map = %map.plan.name, records = account.records, last = %account.last, ?flushed,
                appending = !map.appender.is_idle(), held = map.held.len(), "the cutover did not come about"
            );
            self.cutovers -= usize::from(map.cutover_since.take().is_some());
            requeue_held(map, Position::ZERO);
        }
        self.done(id, Step::Back, Outcome::Done);
        self.pump(id);
    }

    /// Gives a map its place in its destination's lane, starting the lane if need be.
    pub(super) fn ensure_seat(&mut self, id: &MapId) {
        let Some(map) = self.maps.get_mut(id) else { return };
        let name = map.plan.destination.clone();
        let seating = self.lanes.entry(name.clone()).or_insert_with(|| {
            let (notices, mut inbox) = tokio::sync::mpsc::unbounded_channel();
            let events = self.events.clone();
            self.tasks.spawn(async move {
                while let Some(notice) = inbox.recv().await {
                    let _ = events.send(Event::Lane {
                        lane: name.clone(),
                        notice,
                    });
                }
                let _ = events.send(Event::LaneEnded(name));
            });
            let settings = map.plan.destination_settings.clone();
            let stands = self.stands.clone();
            let lane = Lane::start(
                map.plan.destination.clone(),
                settings,
                stands,
                self.statuses.stores(),
                self.pace.timeouts,
                notices,
            );
            Seating {
                lane,
                seats: Vec::new(),
                open: None,
            }
        });
        if map.seat == usize::MAX {
            map.seat = seating.seats.len();
            seating.seats.push(id.clone());
        }
        self.statuses.add_store(&map.id, &map.queue);
    }

    /// Steps that failed are tried again.
    pub(super) fn retry_steps(&mut self, now: Instant) {
        for id in self.those(|map| map.retry_at.is_some_and(|at| at <= now)) {
            if let Some(map) = self.maps.get_mut(&id) {
                map.retry_at = None;
            }
            self.drive(&id);
        }
    }

    /// The destination may not be written: changes go to the queue.
    pub(super) fn unusable(&mut self, id: &MapId, unusable: Unusable) {
        let Some(map) = self.maps.get_mut(id) else { return };
        tracing::info!(map = %map.plan.name, reason = unusable.reason, "the destination cannot be written");
        map.outage.returns |= unusable.kind == UnusableKind::Away;
        map.unusable = Some(unusable);
        map.gate.set_usable(false);
        self.drive(id);
    }
}

fn halted(fenced: bool, wanted: bool) -> Outcome {
    match (fenced, wanted) {
        (true, _) => Outcome::Fenced,
        (false, true) => Outcome::NotFenced,
        (false, false) => Outcome::Done,
    }
}

/// Where the queue begins: what the fence has read, else what was flushed before.
fn base<'a>(
    fenced: Option<&'a Progress>,
    evicted: Option<&'a Progress>,
    known: Option<&'a Progress>,
) -> Option<Progress> {
    let flushed = [evicted, known]
        .into_iter()
        .flatten()
        .max_by_key(|progress| progress.position);
    fenced.or(flushed).cloned()
}

/// A seat has flushed. What it flushed before a later fence is older, and says nothing.
pub(super) fn advance(map: &mut Map, progress: Progress) {
    let known = map.progress.as_ref().map(|known| known.position);
    if Some(progress.position) >= known {
        adopt(map, progress);
    }
}

/// Takes over what the destination was found to hold: less than before, if it was put back.
pub(super) fn adopt(map: &mut Map, progress: Progress) {
    let parked = map
        .progress
        .as_ref()
        .is_some_and(|known| known.parks < progress.parks);
    map.confirmable.flushed(progress.position, parked, Instant::now());
    map.progress = Some(progress);
}

/// What the lane had not flushed goes to the queue first, then what came while the map was leaving.
fn requeue(map: &mut Map, evicted: Evicted) {
    let flushed = map
        .progress
        .as_ref()
        .map_or(Position::ZERO, |progress| progress.position);
    map.retell_tail(flushed);
    push_beyond(map, flushed, evicted.leftover);
    requeue_held(map, flushed);
}

fn requeue_held(map: &mut Map, flushed: Position) {
    let held = std::mem::take(&mut map.held);
    push_beyond(map, flushed, held);
    map.held_bytes = 0;
}

fn push_beyond(map: &mut Map, flushed: Position, items: Vec<(Item, Option<Share>)>) {
    for (item, share) in items {
        if item.change.position > flushed {
            map.appender.push(item.into(), share);
        }
    }
}
