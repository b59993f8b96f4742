//! From the gate into the queue; and what follows when Redis fails, is full, or has lost something.

use super::{
    Engine, Event, Over,
    event::CheckFailure,
    operations::{self, Asked, ReadBack},
};
use crate::{
    destination::postgres::Progress,
    failpoint,
    gate::Route,
    queue::{Account, Meta, QueueError, encode},
    record::{Lsn, Position},
    worker::{
        custody::Gap,
        map::{Blocked, Full, Map, MapId, Unusable, UnusableKind},
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
                map.restock(&account);
                map.confirmable.queued(last, Instant::now());
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
            Err(error) => self.queue_failed(id, &error),
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
                let message = format!("{message} Queued changes that only Redis held are lost.");
                self.expel(id);
                self.block(id, Blocked::PositionLost { message });
            }
            QueueError::OutOfMemory => {
                if let Some(map) = self.maps.get_mut(id) {
                    map.full = Some(Full::refused(map.full, Instant::now()));
                }
                self.block(id, Blocked::QueueUnavailable { message });
            }
            _ => self.block(id, Blocked::QueueUnavailable { message }),
        }
    }

    /// Tries those queues again for which Redis had no memory a while ago.
    pub(super) fn retry_full(&mut self, now: Instant) {
        let due = |map: &mut Map| map.full.as_mut().is_some_and(|full| full.is_due(now));
        let due: Vec<MapId> = self
            .maps
            .values_mut()
            .filter_map(|map| due(map).then(|| map.id.clone()))
            .collect();
        for id in due {
            self.look_again(&id);
        }
    }

    /// A queue was emptied, so that Redis may have memory again.
    fn memory_freed(&mut self) {
        let now = Instant::now();
        for full in self.maps.values_mut().filter_map(|map| map.full.as_mut()) {
            full.freed(now);
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
            self.over = Some(Over(format!("{}: {message}", map.plan.name)));
        }
        map.gate.set_lost(blocked.is_loss());
        map.blocked = Some(blocked);
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
        let Some(map) = self.maps.get(id) else { return };
        let held = map.held_by();
        let message = format!(
            "Changes between {} and {} are held by nobody: {}. Put back what was restored or reset, or delete the TableMap and make it anew.",
            gap.from.commit,
            gap.to.commit,
            operations::describe(self.link.confirmed(), &held),
        );
        self.expel(id);
        self.block(id, Blocked::PositionLost { message });
    }

    /// Parked records are missing, and nothing else (rule 3).
    fn lose_errors(&mut self, id: &MapId) {
        let message = "Parked records are missing from Redis: was it restored from an older copy?".to_owned();
        self.expel(id);
        self.block(id, Blocked::ErrorsLost { message });
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
        if map.blocked.as_ref().is_some_and(Blocked::passes) {
            self.ask_again(id);
        }
        let Some(map) = self.maps.get_mut(id) else { return };
        if map.blocked.as_ref().is_some_and(Blocked::may_be_mended) {
            let (plan, queue, epoch) = (map.plan.clone(), map.queue.clone(), map.epoch);
            let map = id.clone();
            return self.spawn(async move {
                let result = operations::look_at_custodians(&plan, queue, epoch).await;
                Event::Mended { map, result }
            });
        }
        match map.unusable.as_ref().map(|unusable| unusable.kind.clone()) {
            Some(UnusableKind::Away | UnusableKind::Unfit | UnusableKind::Stuck)
                if map.gate.busy().is_none() =>
            {
                self.probe(id);
            }
            Some(UnusableKind::Waits { parent, record }) => {
                let behind = self
                    .maps
                    .values()
                    .any(|other| other.plan.name == parent && other.reached() < record);
                if !behind {
                    self.usable_again(id);
                }
            }
            _ => {}
        }
    }

    /// What the custodians of a map hold for which something was missing: somebody may have put it back.
    pub(super) fn mended(&mut self, id: &MapId, result: Result<(Meta, Progress), CheckFailure>) {
        let (confirmed, delay) = (self.link.confirmed(), self.pace.confirm_delay);
        let Some(map) = self.maps.get_mut(id) else { return };
        let Ok((meta, progress)) = result else { return };
        if progress.parks > meta.parks || !self.link.is_streaming() {
            return;
        }
        map.restock_anew(&meta);
        map.progress = Some(progress);
        if map.held_by().check(confirmed).is_err() {
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
        let asked: Vec<Asked> = self.maps.get(id).map(Asked::of).into_iter().collect();
        self.spawn(async move { Event::ReadBack(operations::read_back(asked).await) });
    }

    /// Every map that has a position, to be asked about.
    pub(super) fn asked(&self) -> Vec<Asked> {
        let joined = self.maps.values().filter(|map| map.has_joined());
        joined.map(Asked::of).collect()
    }

    pub(super) fn read_back(&mut self, answers: Vec<ReadBack>) {
        for ReadBack { asked, result } in answers {
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
        let away = matches!(error, QueueError::Unavailable { .. });
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
        if asked.parks > meta.parks {
            return self.lose_errors(id);
        }
        map.restock(&meta.account);
        map.confirmable.seen(meta.account.q, Instant::now());
        let passed = map
            .blocked
            .as_ref()
            .is_some_and(|blocked| matches!(blocked, Blocked::QueueUnavailable { .. }));
        let waits = map.full.is_some_and(|full| full.waits());
        if passed && !waits && !map.appender.is_busy() {
            map.fall_back();
            self.unblock(id, confirmed);
        }
    }

    /// Redis fell back to an older copy. What the source still has heals by a rewind; the rest is lost (rule 7).
    fn went_back(&mut self, asked: &Asked, meta: &Meta) {
        let id = &asked.map;
        let confirmed = self.link.confirmed();
        let delay = self.pace.confirm_delay;
        let Some(map) = self.maps.get_mut(id) else { return };
        map.restock_anew(meta);
        map.confirmable = map.fresh_confirmable(delay);
        if let Err(gap) = map.held_by().check(confirmed) {
            return self.lose(id, gap);
        }
        if asked.parks > meta.parks {
            return self.lose_errors(id);
        }
        tracing::warn!(map = %map.plan.name, "Redis went back to an older copy; reading again from the source");
        let epoch = map.epoch;
        let raise = meta.epoch != epoch;
        map.fall_back();
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
                let result = match asked.queue.take_epoch(epoch).await {
                    Ok(()) => asked.queue.meta().await,
                    Err(error) => Err(error),
                };
                Event::ReadBack(vec![ReadBack { asked, result }])
            });
        } else {
            self.rewind();
        }
    }

    /// Changes may be taken again: the source sends what the map does not have.
    pub(super) fn unblock(&mut self, id: &MapId, confirmed: Lsn) {
        let Some(map) = self.maps.get_mut(id) else { return };
        if let Err(gap) = map.held_by().check(confirmed) {
            return self.lose(id, gap);
        }
        map.blocked = None;
        map.retry_at = None;
        map.gate.set_blocked(false);
        map.gate.set_lost(false);
        tracing::info!(map = %map.plan.name, "taking changes again");
        self.rewind();
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
                let result = queue.advance(from, to, counters).await;
                Event::Advanced { map, to, result }
            });
        }
    }

    pub(super) fn advanced(&mut self, id: &MapId, to: Position, result: Result<Account, QueueError>) {
        let Some(map) = self.maps.get_mut(id) else { return };
        map.appender.ended();
        match result {
            Ok(account) => {
                map.restock(&account);
                map.confirmable.queued(to, Instant::now());
                self.pump(id);
            }
            Err(error) => self.queue_failed(id, &error),
        }
    }

    pub(super) fn trimmed(&mut self, id: &MapId, partial: u64, result: Result<Account, QueueError>) {
        let Some(map) = self.maps.get_mut(id) else { return };
        match result {
            Ok(account) => {
                map.restock(&account);
                map.stock.partial = partial;
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
