//! Taking maps over: at the worker's start, and whenever an object is new or changed.

use super::{
    Engine, Event, Over,
    effects::{self, Booted},
    event::{BootError, CheckFailure},
};
use crate::{
    api::reasons::QUEUE_ADOPTED,
    clock,
    gate::{Gate, Recovered},
    queue::Meta,
    record::{Counters, Position},
    trace,
    worker::{
        custody::{Confirmable, Held},
        limits::Meter,
        map::{
            Appender, Blocked, Counting, Errors, Left, Looked, Map, MapId, Operations, Outage, Ruling, Stage,
            Stock, Sweep,
        },
        plan::Plan,
    },
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// A map that is not taken over yet.
#[derive(Debug, Default)]
pub struct Attempt {
    pub under_way: bool,
    pub retry_at: Option<Instant>,
    pub blocked: Option<Blocked>,
    /// How its clean-up ended, if it is being deleted.
    pub cleaned: Option<Result<Left, String>>,
}

/// A map whose object went without its clean-up.
#[derive(Clone, Copy, Debug)]
pub struct Torn {
    pub at: Instant,
    /// What the source might forget for it, if it has a position.
    pub may_forget: Option<Position>,
}

/// So long the source keeps what a map has still to take whose object went without its clean-up.
const ADOPTED: Duration = Duration::from_secs(300);

impl Torn {
    /// Another object may adopt its queue, and needs what the source has for it.
    pub fn may_be_adopted(&self, now: Instant) -> bool {
        now.duration_since(self.at) < ADOPTED
    }
}

impl Engine {
    /// A map's object is new or changed.
    pub(super) fn planned(&mut self, plan: Plan) {
        let id = plan.id.clone();
        if self.torn.contains_key(&id) {
            self.over = Some(Over::Adopted(id));
            return;
        }
        let plan = Arc::new(plan);
        self.unread.remove(&plan.uid);
        self.plans.insert(id.clone(), plan.clone());
        let Some(map) = self.maps.get_mut(&id) else {
            self.booting.entry(id.clone()).or_default();
            return self.boot(&id);
        };
        let remapped = map.plan.stamp != plan.stamp;
        let another_rate = map.plan.cap != plan.cap;
        let deleting = plan.deletion.is_some();
        if map.plan.rules != plan.rules {
            map.ruling.set(plan.rules.clone());
        }
        map.plan = plan.clone();
        map.retry_at = None;
        self.heed(&id);
        let Some(map) = self.maps.get_mut(&id) else { return };
        if another_rate {
            // A replay keeps the rate with which it began.
            map.gate.reread();
        }
        if remapped {
            map.gate.set_usable(map.unusable.is_none());
            self.remap(&id);
        }
        if deleting {
            self.delete(&id);
        }
        self.drive(&id);
        self.report(&id);
    }

    /// A changed mapping is used from the next change on: the map leaves its lane and comes back with the new one.
    fn remap(&mut self, id: &MapId) {
        self.bind_again();
        // It knows its table as the mapping was before.
        self.feeds.end(id);
        if let Some(map) = self.maps.get_mut(id) {
            map.gate.renew();
            map.looked = Looked::default();
            map.look_at = Some(Instant::now());
        }
        // The next change tells whether a column is still missing.
        self.source_fits(id);
    }

    /// A map's object is gone: its finalizer was removed after the clean-up, or by force.
    pub(super) fn removed(&mut self, id: &MapId) {
        if let Some(torn) = self.torn_out(id) {
            self.torn.insert(id.clone(), torn);
        }
        self.plans.remove(id);
        self.emptied.remove(id);
        self.cleaning_since.remove(id);
        self.booting.remove(id);
        if self.maps.contains_key(id) {
            drop(self.evict(id));
        }
        self.take_out(id);
        self.tell_stands();
        self.statuses.forget(id);
        self.bind_again();
    }

    /// What is left of a map that goes without its clean-up. None: it was cleaned up, or has nothing.
    fn torn_out(&mut self, id: &MapId) -> Option<Torn> {
        let (at, confirmed) = (Instant::now(), self.link.confirmed());
        let may_forget = match self.maps.get_mut(id) {
            Some(map) if map.stage == Stage::Gone => return None,
            Some(map) => map.has_joined().then(|| map.confirmable.position(at)),
            None => {
                let joined = self.plans.get(id)?.joined();
                let attempt = self.booting.get(id)?;
                let cleaned = matches!(attempt.cleaned, Some(Ok(_)));
                if cleaned || !joined && !attempt.under_way {
                    return None;
                }
                joined.then_some(confirmed)
            }
        };
        Some(Torn { at, may_forget })
    }

    /// Takes a map out of the engine. False: it was not there.
    pub(super) fn take_out(&mut self, id: &MapId) -> bool {
        let map = self.maps.remove(id);
        let cutting = map.as_ref().is_some_and(|map| map.cutover_since.is_some());
        self.cutovers -= usize::from(cutting);
        map.is_some()
    }

    pub(super) fn boot(&mut self, id: &MapId) {
        let Some(plan) = self.plans.get(id).cloned() else {
            return;
        };
        let attempt = self.booting.entry(id.clone()).or_default();
        if attempt.under_way || matches!(attempt.cleaned, Some(Ok(_))) {
            return;
        }
        attempt.under_way = true;
        attempt.retry_at = None;
        let epoch = self.lease_epoch;
        let map = id.clone();
        self.report_starting(id);
        let turn = self.turn(&plan.destination);
        self.spawn(async move {
            let span = trace::span!("map.take_over", map = %plan.name);
            let result = trace::within(span, effects::boot(plan, epoch, turn)).await;
            Event::Booted {
                map,
                result: result.map(Box::new),
            }
        });
    }

    pub(super) fn retry_boots(&mut self, now: Instant) {
        let due: Vec<MapId> = self
            .booting
            .iter()
            .filter(|(_, attempt)| attempt.retry_at.is_some_and(|at| at <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            self.boot(&id);
        }
    }

    pub(super) fn booted(&mut self, id: &MapId, result: Result<Box<Booted>, BootError>) {
        let Some(plan) = self.plans.get(id).cloned() else {
            return;
        };
        match result {
            Ok(booted) => {
                self.booting.remove(id);
                self.arrived = Some(Instant::now());
                self.install(plan, *booted);
                self.start_source();
            }
            Err(error) => self.boot_failed(id, &error),
        }
    }

    fn boot_failed(&mut self, id: &MapId, error: &BootError) {
        let message = error.to_string();
        tracing::warn!(map = %id, %message, "the map could not be taken over; trying again");
        let blocked = match error {
            BootError::Lost(blocked) => blocked.clone(),
            BootError::QueueConnection(_) | BootError::Queue(_) | BootError::NotAdopted(_) => {
                Blocked::QueueUnavailable { message }
            }
        };
        let retry = self.pace.retry;
        let attempt = self.booting.entry(id.clone()).or_default();
        attempt.under_way = false;
        attempt.retry_at = Some(Instant::now() + retry);
        attempt.blocked = Some(blocked);
        self.report_starting(id);
        self.delete_unbooted(id);
        self.start_source();
    }

    fn install(&mut self, plan: Arc<Plan>, mut booted: Booted) {
        let id = plan.id.clone();
        let durability = booted.durability.take();
        let (map, failure) = self.found(plan, booted);
        let stage = map.stage;
        self.tell_adopted(&map);
        self.maps.insert(id.clone(), map);
        // Before the gate takes a step: a rule may hold the map.
        self.heed(&id);
        self.tell_stands();
        self.statuses.adopt(&id, durability);
        self.bind_again();
        self.block_unpublished(&id);
        if let Some(failure) = failure {
            self.check_failed(&id, failure);
        }
        if stage == Stage::Serving {
            self.begin_serving(&id);
        }
        if self.plans.get(&id).is_some_and(|plan| plan.deletion.is_some()) {
            self.delete(&id);
        }
        self.report(&id);
    }

    /// A map as its custodians hold it, and what is wrong with its destination.
    fn found(&self, plan: Arc<Plan>, booted: Booted) -> (Map, Option<CheckFailure>) {
        let Booted {
            queue,
            epoch,
            meta,
            destination,
            partial,
            ..
        } = booted;
        let (target, failure) = match destination {
            Ok(target) => (target, None),
            Err(failure) => (None, Some(failure)),
        };
        // Of a map that has still to join, the join looks at both.
        let inspected = target.is_some();
        let stage = meta.as_ref().map_or(Stage::Joining, |_| Stage::Serving);
        let held = Held {
            destination: None,
            queue: Position::ZERO,
            trimmed: Position::ZERO,
        };
        let mut map = Map {
            id: plan.id.clone(),
            stage,
            joining: false,
            gate: gate(&plan, meta.as_ref(), partial, failure.is_none()),
            timed: plan.wish.lasts(clock::now()),
            ruling: Ruling::recover(plan.rules.clone(), meta.as_ref(), plan.said.rules.as_deref()),
            seat: usize::MAX,
            queue,
            epoch,
            cleaning: false,
            cleaned: None,
            era: None,
            current: false,
            progress: target.as_ref().map(|target| target.progress.clone()),
            unsafe_log: target.as_ref().is_some_and(|target| target.shape.unsafe_log),
            target,
            stock: Stock::default(),
            meter: Meter::default(),
            confirmable: Confirmable::new(self.pace.confirm_delay, held),
            sweep: Sweep::Due,
            operations: meta.as_ref().map(Operations::of).unwrap_or_default(),
            table: meta.as_ref().and_then(|meta| meta.table),
            destination: meta
                .as_ref()
                .map(|meta| meta.destination.clone())
                .unwrap_or_default(),
            unfit_until: Position::ZERO,
            received: Position::ZERO,
            counters: Counters::default(),
            counting: Counting::FromBoth,
            truncates: 0,
            queued: Position::ZERO,
            held: Vec::new(),
            held_bytes: 0,
            waited: Position::ZERO,
            looked: Looked {
                source: None,
                destination: inspected,
            },
            falls: 0,
            appender: Appender::default(),
            tail: watch::channel(crate::worker::lane::Tail::default()).0,
            unpublished: meta.as_ref().is_some_and(|meta| meta.unpublished),
            blocked: None,
            blocked_since: None,
            unseen: Some(self.link.session()),
            side: None,
            side_at: None,
            refused: None,
            asking: false,
            awaited: 0,
            unusable: None,
            unfenced: None,
            outage: Outage::default(),
            comes: None,
            unbegun: false,
            retry_at: None,
            look_at: None,
            cutover_since: None,
            catch_up: None,
            errors: Errors::default(),
            skips: Vec::new(),
            commit_time: None,
            plan,
        };
        if let Some(meta) = &meta {
            map.restock_anew(meta);
            map.skips.clone_from(&meta.skips);
            map.stock.partial = partial;
            map.fall_back();
            map.confirmable = map.fresh_confirmable(self.pace.confirm_delay);
        }
        (map, failure)
    }

    /// The queue of another object is this one's now.
    fn tell_adopted(&self, map: &Map) {
        if map.plan.adopts && !map.plan.joined() && map.stage == Stage::Serving {
            let (id, waiting) = (&map.id, map.waiting());
            let note = format!("Goes on with queue {id}. Records that wait in it: {waiting}.");
            self.statuses.note(&map.plan, QUEUE_ADOPTED, note);
        }
    }

    /// A map that has a position: its changes are taken from there on.
    pub(super) fn begin_serving(&mut self, id: &MapId) {
        self.drive(id);
        self.rewind();
    }

    /// What the maps' conditions say of an attempt that failed.
    pub(super) fn attempt(&self, id: &MapId) -> Option<&Attempt> {
        self.booting.get(id)
    }
}

fn gate(plan: &Plan, meta: Option<&Meta>, partial: u64, usable: bool) -> Gate {
    let queued = meta.is_some_and(|meta| meta.account.records > partial);
    let fenced = meta.is_some_and(|meta| meta.fenced.is_some());
    Gate::recover(Recovered {
        wanted: plan.wish.wants(clock::now()),
        usable,
        queued,
        fenced,
        shown: plan.shown,
    })
}

/// The gate of a map that has no position yet.
pub(super) fn fresh_gate(plan: &Plan) -> Gate {
    Gate::recover(Recovered {
        wanted: plan.wish.wants(clock::now()),
        usable: true,
        queued: false,
        fenced: false,
        shown: plan.shown,
    })
}
