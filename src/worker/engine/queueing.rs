//! From the gate into the queue; and what follows when Redis fails, is full, or has lost something.

use super::{
    Engine, Event, Over,
    event::CheckFailure,
    operations::{self, Asked, ReadBack},
};
use crate::{
    destination::postgres::Progress,
    failpoint,
    gate::{Fence, Outcome, Route, Step},
    queue::{Account, Meta, QueueError, encode},
    record::Position,
    worker::{
        custody::Gap,
        map::{Blocked, Map, MapId, Refused, Unusable, UnusableKind},
    },
};
use std::time::Instant;

impl Engine {
    /// Begins the next append of a map, if none is under way.
    pub(super) fn pump(&mut self, id: &MapId) {
        let Some(map) = self.maps.get_mut(id) else { return };
        if map.gate.route() != Route::Queue && map.gate.route() != Route::Cutover {
            return;
        }
        if map.before.is_some() && !map.appender.is_busy() {
            return self.rebase(id);
        }
        let Some(batch) = map.appender.next() else { return };
        let previous = map.stock.account.q;
        let queue = map.queue.clone();
        let Some(relation) = batch.records.first().map(|record| record.change.relation.clone()) else {
            return;
        };
        let binding = map.plan.mapping.bind(&relation).ok();
        let map = id.clone();
        self.spawn(async move {
            let keys = batch.records.iter().flat_map(|record| {
                let keys = binding
                    .as_ref()
                    .and_then(|binding| binding.keys(&record.change).ok());
                keys.into_iter()
                    .flat_map(|keys| keys.old.into_iter().chain([keys.key]))
            });
            let encoded = encode(&batch.records, previous, keys);
            let last = batch
                .records
                .last()
                .map_or(previous, |record| record.change.position);
            let result = match encoded {
                Ok(bytes) => {
                    failpoint::hit("before-queue-script");
                    let done = queue.append(bytes).await;
                    failpoint::hit("between-append-and-confirm");
                    done
                }
                Err(error) => Err(QueueError::from(error)),
            };
            drop(batch.shares);
            Event::Appended { map, last, result }
        });
    }

    pub(super) fn appended(&mut self, id: &MapId, last: Position, result: Result<Account, QueueError>) {
        let Some(map) = self.maps.get_mut(id) else { return };
        map.appender.ended();
        match result {
            Ok(account) => {
                if map.gate.paused() {
                    failpoint::hit("paused");
                }
                map.restock(&account, None);
                map.confirmable.queued(last, Instant::now());
                if let Some(refused) = &mut map.refused {
                    refused.taken();
                }
                // The map was blocked meanwhile and has fallen back below what is now in its queue.
                if map.received < last {
                    let current = map.current;
                    map.fall_back();
                    if current {
                        self.rewind();
                    }
                }
                self.pump(id);
            }
            // The predecessor tells: our own append whose reply was lost, or a Redis that went back (rule 7).
            Err(error) => self.write_failed(id, &error),
        }
    }

    /// Redis did not do what it was told.
    pub(super) fn queue_failed(&mut self, id: &MapId, error: &QueueError) {
        let message = error.to_string();
        let went_back = |found: i64| self.maps.get(id).is_some_and(|map| found < map.epoch);
        match error {
            // Nobody has taken over: Redis went back, and the next look takes the epoch again.
            QueueError::EpochMismatch { found } if went_back(*found) => {
                self.block(id, Blocked::QueueUnavailable { message });
            }
            QueueError::EpochMismatch { .. } => self.block(id, Blocked::EpochLost { message }),
            QueueError::MetaMissing | QueueError::EpochMissing => {
                let after = self.maps.get(id).and_then(|map| map.progress.as_ref());
                let after = after.map(|progress| progress.position.commit);
                self.expel(id);
                self.block(id, operations::queue_gone(after));
            }
            _ => self.block(id, Blocked::QueueUnavailable { message }),
        }
    }

    /// Redis did not take a change: it stays at the source, and is tried again later and later.
    pub(super) fn write_failed(&mut self, id: &MapId, error: &QueueError) {
        let refused = !matches!(error, QueueError::WrongPredecessor | QueueError::NoBeginning);
        if let Some(map) = self.maps.get_mut(id).filter(|_| refused) {
            let is_full = *error == QueueError::OutOfMemory;
            map.refused = Some(Refused::again(map.refused, is_full, Instant::now()));
        }
        if *error != QueueError::NoBeginning {
            self.queue_failed(id, error);
        }
    }

