//! Parked records whose time is over are purged, with a word before.

use super::{Engine, Event};
use crate::{
    api::reasons::{ERRORS_PURGED, PURGE_SOON},
    clock,
    gate::Step,
    queue::{Purged, QueueError},
    worker::{
        lane::Order,
        map::{Map, MapId},
    },
};
use std::time::Duration;

/// A purge is said so long before; of a short retention, at half of it.
const NOTICE: Duration = Duration::from_secs(24 * 3600);

impl Engine {
    pub(super) fn look_at_retention(&mut self) {
        for id in self.those(|map| map.has_joined() && map.blocked.is_none()) {
            self.warn_of_purge(&id);
            self.purge(&id);
        }
    }

    fn warn_of_purge(&mut self, id: &MapId) {
        let Some(map) = self.maps.get_mut(id) else { return };
        let Some(oldest) = map.errors.summary.oldest_waiting else {
            return;
        };
        let retention = map.plan.retention;
        let notice = NOTICE.min(retention / 2);
        let is_told = map.errors.warned.is_some_and(|told| told >= oldest);
        if is_told || oldest > clock::before(retention.saturating_sub(notice)) || is_due(map) {
            return;
        }
        // Whatever is refused within the notice's time is said with it.
        map.errors.warned =
            Some(oldest.saturating_add(i64::try_from(notice.as_micros()).unwrap_or(i64::MAX)));
        let note = format!(
            "Records that wait since {} will be purged {} hours from now at the latest, and never be written: retry or discard \
             them, or raise spec.errors.retentionSeconds.",
            clock::text(oldest),
            notice.as_secs().div_ceil(3600)
        );
        self.statuses.warn(&map.plan, PURGE_SOON, note);
    }

    fn purge(&mut self, id: &MapId) {
        let busy = self.commands.is_busy(id);
        let Some(map) = self.maps.get_mut(id) else { return };
        if busy || map.errors.purging || !is_due(map) {
            return;
        }
        let Some(has) = map
            .progress
            .as_ref()
            .map(crate::destination::postgres::Progress::has)
        else {
            return;
        };
        map.errors.purging = true;
        let (queue, before) = (map.queue.clone(), clock::before(map.plan.retention));
        let map = id.clone();
        self.spawn(async move {
            let result = queue.purge(has, before).await;
            Event::Purged { map, result }
        });
    }

    pub(super) fn purged(&mut self, id: &MapId, result: Result<Purged, QueueError>) {
        let Some(map) = self.maps.get_mut(id) else { return };
        map.errors.purging = false;
        map.errors.look_again();
        match result {
            Ok(purged) => {
                map.errors.purged = map.errors.purged.max(purged.all);
                let count = purged.positions.len() as u64 + purged.asleep;
                if count > 0 {
                    let note = format!(
                        "{count} records that had waited for longer than spec.errors.retentionSeconds were purged: they were \
                         never written. Compare the tables."
                    );
                    self.statuses.warn(&map.plan, ERRORS_PURGED, note);
                }
                self.forget_parked(id, purged.positions);
            }
            Err(error) => {
                tracing::info!(map = %map.plan.name, %error, "what was purged is not known; looking again");
                self.doubt(id);
            }
        }
        self.report(id);
    }

    /// Whether records were given up or purged is not known: their answer was lost.
    pub(super) fn doubt(&mut self, id: &MapId) {
        if let Some(map) = self.maps.get_mut(id) {
            map.errors.doubtful = true;
        }
    }

    /// Records that are parked no more: whoever may write the map need not heed them.
    pub(super) fn forget_parked(&mut self, id: &MapId, positions: Vec<crate::record::Position>) {
        let Some(map) = self.maps.get_mut(id) else { return };
        // A check that is under way may have read them before.
        if map.gate.busy() == Some(Step::Check) {
            map.gate.recheck();
        }
        let gone = map.errors.given_up + map.errors.purged;
        if let Some(target) = &mut map.target {
            target.forget(&positions, gone);
        }
        if let Some(seating) = self.lanes.get(&map.plan.destination) {
            let seat = map.seat;
            seating.lane.order(Order::Forget {
                seat,
                positions,
                gone,
            });
        }
    }
}

fn is_due(map: &Map) -> bool {
    let oldest = map.errors.summary.oldest;
    oldest.is_some_and(|oldest| oldest <= clock::before(map.plan.retention))
}
