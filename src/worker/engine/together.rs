//! Maps that need each other's records go into the replay together: merged from their first record on, each finds what
//! it needs (rule 10).

use super::Engine;
use crate::{
    gate::Route,
    worker::{
        lane::Order,
        map::{Map, MapId, UnusableKind},
    },
};
use std::time::{Duration, Instant};

/// Those that are in the replay already wait so long for one that comes.
const PATIENCE: Duration = Duration::from_secs(5);

impl Engine {
    /// A map that waits for another one's record is let in when that one has passed it, or is in the replay too, or
    /// waits itself for a map that comes along.
    pub(super) fn look_at_wait(&mut self, id: &MapId) {
        let mut together = Vec::new();
        if !self.may_come(id, &mut together) {
            return;
        }
        let now = Instant::now();
        for id in &together {
            if let Some(map) = self.maps.get_mut(id) {
                map.comes = Some(now);
            }
        }
        for id in &together {
            self.usable_again(id);
        }
    }

    /// Whether a map is not held up. `together` becomes the waiting maps that must be let in at once.
    fn may_come(&self, id: &MapId, together: &mut Vec<MapId>) -> bool {
        if together.contains(id) {
            return true;
        }
        let Some(map) = self.maps.get(id) else { return true };
        if map.gate.wanted() || map.blocked.is_some() {
            return false;
        }
        match map.unusable.as_ref().map(|unusable| &unusable.kind) {
            None => true,
            Some(UnusableKind::Waits { parent, record, .. }) => {
                together.push(id.clone());
                let behind = |other: &&Map| {
                    let here = other.plan.destination == map.plan.destination;
                    here && other.plan.name == *parent && other.reached() < *record
                };
                self.maps
                    .values()
                    .filter(behind)
                    .all(|other| self.may_come(&other.id, together))
            }
            Some(_) => false,
        }
    }

    /// A map enters the replay: those that wait for it come too.
    pub(super) fn call_those_that_wait_for(&mut self, id: &MapId) {
        let Some(map) = self.maps.get(id) else { return };
        let waits = |other: &&Map| {
            let kind = other.unusable.as_ref().map(|unusable| &unusable.kind);
            let here = other.plan.destination == map.plan.destination;
            here && matches!(kind, Some(UnusableKind::Waits { parent, .. }) if *parent == map.plan.name)
        };
        let waiting: Vec<MapId> = self
            .maps
            .values()
            .filter(waits)
            .map(|other| other.id.clone())
            .collect();
        for id in waiting {
            self.look_at_wait(&id);
        }
    }

    /// A map that was let in is still on its way into this lane.
    pub(super) fn is_gathering(&self, lane: &str) -> bool {
        let now = Instant::now();
        let comes = |map: &Map| {
            map.comes
                .is_some_and(|since| now.duration_since(since) < PATIENCE)
        };
        let free = |map: &Map| !map.gate.wanted() && map.unusable.is_none() && map.blocked.is_none();
        self.maps
            .values()
            .filter(|map| map.plan.destination == lane)
            .any(|map| comes(map) && free(map) && map.gate.route() != Route::Lane)
    }

    /// Begins the replays that no map is on its way to.
    pub(super) fn begin_replays(&mut self) {
        let gathering: Vec<&String> = self.lanes.keys().filter(|lane| self.is_gathering(lane)).collect();
        for (lane, seating) in &self.lanes {
            let is_here = |map: &&mut Map| map.unbegun && map.plan.destination == *lane;
            if gathering.contains(&lane) {
                continue;
            }
            let mut seats = Vec::new();
            for map in self.maps.values_mut().filter(is_here) {
                map.unbegun = false;
                seats.push(map.seat);
            }
            if !seats.is_empty() {
                seating.lane.order(Order::Begin { seats });
            }
        }
    }
}