    /// Tries those queues again that Redis did not take a while ago.
    pub(super) fn retry_refused(&mut self, now: Instant) {
        let due = |map: &mut Map| map.refused.as_mut().is_some_and(|refused| refused.is_due(now));
        let due: Vec<MapId> = self
            .maps
            .values_mut()
            .filter_map(|map| due(map).then(|| map.id.clone()))
            .collect();
        for id in due {
            self.look_again(&id);
        }
    }

    /// A map that takes nothing, and of whose queue nothing can be read, is taken out of the replay, so that no other
    /// waits for it (I7).
    pub(super) fn look_at_idle(&mut self) {
        let mut changed = Vec::new();
        for map in self.maps.values_mut() {
            let is_full = map.refused.is_some_and(|refused| refused.is_full());
            let away = matches!(map.blocked, Some(Blocked::QueueUnavailable { .. })) && !is_full;
            let idle = map.is_fed() || map.blocked.is_some() && (away || map.waiting() == 0);
            if map.gate.set_idle(idle) {
                changed.push(map.id.clone());
            }
        }
        for id in changed {
            self.drive(&id);
        }
    }

    /// A queue was emptied, so that Redis may have memory again.
    fn memory_freed(&mut self) {
        let now = Instant::now();
        for refused in self.maps.values_mut().filter_map(|map| map.refused.as_mut()) {
            refused.freed(now);
        }
    }

    /// The map takes no changes: they stay at the source, and its position freezes.
    pub(super) fn block(&mut self, id: &MapId, blocked: Blocked) {
        let Some(map) = self.maps.get_mut(id) else { return };
        if map
            .blocked
            .as_ref()
            .is_some_and(|known| known.rank() > blocked.rank())
        {
            return;
        }
        tracing::warn!(map = %map.plan.name, reason = blocked.reason(), message = blocked.message(), "blocked");
        if let Blocked::EpochLost { message } = &blocked {
            // From here on the status is the other worker's.
            self.over = Some(Over(format!("{}: {message}", map.plan.name)));
            return;
        }
        map.gate.set_lost(blocked.is_loss());
        map.blocked_since.get_or_insert_with(Instant::now);
        map.blocked = Some(blocked);
        // A check whose findings could not be stored is done again.
        if self.rebasing.remove(id).is_some() {
            map.gate.done(Step::Check, Outcome::Failed);
        }
        if map.gate.is_direct() {
            map.freeze(self.through);
        } else {
            map.fall_back();
        }
        map.gate.set_blocked(true);
        self.report(id);
    }

    /// Changes are missing that nobody holds (rule 1).
    pub(super) fn lose(&mut self, id: &MapId, gap: Gap) {
        if let Some(map) = self.maps.get(id) {
            let (confirmed, held) = (self.link.confirmed(), map.held_by());
            tracing::warn!(map = %map.plan.name, %confirmed, ?held, "changes are missing");
        }
        self.expel(id);
        self.block(id, operations::held_by_nobody(gap));
    }

