//! How much of the source's log the worker's slots keep: for status, and said before one of them is lost.

use super::{Engine, Event};
use crate::{
    api::reasons::SLOT_NEARLY_LOST,
    source::postgres::{Admin, SlotState},
    worker::{map::Map, status::SlotFacts},
};
use std::collections::HashSet;

/// Said when so much of what a slot may keep is kept, in percent; and again after it was less than the second.
const NEARLY: i64 = 80;
const WELL_BELOW: i64 = 60;

/// What is known of the slots.
#[derive(Debug, Default)]
pub struct Slots {
    known: Vec<(String, SlotState)>,
    looking: bool,
    warned: HashSet<String>,
}

impl Engine {
    pub(super) fn look_at_slots(&mut self) {
        if std::mem::replace(&mut self.slots.looking, true) {
            return;
        }
        let (settings, main) = (self.source.settings.clone(), self.slot_name());
        self.spawn(async move {
            let asked = async { Admin::connect(&settings).await?.slots(&main).await };
            Event::SlotsSeen(asked.await.ok())
        });
    }

    /// A source that cannot be asked is asked again: what was known stays.
    pub(super) fn slots_seen(&mut self, slots: Option<Vec<(String, SlotState)>>) {
        self.slots.looking = false;
        let Some(slots) = slots else { return };
        let sides: Vec<_> = self
            .maps
            .keys()
            .map(|id| (id.clone(), self.side_name(id)))
            .collect();
        for (id, name) in sides {
            let state = slots
                .iter()
                .find(|(slot, _)| *slot == name)
                .map(|(_, state)| state);
            let side = self.maps.get_mut(&id).and_then(|map| map.side.as_mut());
            if let (Some(side), Some(state)) = (side, state) {
                (side.retained, side.safe) = (state.retained, state.safe);
            }
        }
        for (name, state) in &slots {
            let kept = percent(state);
            if kept < WELL_BELOW {
                self.slots.warned.remove(name);
            } else if kept >= NEARLY && self.slots.warned.insert(name.clone()) {
                self.statuses
                    .warn_of_source(&self.source, SLOT_NEARLY_LOST, nearly_lost(name, state));
            }
        }
        self.slots.known = slots;
        self.tell_slots();
    }

    fn tell_slots(&self) {
        let main = self.slot_name();
        let facts = self.slots.known.iter().map(|(name, state)| {
            let of = self.maps.values().find(|map| self.side_name(&map.id) == *name);
            SlotFacts {
                name: name.clone(),
                map: of.map(|map| map.plan.name.clone()),
                main: *name == main,
                wal_status: state.wal_status.clone(),
                retained: state.retained,
                safe: state.safe,
                confirmed: state.confirmed,
            }
        });
        self.statuses.tell_slots(facts.collect());
    }

    /// What the source keeps for a map, and may still write before that is lost.
    pub(super) fn kept_for(&self, map: &Map) -> Option<(i64, Option<i64>)> {
        if let Some(side) = map.side.filter(|side| side.state.is_there()) {
            return Some((side.retained, side.safe));
        }
        let main = self.slot_name();
        let (_, state) = self.slots.known.iter().find(|(name, _)| *name == main)?;
        Some((state.retained, state.safe))
    }
}

/// How much of what it may keep a slot keeps.
fn percent(state: &SlotState) -> i64 {
    match state.safe {
        Some(safe) => state.retained.saturating_mul(100) / state.retained.saturating_add(safe.max(0)).max(1),
        None => 0,
    }
}

fn nearly_lost(name: &str, state: &SlotState) -> String {
    format!(
        "Slot {name} keeps {} MiB of the source's log and is lost after {} MiB more (max_slot_wal_keep_size): see which maps \
         are Blocked, and mend them, or raise the limit.",
        state.retained >> 20,
        state.safe.unwrap_or_default().max(0) >> 20
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Lsn;

    fn state(retained: i64, safe: Option<i64>) -> SlotState {
        SlotState {
            confirmed: Lsn(1),
            active_pid: None,
            wal_status: None,
            retained,
            safe,
        }
    }

    #[test]
    fn a_slot_without_a_limit_is_never_nearly_lost() {
        assert_eq!(percent(&state(1 << 40, None)), 0);
        assert_eq!(percent(&state(80, Some(20))), 80);
        assert_eq!(percent(&state(80, Some(-5))), 100);
        assert_eq!(percent(&state(0, Some(0))), 0);
    }
}
