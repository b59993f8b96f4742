//! Side slots: a map that takes nothing for a while gets a slot of its own, a copy of the main one. It keeps the changes
//! that the map has still to take, and the main slot moves on for the others (I7). When the map takes changes again, a
//! second reader feeds its queue from there, until it has what the main stream has handed out.

use super::{
    Engine, Event,
    effects::SideNames,
    route::{Fit, Routes, admit, item},
};
use crate::{
    api::reasons::NO_SIDE_SLOT,
    connection::postgres::Settings,
    failpoint,
    gate::Route,
    record::{Change, Counted, Lsn, Position},
    source::postgres::{Admin, Identity, SlotState, SourceError},
    worker::{
        budget::Share,
        map::{Blocked, Map, MapId, Side, SideState},
        reader::{Read, Reader, Start},
        work::fnv,
    },
};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Sessions of feeds are numbered from here: those of the main stream never come so far.
const FEEDS: u64 = 1 << 32;
/// A side slot that could not be made is tried again after this.
const AGAIN: Duration = Duration::from_secs(60);

/// The second readers.
#[derive(Debug, Default)]
pub struct Feeds {
    running: HashMap<MapId, Feed>,
    count: u64,
}

/// One second reader.
#[derive(Debug)]
struct Feed {
    session: u64,
    /// None: it is starting.
    reader: Option<Reader>,
    routes: Routes,
    /// Everything at or below it was handed out.
    through: Position,
}

impl Feeds {
    pub const fn is_one(session: u64) -> bool {
        session >= FEEDS
    }

    pub fn clear(&mut self) {
        self.running.clear();
    }

    pub fn end(&mut self, id: &MapId) {
        self.running.remove(id);
    }

    fn of(&mut self, session: u64) -> Option<(MapId, &mut Feed)> {
        let mut running = self.running.iter_mut();
        running
            .find(|(_, feed)| feed.session == session)
            .map(|(id, feed)| (id.clone(), feed))
    }
}

impl Engine {
    /// How the names of a map's side slots begin.
    pub(super) fn side_prefix(&self, id: &MapId) -> String {
        format!("{}_s{:08x}_", self.slot_name(), fnv(id) >> 32)
    }

    /// The side slot of a map, as this worker makes it: one that wakes up late must not drop what another relies on
    /// (rule 4).
    pub(super) fn side_name(&self, id: &MapId) -> String {
        format!("{}{}", self.side_prefix(id), self.lease_epoch)
    }

    /// What a look at the source needs to take over the side slots of workers before.
    pub(super) fn side_names(&self) -> Vec<SideNames> {
        let names = |id: &MapId| SideNames {
            prefix: self.side_prefix(id),
            own: self.side_name(id),
        };
        self.plans.keys().map(names).collect()
    }

    /// Makes side slots, feeds from them, and drops them, where it is time.
    pub(super) fn look_at_sides(&mut self, now: Instant) {
        if !self.link.is_streaming() || self.source.external.is_some() {
            return;
        }
        let after = self.pace.side_slot;
        let wants = |map: &Map| {
            map.has_joined()
                && map.side.is_none()
                && map.side_at.is_none_or(|at| at <= now)
                && map
                    .blocked_since
                    .is_some_and(|since| now.duration_since(since) >= after)
                && map.blocked.as_ref().is_some_and(Blocked::may_go_on)
        };
        for id in self.those(wants) {
            self.make_side(&id, now);
        }
        let fed = |map: &Map| {
            let due = map.side_at.is_none_or(|at| at <= now);
            // What is on its way to the queue tells how far that is.
            map.is_fed() && map.has_joined() && !map.cleaning && !map.appender.is_busy() && due
        };
        for id in self.those(fed) {
            if !self.feeds.running.contains_key(&id) {
                self.start_feed(&id);
            }
        }
        let blocked = |id: &MapId| self.maps.get(id).is_none_or(|map| !map.is_fed());
        let over: Vec<MapId> = self
            .feeds
            .running
            .keys()
            .filter(|id| blocked(id))
            .cloned()
            .collect();
        for id in over {
            self.feeds.end(&id);
        }
        self.look_at_feeds();
        self.leave_sides(now);
    }

