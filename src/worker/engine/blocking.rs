//! What keeps a map from taking changes, or from writing: said, looked at again, and ended once it is mended.

use super::{
    Engine, Event, Over,
    effects::{self, Asked},
    event::CheckFailure,
};
use crate::{
    destination::postgres::{LaneError, Progress},
    queue::Meta,
    record::Position,
    worker::{
        custody::Gap,
        map::{Blocked, Map, MapId, Unusable, UnusableKind},
    },
};
use std::time::{Duration, Instant};

/// So often the destination of a paused map is looked at,
const PAUSED: Duration = Duration::from_secs(15);
/// and no more often than this for all maps together.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

impl Engine {
    /// The map takes no changes: they stay at the source, and its position freezes.
    pub(super) fn block(&mut self, id: &MapId, blocked: Blocked) {
        let Some(map) = self.maps.get_mut(id) else { return };
        if map
            .blocked
            .as_ref()
            .is_some_and(|known| known.rank() > blocked.rank())
        {
            // What its lane gave back is dropped all the same, and must come again.
            if !map.gate.is_direct() {
                map.fall_back();
            }
            return;
        }
        tracing::warn!(map = %map.plan.name, reason = blocked.reason(), message = blocked.message(), "blocked");
        if let Blocked::EpochLost { message } = &blocked {
            // From here on the status is the other worker's.
            self.over = Some(Over::Taken(format!("{}: {message}", map.plan.name)));
            return;
        }
        map.gate.set_lost(blocked.is_loss());
        map.blocked_since.get_or_insert_with(Instant::now);
        map.blocked = Some(blocked);
        if map.gate.is_direct() {
            map.freeze(self.through);
        } else {
            map.fall_back();
        }
        map.gate.set_blocked(true);
        // What it still sends is not taken, and would not come again.
        self.feeds.end(id);
        self.report(id);
    }

    /// Changes are missing that nobody holds (rule 1).
    pub(super) fn lose(&mut self, id: &MapId, gap: Gap) {
        if let Some(map) = self.maps.get(id) {
            let (confirmed, held) = (self.link.confirmed(), map.held_by());
            tracing::warn!(map = %map.plan.name, %confirmed, ?held, "changes are missing");
        }
        self.expel(id);
        self.block(id, effects::held_by_nobody(gap));
    }

    /// Parked records are missing, and nothing else (rule 3).
    pub(super) fn lose_errors(&mut self, asked: &Asked, meta: &Meta) {
        self.expel(&asked.map);
        self.block(&asked.map, effects::errors_gone(meta, asked.parks().last));
    }

    /// Takes a map out of its lane for good: nothing of it is written until its trouble is mended.
    pub(super) fn expel(&mut self, id: &MapId) {
        let evicted = self.evict(id);
        drop(evicted);
        if let Some(map) = self.maps.get_mut(id) {
            map.gate.expel();
            map.gate.recheck();
        }
    }

    /// What may be mended by now is looked at again; and the destinations of paused maps, to which nothing is written that
    /// would tell.
    pub(super) fn look_at_trouble(&mut self, now: Instant) {
        let retry = self.pace.retry;
        let paused = (BETWEEN_LOOKS * u32::try_from(self.maps.len()).unwrap_or(u32::MAX)).max(PAUSED);
        let mut due = Vec::new();
        for (index, map) in (0_u32..).zip(self.maps.values_mut()) {
            // Maps that were paused together are looked at one after the other.
            let unknown = map.gate.paused() && !map.looked.destination;
            let every = match (map.needs_a_look() || unknown, map.gate.paused()) {
                (true, _) => Some((retry, Duration::ZERO)),
                (false, true) => Some((paused, BETWEEN_LOOKS * index)),
                (false, false) => None,
            };
            map.look_at = match (every, map.look_at) {
                (None, _) => None,
                (Some((every, _)), Some(at)) if at <= now => {
                    due.push(map.id.clone());
                    Some(now + every)
                }
                (Some((every, late)), known) => {
                    Some(known.unwrap_or(now + every + late).min(now + every + late))
                }
            };
        }
        for id in due {
            self.look_again(&id);
            self.delete_again(&id);
        }
    }

    /// Looks again at what may have passed by now.
    pub(super) fn look_again(&mut self, id: &MapId) {
        let Some(map) = self.maps.get_mut(id) else { return };
        match &map.blocked {
            Some(blocked) if blocked.passes() => self.ask_again(id),
            Some(Blocked::KeyColumnsGone { .. }) => self.look_at_key(id),
            Some(Blocked::TableGone { .. }) => self.look_at_tables(),
            _ => {}
        }
        let Some(map) = self.maps.get_mut(id) else { return };
        if map.blocked.as_ref().is_some_and(Blocked::may_be_mended) {
            if std::mem::replace(&mut map.asking, true) {
                return;
            }
            let (plan, queue, epoch) = (map.plan.clone(), map.queue.clone(), map.epoch);
            let map = id.clone();
            return self.spawn(async move {
                let result = effects::look_at_custodians(&plan, queue, epoch).await;
                Event::Mended {
                    map,
                    result: Box::new(result),
                }
            });
        }
        match map.unusable.as_ref().map(|unusable| unusable.kind.clone()) {
            Some(UnusableKind::Away) if map.gate.busy().is_none() => self.knock(id),
            Some(UnusableKind::Unfit | UnusableKind::Stuck) if map.gate.busy().is_none() => self.probe(id),
            Some(UnusableKind::Waits { .. }) => self.look_at_wait(id),
            None if map.gate.paused() && map.gate.busy().is_none() => self.probe(id),
            _ => {}
        }
    }

