//! `outagePolicy: Hold`: while its destination is away, a map's changes stay at the source.

use super::Engine;
use crate::worker::map::{Blocked, Map, MapId};
use std::time::{Duration, Instant};

impl Engine {
    /// Holds the maps whose destination is away, and lets those go on whose destination is back.
    pub(super) fn look_at_outages(&mut self) {
        for id in self.those(|map| is_to_hold(map) != is_held(map)) {
            let Some(map) = self.maps.get(&id) else { continue };
            if is_held(map) {
                self.release(&id);
            } else if map.blocked.is_none() {
                let why = map
                    .unusable
                    .as_ref()
                    .map_or("", |unusable| unusable.message.as_str());
                let message = format!(
                    "Changes stay at the source until the destination is back, as spec.destination.outagePolicy asks. {why}"
                );
                self.block(&id, Blocked::OutageHeld { message });
            }
        }
    }

    fn release(&mut self, id: &MapId) {
        if let Some(map) = self.maps.get_mut(id) {
            // A pause asks for the queue, and says nothing of the destination.
            if !map.is_away() {
                map.outage.released = Some(Instant::now());
            }
        }
        self.unblock(id, self.link.confirmed());
    }
}

/// A destination that answers and refuses to be written would have the source read again and again: for so long after its
/// changes went on, a map's changes are queued.
const BETWEEN: Duration = Duration::from_secs(60);

fn is_held(map: &Map) -> bool {
    matches!(map.blocked, Some(Blocked::OutageHeld { .. }))
}

/// What a pause asks for comes first: its changes are queued.
fn is_to_hold(map: &Map) -> bool {
    let is_released = map.outage.released.is_some_and(|at| at.elapsed() < BETWEEN);
    let is_asked = map.plan.holds && map.plan.deletion.is_none() && !map.gate.wanted() && !map.ruling.wants();
    is_asked && map.is_away() && map.has_joined() && !is_released
}