    /// Parked records are missing, and nothing else (rule 3).
    fn lose_errors(&mut self, asked: &Asked, meta: &Meta) {
        self.expel(&asked.map);
        self.block(&asked.map, operations::errors_gone(meta, asked.parks.last));
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
                let result = operations::look_at_custodians(&plan, queue, epoch).await;
                Event::Mended {
                    map,
                    result: Box::new(result),
                }
            });
        }
        match map.unusable.as_ref().map(|unusable| unusable.kind.clone()) {
            Some(UnusableKind::Away | UnusableKind::Unfit | UnusableKind::Stuck)
                if map.gate.busy().is_none() =>
            {
                self.probe(id);
            }
            Some(UnusableKind::Waits { .. }) => self.look_at_wait(id),
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

    /// Asks the destination again, with a check that changes nothing while a pause is wanted.
    fn probe(&mut self, id: &MapId) {
        let Some(map) = self.maps.get(id) else { return };
        let plan = map.plan.clone();
        let map = id.clone();
        self.spawn(async move {
            let result = operations::probe(&plan).await;
            Event::Probed { map, result }
        });
    }

    pub(super) fn probed(&mut self, id: &MapId, result: Result<(), CheckFailure>) {
        match result {
            Ok(()) => self.usable_again(id),
            Err(failure) => {
                if let Some(map) = self.maps.get_mut(id) {
                    map.unusable = match failure {
                        CheckFailure::Unfit(message) => Some(Unusable {
                            reason: "SchemaMismatch",
                            message,
                            kind: UnusableKind::Unfit,
                        }),
                        CheckFailure::Away(error) => Some(Unusable {
                            reason: error.reason(),
                            message: error.to_string(),
                            kind: UnusableKind::Away,
                        }),
                        _ => map.unusable.take(),
                    };
                }
                self.report(id);
            }
        }
    }

    /// Reads Redis again for every map: a Redis emptied or put back under a live connection is found (rule 1).
    pub(super) fn read_queues_back(&mut self) {
        let asked = self.asked();
        for asked in &asked {
            self.statuses.read_durability(&asked.map, &asked.queue);
        }
        if !asked.is_empty() {
            self.spawn(async move { Event::ReadBack(operations::read_back(asked).await) });
        }
    }

    /// Reads Redis again for one map.
    pub(super) fn ask_again(&mut self, id: &MapId) {
        let Some(map) = self.maps.get_mut(id) else { return };
        if std::mem::replace(&mut map.asking, true) {
            return;
        }
        let asked = vec![Asked::of(map)];
        self.spawn(async move { Event::ReadBack(operations::read_back(asked).await) });
    }

    /// Every map that has a position, to be asked about.
    pub(super) fn asked(&self) -> Vec<Asked> {
        let joined = self.maps.values().filter(|map| map.has_joined());
        joined.map(Asked::of).collect()
    }

    pub(super) fn read_back(&mut self, answers: Vec<ReadBack>) {
        for ReadBack { asked, result } in answers {
            if let Some(map) = self.maps.get_mut(&asked.map) {
                map.asking = false;
            }
            match result {
                Ok(Some(meta)) => self.seen(&asked, &meta),
                Ok(None) => self.queue_failed(&asked.map, &QueueError::MetaMissing),
                Err(error) => self.unread(&asked.map, &error),
            }
        }
    }

    /// A queue that cannot be read blocks only maps whose changes go there: direct writes go on.
    fn unread(&mut self, id: &MapId, error: &QueueError) {
        let Some(map) = self.maps.get(id) else { return };
        let away = matches!(error, QueueError::Unavailable(_) | QueueError::Refused(_));
        if away && map.gate.route() == Route::Lane && map.blocked.is_none() {
            return;
        }
        if map.blocked.is_none() || !away {
            self.queue_failed(id, error);
        }
    }

    /// What Redis holds against what it must hold.
    fn seen(&mut self, asked: &Asked, meta: &Meta) {
        let id = &asked.map;
        let confirmed = self.link.confirmed();
        let Some(map) = self.maps.get_mut(id) else { return };
        if meta.epoch != map.epoch {
            let message = format!("epoch {} is in use, ours is {}", meta.epoch, map.epoch);
            return if meta.epoch > map.epoch {
                self.block(id, Blocked::EpochLost { message });
            } else {
                self.went_back(asked, meta);
            };
        }
        let known = asked.known;
        if meta.account.version < known.version || meta.account.q < known.q {
            return self.went_back(asked, meta);
        }
        if meta.missing_parks(&asked.parks) > 0 {
            return self.lose_errors(asked, meta);
        }
        map.restock(&meta.account, None);
        map.confirmable.seen(meta.account.q, Instant::now());
        let forgotten = meta.fenced.is_some() && map.gate.fence() == Fence::Open && !map.gate.is_stepping();
        let passed = map
            .blocked
            .as_ref()
            .is_some_and(|blocked| matches!(blocked, Blocked::QueueUnavailable { .. }));
        let waits = map.refused.is_some_and(|refused| refused.waits());
        if passed && !waits && !map.appender.is_busy() {
            // What a lane was given stays there.
            if !map.gate.is_direct() {
                map.fall_back();
            }
            self.unblock(id, confirmed);
        }
        if forgotten {
            self.forget_fence(id);
        }
    }

    /// A Redis that went back remembers a fence that was taken down since.
    fn forget_fence(&mut self, id: &MapId) {
        let Some(map) = self.maps.get(id) else { return };
        let queue = map.queue.clone();
        let name = map.plan.name.clone();
        self.tasks.spawn(async move {
            if let Err(error) = queue.clear_fenced().await {
                tracing::info!(map = %name, %error, "an old fence is still in Redis; looking again");
            }
        });
    }

    /// Redis fell back to an older copy. What the source still has heals by a rewind; the rest is lost (rule 7).
    fn went_back(&mut self, asked: &Asked, meta: &Meta) {
        let id = &asked.map;
        let confirmed = self.link.confirmed();
        let delay = self.pace.confirm_delay;
        let Some(map) = self.maps.get_mut(id) else { return };
        map.restock_anew(meta);
        map.confirmable = map.fresh_confirmable(delay);
        if let Err(gap) = map.check(confirmed) {
            return self.lose(id, gap);
        }
        if meta.missing_parks(&asked.parks) > 0 {
            return self.lose_errors(asked, meta);
        }
        tracing::warn!(map = %map.plan.name, "Redis went back to an older copy; reading again from the source");
        let epoch = map.epoch;
        let raise = meta.epoch != epoch;
        // A map that writes directly does without Redis, and what its lane was given stays there.
        let direct = map.gate.is_direct();
        if !direct {
            map.fall_back();
        }
        // The lane drops what its replay has read before anything new is appended under the same numbers.
        map.gate.reread();
        self.drive(id);
        let message = "Redis went back to an older copy; its epoch is being taken again.".to_owned();
        if raise {
            self.block(id, Blocked::QueueUnavailable { message });
            let Some(mut asked) = self.maps.get(id).map(Asked::of) else {
                return;
            };
            self.spawn(async move {
                let result = match asked.queue.take_epoch(epoch, None).await {
                    Ok(()) => asked.queue.meta().await,
                    Err(error) => Err(error),
                };
                Event::ReadBack(vec![ReadBack { asked, result }])
            });
        } else if !direct {
            self.rewind();
        }
    }

    /// Changes may be taken again: the source sends what the map does not have.
    pub(super) fn unblock(&mut self, id: &MapId, confirmed: Position) {
        let Some(map) = self.maps.get_mut(id) else { return };
        if let Err(gap) = map.check(confirmed) {
            return self.lose(id, gap);
        }
        map.blocked = None;
        map.blocked_since = None;
        map.retry_at = None;
        map.gate.set_blocked(false);
        map.gate.set_lost(false);
        tracing::info!(map = %map.plan.name, "taking changes again");
        // What a side slot keeps is no matter of the main one.
        if !map.is_beside() {
            self.rewind();
        }
        self.drive(id);
    }

    /// Stores how far idle maps are, so that the source can be confirmed (rule 1).
    pub(super) fn store_positions(&mut self) {
        self.store_direct();
        let through = self.through;
        let advances: Vec<_> = self
            .maps
            .values()
            .filter(|map| map.takes() && map.gate.route() == Route::Queue && map.appender.is_idle())
            .filter(|map| map.received.max(through) > map.stock.account.q)
            .map(|map| {
                (
                    map.id.clone(),
                    map.queue.clone(),
                    map.stock.account.q,
                    map.received.max(through),
                    map.counters,
                )
            })
            .collect();
        for (map, queue, from, to, counters) in advances {
            if let Some(map) = self.maps.get_mut(&map) {
                map.appender.hold(to);
            }
            self.spawn(async move {
                let result = queue.advance(from, to, counters, false).await;
                Event::Advanced { map, to, result }
            });
        }
    }

    pub(super) fn advanced(&mut self, id: &MapId, to: Position, result: Result<Account, QueueError>) {
        let Some(map) = self.maps.get_mut(id) else { return };
        map.appender.ended();
        match result {
            Ok(account) => {
                map.restock(&account, None);
                map.confirmable.queued(to, Instant::now());
                self.pump(id);
            }
            Err(error) => self.write_failed(id, &error),
        }
    }

    /// Stores what was counted before the queue began: while nothing is being appended, since appends tell the whole count.
    fn rebase(&mut self, id: &MapId) {
        let Some(map) = self.maps.get_mut(id) else { return };
        let Some(before) = map.before.take() else { return };
        let at = map.stock.account.q;
        map.appender.hold(at);
        let counters = map.stock.account.counters.after(before);
        let queue = map.queue.clone();
        let map = id.clone();
        self.spawn(async move {
            let result = queue.advance(at, at, counters, true).await;
            Event::Rebased { map, result }
        });
    }

    /// The check that found out goes on.
    pub(super) fn rebased(&mut self, id: &MapId, result: Result<Account, QueueError>) {
        let checked = self.rebasing.remove(id);
        let Some(map) = self.maps.get_mut(id) else { return };
        map.appender.ended();
        match result {
            Ok(account) => {
                map.restock(&account, None);
                self.pump(id);
                if let Some(checked) = checked {
                    self.checked(id, Ok(checked));
                }
            }
            Err(error) => {
                self.done(id, Step::Check, Outcome::Failed);
                self.write_failed(id, &error);
            }
        }
    }

    pub(super) fn trimmed(&mut self, id: &MapId, partial: u64, result: Result<Account, QueueError>) {
        let Some(map) = self.maps.get_mut(id) else { return };
        match result {
            Ok(account) => {
                map.restock(&account, Some(partial));
                if account.records == 0 {
                    self.memory_freed();
                }
            }
            // Not lost: what the destination has is skipped at the next look, and trimmed then.
            Err(error) => {
                tracing::warn!(map = %map.plan.name, %error, "the queue was not trimmed");
                if error == QueueError::WrongPredecessor {
                    self.ask_again(id);
                }
            }
        }
        self.look_at_cutovers();
    }
}