    fn make_side(&mut self, id: &MapId, now: Instant) {
        let (main, side) = (self.slot_name(), self.side_name(id));
        let settings = self.source.settings.clone();
        if let Some(map) = self.maps.get_mut(id) {
            map.side_at = Some(now + AGAIN);
            map.side = Some(Side {
                confirmed: Position::ZERO,
                state: SideState::Making,
                retained: 0,
                safe: None,
            });
        }
        let map = id.clone();
        self.spawn(async move {
            let made = async {
                let admin = Admin::connect(&settings).await?;
                admin.copy_slot(&main, &side).await
            };
            let result = made.await;
            failpoint::hit("side-slot-made");
            Event::SideMade { map, result }
        });
    }

    pub(super) fn side_made(&mut self, id: &MapId, result: Result<Lsn, SourceError>) {
        let slot = self.side_name(id);
        match result {
            Ok(confirmed) => {
                let confirmed = self.link.through(confirmed);
                let Some(map) = self.maps.get_mut(id) else {
                    return self.drop_slot(slot);
                };
                let needed = map.blocked.is_some();
                if needed {
                    tracing::info!(map = %map.plan.name, slot, "a side slot keeps what the map has still to take");
                    map.current = false;
                }
                map.side_at = None;
                map.side = Some(Side {
                    confirmed,
                    state: if needed {
                        SideState::Keeps
                    } else {
                        SideState::Going
                    },
                    retained: 0,
                    safe: None,
                });
                if !needed {
                    self.drop_side(id);
                } else if !self.link.is_streaming() {
                    // A look that is under way may have begun before the slot was there, and find none.
                    self.rewind();
                }
            }
            Err(error) => {
                let Some(map) = self.maps.get_mut(id) else { return };
                map.side = None;
                tracing::warn!(map = %map.plan.name, %error, "no side slot was made");
                let note = format!(
                    "The map takes no changes, and no slot could be made to keep them ({error}): the main slot waits, and \
                     keeps the log for all maps of the worker. It is tried again every minute."
                );
                self.statuses.warn(&map.plan, NO_SIDE_SLOT, note);
            }
        }
    }

    /// One that no map knows of. If it stays, it is found at the next connect.
    fn drop_slot(&mut self, slot: String) {
        let settings = self.source.settings.clone();
        self.tasks.spawn(async move {
            if let Err(error) = drop_slot(&settings, &slot).await {
                tracing::warn!(slot, %error, "a side slot was not dropped");
            }
        });
    }

    /// The map does without its side slot. Until that is known to be gone, nobody may take it for one that keeps anything.
    fn drop_side(&mut self, id: &MapId) {
        let slot = self.side_name(id);
        let settings = self.source.settings.clone();
        let Some(map) = self.maps.get_mut(id) else { return };
        map.side_at = None;
        let map = id.clone();
        self.spawn(async move {
            let result = drop_slot(&settings, &slot).await;
            Event::SideDropped { map, result }
        });
    }

    pub(super) fn side_dropped(&mut self, id: &MapId, result: Result<(), SourceError>) {
        let Some(map) = self.maps.get_mut(id) else { return };
        let going = |side: &mut Side| side.state == SideState::Going;
        match result {
            Ok(()) => {
                // A look that is under way may have found it there still.
                if map.side.take_if(going).is_some() && !self.link.is_streaming() {
                    self.rewind();
                }
            }
            Err(error) => {
                tracing::warn!(map = %map.plan.name, %error, "the side slot was not dropped; trying again");
                map.side_at = Some(Instant::now() + self.pace.retry);
            }
        }
    }

