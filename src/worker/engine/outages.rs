//! `outagePolicy: Hold`: while its destination is away, a map's changes stay at the source.

use super::Engine;
use crate::worker::map::{Blocked, Map, MapId, UnusableKind};

impl Engine {
    /// Holds the maps whose destination is away, and lets those go on whose destination is back.
    pub(super) fn look_at_outages(&mut self) {
        let changed = self.maps.values().filter(|map| is_to_hold(map) != is_held(map));
        let ids: Vec<MapId> = changed.map(|map| map.id.clone()).collect();
        for id in ids {
            let Some(map) = self.maps.get(&id) else { continue };
            if is_held(map) {
                self.unblock(&id, self.link.confirmed());
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
}

fn is_held(map: &Map) -> bool {
    matches!(map.blocked, Some(Blocked::OutageHeld { .. }))
}

/// What a pause asks for comes first: its changes are queued.
fn is_to_hold(map: &Map) -> bool {
    let is_away = map
        .unusable
        .as_ref()
        .is_some_and(|unusable| unusable.kind == UnusableKind::Away);
    map.plan.holds && is_away && map.has_joined() && !map.gate.wanted()
}