    /// What the custodians of a map hold for which something was missing: somebody may have put it back.
    pub(super) fn mended(&mut self, id: &MapId, result: Result<(Meta, Progress), CheckFailure>) {
        let (confirmed, delay) = (self.link.confirmed(), self.pace.confirm_delay);
        let Some(map) = self.maps.get_mut(id) else { return };
        map.asking = false;
        let Ok((meta, progress)) = result else { return };
        let mendable = map.blocked.as_ref().is_some_and(Blocked::may_be_mended);
        if !mendable || meta.missing_parks(&progress.parks()) > 0 || !self.link.is_streaming() {
            return;
        }
        map.restock_anew(&meta);
        map.progress = Some(progress);
        if map.check(confirmed).is_err() {
            return;
        }
        map.confirmable = map.fresh_confirmable(delay);
        map.fall_back();
        self.unblock(id, confirmed);
    }

    pub(super) fn retry_later(&mut self, id: &MapId) {
        let retry = self.pace.retry;
        if let Some(map) = self.maps.get_mut(id) {
            map.retry_at = Some(Instant::now() + retry);
        }
    }

    pub(super) fn usable_again(&mut self, id: &MapId) {
        if let Some(map) = self.maps.get_mut(id) {
            map.unusable = None;
            map.retry_at = None;
            map.gate.set_usable(true);
            map.gate.recheck();
        }
        self.drive(id);
    }

    /// Asks a destination that was away, once for all maps that could not reach it.
    fn knock(&mut self, id: &MapId) {
        let Some(map) = self.maps.get(id) else { return };
        let plan = map.plan.clone();
        let destination = plan.destination.clone();
        if !self.knocking.insert(destination.clone()) {
            return;
        }
        self.spawn(async move {
            let result = effects::knock(&plan).await;
            Event::Answered { destination, result }
        });
    }

    /// Each map's own table is looked at only when there is somebody to ask.
    pub(super) fn answered(&mut self, destination: &str, result: Result<(), LaneError>) {
        self.knocking.remove(destination);
        let retry = Instant::now() + self.pace.retry;
        let waits =
            |map: &Map| map.plan.destination == destination && map.is_away() && map.gate.busy().is_none();
        for id in self.those(waits) {
            if let Some(map) = self.maps.get_mut(&id) {
                map.look_at = Some(retry);
            }
            match &result {
                Ok(()) => self.probe(&id),
                Err(error) => self.found_unfit(&id, CheckFailure::Away(error.clone())),
            }
        }
    }

    /// Asks the destination again, with a check that changes nothing while a pause is wanted.
    fn probe(&mut self, id: &MapId) {
        let Some(map) = self.maps.get(id) else { return };
        let plan = map.plan.clone();
        let turn = self.turn(&plan.destination);
        let map = id.clone();
        self.spawn(async move {
            let _turn = turn.await;
            let result = effects::probe(&plan).await;
            let stamp = plan.stamp.clone();
            Event::Probed { map, stamp, result }
        });
    }

    pub(super) fn probed(&mut self, id: &MapId, stamp: &str, result: Result<(), CheckFailure>) {
        let Some(map) = self.maps.get_mut(id) else { return };
        if map.plan.stamp != stamp {
            map.look_at = Some(Instant::now());
            return;
        }
        match result {
            Ok(()) => {
                map.looked.destination = true;
                // One that answers and cannot be fenced is not well.
                let is_closing = map.gate.wanted() && map.unfenced.is_some();
                if !is_closing && map.unusable.as_ref().is_some_and(Unusable::is_of_destination) {
                    self.usable_again(id);
                }
            }
            Err(failure) => self.found_unfit(id, failure),
        }
    }

    fn found_unfit(&mut self, id: &MapId, failure: CheckFailure) {
        let Some(map) = self.maps.get_mut(id) else { return };
        let is_news = match &map.unusable {
            // Other trouble may have come meanwhile, of which a destination knows nothing.
            Some(unusable) => unusable.is_of_destination(),
            // A look that a paused map began is no news of one that is not paused any more.
            None => map.gate.paused(),
        };
        if !is_news {
            return;
        }
        if let Ok(unusable) = Unusable::try_from(failure) {
            map.unusable = Some(unusable);
        }
        map.gate.set_usable(map.unusable.is_none());
        self.report(id);
    }

    /// Changes may be taken again: the source sends what the map does not have.
    pub(super) fn unblock(&mut self, id: &MapId, confirmed: Position) {
        let Some(map) = self.maps.get_mut(id) else { return };
        if let Err(gap) = map.check(confirmed) {
            return self.lose(id, gap);
        }
        map.blocked = None;
        if map.unpublished {
            return self.block_unpublished(id);
        }
        map.blocked_since = None;
        map.retry_at = None;
        // It is caught up once it has this.
        let handed_out = self.through.max(self.reached.end_of_transaction());
        map.waited = [map.waited, handed_out, map.unfit_until, confirmed]
            .into_iter()
            .max()
            .unwrap_or_default();
        map.gate.set_blocked(false);
        map.gate.set_lost(false);
        tracing::info!(map = %map.plan.name, "taking changes again");
        // What a side slot keeps is no matter of the main one.
        if !map.is_beside() {
            self.rewind();
        }
        self.drive(id);
    }
}