    /// What the side slots were found to be at a look at the source.
    pub(super) fn sides_seen(&mut self, found: &[(String, SlotState)]) {
        let look = self.link.session();
        for map in self.maps.values_mut() {
            map.unseen.take_if(|since| *since < look);
        }
        let main = self.slot_name();
        let mut unknown: Vec<String> = found.iter().map(|(name, _)| name.clone()).collect();
        unknown.retain(|name| *name != main);
        let ids: Vec<MapId> = self.plans.keys().cloned().collect();
        for id in ids {
            let name = self.side_name(&id);
            // One of a worker before is taken over at the next look, if the map was not known yet at this one.
            let prefix = self.side_prefix(&id);
            unknown.retain(|known| !known.starts_with(&prefix));
            let state = found
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, state)| state);
            let side = state.map(|state| (self.link.through(state.confirmed), state.retained, state.safe));
            let Some(map) = self.maps.get_mut(&id) else {
                continue;
            };
            let state_before = map.side.map(|side| side.state);
            // Of these the worker is told when that is over: until then none is there to be read from.
            if matches!(state_before, Some(SideState::Making | SideState::Going)) {
                continue;
            }
            map.side = side.map(|(confirmed, retained, safe)| Side {
                confirmed,
                state: state_before.unwrap_or(SideState::Keeps),
                retained,
                safe,
            });
            if state.is_some_and(SlotState::is_lost) {
                map.side = None;
                self.drop_slot(name);
            }
        }
        let now = Instant::now();
        for (id, _) in self.torn.iter().filter(|(_, torn)| torn.may_be_adopted(now)) {
            let prefix = self.side_prefix(id);
            unknown.retain(|known| !known.starts_with(&prefix));
        }
        if self.knows_all() {
            for slot in unknown {
                self.drop_slot(slot);
            }
        }
    }

    /// The map's changes come from its side slot now, and go to its queue: among those of the main stream they would come
    /// too late.
    fn start_feed(&mut self, id: &MapId) {
        let slot = self.side_name(id);
        let Some(map) = self.maps.get_mut(id) else { return };
        map.current = false;
        if map.gate.route() == Route::Lane {
            map.gate.renew();
        }
        self.feeds.count += 1;
        let session = FEEDS + self.feeds.count;
        tracing::info!(map = %map.plan.name, slot, "reading from the side slot");
        self.feeds.running.insert(
            id.clone(),
            Feed {
                session,
                reader: None,
                routes: Routes::default(),
                through: Position::ZERO,
            },
        );
        let start = Start {
            settings: self.source.settings.clone(),
            slot,
            publication: self.publication(),
            generation: self.link.generation(),
            session,
        };
        let (budget, readings) = (self.budget.clone(), self.to_readings.clone());
        self.spawn(async move {
            Event::FeedStarted {
                session,
                result: Reader::start(start, budget, readings).await,
            }
        });
        self.drive(id);
    }

    pub(super) fn feed_started(&mut self, session: u64, result: Result<(Reader, Identity), SourceError>) {
        match result {
            Ok((reader, _)) => {
                if let Some((_, feed)) = self.feeds.of(session) {
                    feed.reader = Some(reader);
                }
            }
            Err(error) => self.feed_ended(session, &error),
        }
    }

    /// It begins again where it is confirmed, at the next look.
    pub(super) fn feed_ended(&mut self, session: u64, error: &SourceError) {
        let Some((id, _)) = self.feeds.of(session) else {
            return;
        };
        tracing::warn!(map = %id, %error, "the reader of a side slot ended; beginning again");
        self.feeds.end(&id);
        if let Some(map) = self.maps.get_mut(&id) {
            map.side_at = Some(Instant::now() + self.pace.retry);
        }
        // Somebody has dropped it: whether anything is missing now, a look at the source tells.
        if matches!(error, SourceError::SlotMissing(_) | SourceError::SlotLost(_)) {
            self.rewind();
        }
    }

    /// Hands a chunk of a side slot to its map.
    pub(super) fn feed(&mut self, read: Read) {
        let Some((id, feed)) = self.feeds.of(read.session) else {
            return;
        };
        let mut routes = std::mem::take(&mut feed.routes);
        for relation in read.chunk.relations {
            if let Some(map) = self.maps.get(&id) {
                routes.add(map, relation);
            }
        }
        for change in read.chunk.changes {
            if let Some(fit) = routes.fit(&change) {
                self.take_beside(&id, &fit, &change, read.share.as_ref());
            }
        }
        let through = read.chunk.through.unwrap_or_default();
        if let Some(map) = self.maps.get_mut(&id).filter(|map| map.is_fed()) {
            map.received = map.received.max(through);
        }
        if let Some((_, feed)) = self.feeds.of(read.session) {
            feed.routes = routes;
            feed.through = feed.through.max(through);
        }
        self.pump(&id);
        self.look_at_feeds();
    }

    /// Where the map still is in its lane, it is on its way out.
    fn take_beside(&mut self, id: &MapId, fit: &Fit, change: &Change, share: Option<&Share>) {
        let awaits = |map: &Map| map.is_fed() && change.position > map.received;
        if !self.maps.get(id).is_some_and(awaits) || !self.is_fit(id, fit, change.position) {
            return;
        }
        let Some(map) = self.maps.get_mut(id) else { return };
        let Some(taken) = admit(map, fit.binding(), change) else {
            return;
        };
        if map.gate.route() == Route::Queue {
            let record = Counted {
                change: taken,
                counters: map.counters,
            };
            map.appender.push(record, share.cloned());
        } else {
            map.held_bytes += taken.size();
            map.held.push((item(map, taken), share.cloned()));
        }
    }

    /// A map that has all that the main stream has handed out goes on with that one; also of a transaction whose end is
    /// still to come, since its beginning has passed the map by.
    fn look_at_feeds(&mut self) {
        let handed_out = self.through.max(self.reached.end_of_transaction());
        let reached = handed_out.max(self.link.confirmed());
        let even = |(_, feed): &(&MapId, &Feed)| feed.through >= reached;
        let even: Vec<(MapId, Position)> = self
            .feeds
            .running
            .iter()
            .filter(even)
            .map(|(id, feed)| (id.clone(), feed.through))
            .collect();
        for (id, through) in even {
            let Some(map) = self.maps.get_mut(&id).filter(|map| map.is_fed()) else {
                continue;
            };
            map.received = map.received.max(through);
            map.current = true;
            if let Some(side) = &mut map.side {
                side.state = SideState::Leaving;
            }
            tracing::info!(map = %map.plan.name, "the map goes on with the main slot");
            self.feeds.end(&id);
        }
    }

    /// A side slot goes once the map holds durably what the main slot has forgotten (rule 1).
    fn leave_sides(&mut self, now: Instant) {
        let confirmed = self.link.confirmed();
        let holds = |map: &mut Map| match map.side.map(|side| side.state) {
            Some(SideState::Leaving) => map.confirmable.position(now) >= confirmed,
            Some(SideState::Going) => map.side_at.is_some_and(|at| at <= now),
            _ => false,
        };
        let ids: Vec<MapId> = self
            .maps
            .values_mut()
            .filter_map(|map| holds(map).then(|| map.id.clone()))
            .collect();
        for id in ids {
            if let Some(side) = self.maps.get_mut(&id).and_then(|map| map.side.as_mut()) {
                side.state = SideState::Going;
            }
            self.drop_side(&id);
        }
    }

    /// Tells each side slot what its map holds durably.
    pub(super) fn confirm_sides(&mut self, now: Instant) {
        for (id, feed) in &self.feeds.running {
            let (Some(map), Some(reader)) = (self.maps.get_mut(id), &feed.reader) else {
                continue;
            };
            let durable = map.confirmable.position(now);
            if let Some(side) = map.side.as_mut().filter(|side| durable > side.confirmed) {
                side.confirmed = durable;
                reader.confirm(durable.confirmable());
            }
        }
    }
}

async fn drop_slot(settings: &Settings, slot: &str) -> Result<(), SourceError> {
    Admin::connect(settings).await?.drop_slot(slot).await
}
