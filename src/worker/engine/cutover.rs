//! The cutover: when little remains, new changes wait in memory until the rest is drained, then go direct. All maps
//! that replay in one lane cut over together, so that parents stay before children (I2).

use super::Engine;
use crate::{
    destination::postgres::Item,
    failpoint,
    gate::{Outcome, Route, Step},
    record::Position,
    worker::{
        budget::Share,
        lane::{Order, Parcel},
        map::{Map, MapId},
    },
};
use std::time::{Duration, Instant};

/// A cutover may begin when so many records remain in each queue.
const NEAR: u64 = 4096;
/// It is given up after this long, or when so many bytes are held.
const PATIENCE: Duration = Duration::from_secs(3);
const HELD_BYTES: usize = 8 << 20;
/// When so many are held the reader waits, but not longer than this: what a source sends that has a backlog would else end
/// every cutover before the few records are written that remain.
const ENOUGH: usize = HELD_BYTES / 2;
const WAIT: Duration = Duration::from_millis(400);
/// A map on its way into the replay is waited for so long after the one before it came.
const ARRIVAL: Duration = Duration::from_millis(500);

impl Engine {
    /// Begins, finishes or gives up cutovers.
    pub(super) fn look_at_cutovers(&mut self) {
        let lanes: Vec<String> = self.lanes.keys().cloned().collect();
        for lane in lanes {
            self.look_at_cutover(&lane);
        }
    }

    /// Whether enough is held for now.
    pub(super) fn reader_waits(&self) -> bool {
        let full = |map: &Map| {
            map.held_bytes > ENOUGH && map.cutover_since.is_some_and(|since| since.elapsed() < WAIT)
        };
        self.cutovers > 0 && self.maps.values().any(full)
    }

    fn look_at_cutover(&mut self, lane: &str) {
        let group = self.replaying(lane);
        if group.is_empty() {
            return;
        }
        let all = |test: &dyn Fn(&Map) -> bool| group.iter().filter_map(|id| self.maps.get(id)).all(test);
        let cutting = all(&|map| map.gate.route() == Route::Cutover);
        let drained = cutting && self.link.is_streaming() && all(&is_drained);
        let over = group.iter().filter_map(|id| self.maps.get(id)).any(is_over);
        // A map that joins while others hold changes back would wait for them, and they for it: all begin anew.
        let alone = all(&|map| map.gate.route() != Route::Cutover);
        let over = over || self.is_gathering(lane);
        let may_begin = alone && all(&is_near) && !self.others_arrive(lane);
        let near = !over && self.link.is_streaming() && (cutting || may_begin);
        if drained {
            return self.go_direct(lane, &group);
        }
        for id in group {
            if let Some(map) = self.maps.get_mut(&id) {
                map.gate.set_near(near);
            }
            self.drive(&id);
        }
    }

    /// One map after the other comes into the replay, as when a worker starts: each would end a cutover of those that are
    /// there. One that is on its way and does not come is waited for no longer (I7).
    fn others_arrive(&self, lane: &str) -> bool {
        let recent = self.arrived.is_some_and(|at| at.elapsed() < ARRIVAL);
        let of_lane = |id: &MapId| self.plans.get(id).is_some_and(|plan| plan.destination == lane);
        let booting = || {
            let mut attempts = self.booting.iter();
            attempts.any(|(id, attempt)| attempt.under_way && of_lane(id))
        };
        let opening = |map: &Map| {
            let may = !map.gate.wanted() && map.gate.usable() && map.blocked.is_none() && map.has_joined();
            may && map.plan.destination == lane && !map.gate.is_direct() && !map.gate.draining()
        };
        recent && (booting() || self.maps.values().any(opening))
    }

    /// The maps of a lane whose queues are replayed.
    fn replaying(&self, lane: &str) -> Vec<MapId> {
        let Some(seating) = self.lanes.get(lane) else {
            return Vec::new();
        };
        let replays = |id: &&MapId| {
            self.maps.get(*id).is_some_and(|map| {
                // One that only tries is not to go on by that.
                let goes_on = map.blocked.is_none() && map.ruling.trial.is_none();
                map.gate.draining() && !map.gate.wanted() && goes_on
            })
        };
        seating.seats.iter().filter(replays).cloned().collect()
    }

    /// Everything queued is flushed: what was held goes to the lane, in source order, and the gates open.
    fn go_direct(&mut self, lane: &str, group: &[MapId]) {
        failpoint::hit("cutover");
        let mut held: Vec<(Item, Option<Share>)> = Vec::new();
        let mut seats = Vec::new();
        let mut others = Vec::new();
        for id in group {
            let Some(map) = self.maps.get_mut(id) else {
                continue;
            };
            map.gate.set_drained(true);
            match map.gate.step() {
                Some(Step::Direct) => {}
                Some(step) => {
                    others.push((id.clone(), step));
                    continue;
                }
                None => continue,
            }
            map.gate.done(Step::Direct, Outcome::Done);
            tracing::debug!(map = %map.plan.name, held = map.held.len(), "going direct");
            if let Some((item, _)) = map.held.last() {
                map.waited = map.waited.max(item.change.position);
            }
            held.append(&mut map.held);
            map.held_bytes = 0;
            if map.cutover_since.take().is_some() {
                self.cutovers -= 1;
            }
            map.catch_up = None;
            seats.push((map.seat, map.mark(self.through)));
        }
        held.sort_by_key(|(item, _)| item.change.position);
        let held_until = held.last().map(|(item, _)| item.change.position);
        let share = held.iter().find_map(|(_, share)| share.clone());
        let items = held.into_iter().map(|(item, _)| item).collect();
        let last = held_until;
        let parcel = Parcel {
            items,
            marks: Vec::new(),
            share,
            advance: true,
            through: self.through,
        };
        if let Some(seating) = self.lanes.get_mut(lane) {
            seating.open = seating
                .open
                .max(last.filter(|last| last.commit >= self.through.commit));
            seating.lane.order(Order::Direct { seats, parcel });
        }
        for (id, step) in others {
            self.carry_out(&id, step);
        }
        for id in group {
            self.drive(id);
        }
    }
}

/// Nothing is left but what is held.
fn is_drained(map: &Map) -> bool {
    if failpoint::is_broken("open-early") {
        return true;
    }
    let flushed = map
        .progress
        .as_ref()
        .map_or(Position::ZERO, |progress| progress.position);
    // One that does not follow the stream has more to come from its side slot.
    map.takes()
        && map.appender.is_idle()
        && (map.stock.account.records == 0 || flushed >= map.stock.account.last)
}

fn is_near(map: &Map) -> bool {
    let most = map
        .plan
        .cap
        .map_or(NEAR, |cap| NEAR.min(u64::from(cap / 2).max(1)));
    map.waiting() + map.appender.len() as u64 <= most
}

fn is_over(map: &Map) -> bool {
    map.held_bytes > HELD_BYTES
        || map
            .cutover_since
            .is_some_and(|since| Instant::now().duration_since(since) > PATIENCE)
}
