//! What the source may forget (I1): the least of what every map has made durable.

use super::Engine;
use crate::{failpoint, record::Position, worker::map::Map};
use std::time::Instant;

impl Engine {
    /// Tells the source the least position that every map holds durably. Without maps, all that was handed out.
    pub(super) fn confirm(&mut self, now: Instant) {
        // A map that is not taken over yet, or not even known, may have a position, and nobody has read it.
        if !self.knows_all() || self.plans.keys().any(|id| !self.maps.contains_key(id)) {
            return;
        }
        self.confirm_sides(now);
        let keeping = self
            .maps
            .values_mut()
            .filter(|map| map.keeps() && !map.is_beside());
        // The source may still have what a map has lost: it must not forget more.
        let may_forget = |map: &mut Map| match &map.blocked {
            Some(blocked) if blocked.is_loss() => Position::ZERO,
            _ => map.confirmable.position(now),
        };
        let torn = self.torn.values().filter(|torn| torn.may_be_adopted(now));
        let torn: Vec<Position> = torn.filter_map(|torn| torn.may_forget).collect();
        let least: Position = keeping.map(may_forget).chain(torn).min().unwrap_or(self.through);
        let least = if failpoint::is_broken("confirm-early") {
            self.through
        } else {
            least
        };
        if least.generation < self.link.generation() || least <= self.link.confirmed() {
            return;
        }
        let lsn = least.confirmable();
        if let Some(reader) = self.reader() {
            reader.confirm(lsn);
            self.link.set_confirmed(lsn);
        }
    }
}
