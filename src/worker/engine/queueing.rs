//! From the gate into the queue; and what follows when Redis fails, is full, or has lost something.

use super::{Engine, Event, effects};
use crate::{
    failpoint,
    gate::Route,
    mapping::{KeyReader, Mapping},
    queue::{Account, BatchError, Packed, QueueError, encode},
    record::{Counters, Position},
    trace,
    worker::map::{Batch, Blocked, Cause, Map, MapId, Refused},
};
use std::time::Instant;

impl Engine {
    /// Begins the next append of a map, if none is under way.
    pub(super) fn pump(&mut self, id: &MapId) {
        let Some(map) = self.maps.get_mut(id) else { return };
        if map.gate.route() != Route::Queue && map.gate.route() != Route::Cutover {
            return;
        }
        let mut batches = map.appender.next();
        if batches.iter().all(|batch| batch.records.is_empty()) {
            return;
        }
        let last = batches.last().and_then(|batch| batch.records.last());
        let last = last.map_or(Position::ZERO, |record| record.change.position);
        let previous = map.stock.account.q;
        let base = map.stock.account.base;
        let mapping = map.plan.mapping.clone();
        let (queue, name) = (map.queue.clone(), map.plan.name.clone());
        let map = id.clone();
        self.spawn(async move {
            count_from(&mut batches, base.unwrap_or_default());
            let result = match entries(&batches, previous, &mapping) {
                Ok(entries) => {
                    failpoint::hit("before-queue-script");
                    let span =
                        trace::span!("queue.append", map = %name, entries = entries.len(), position = %last);
                    let done = trace::within(span, queue.append(&entries, base.is_some())).await;
                    failpoint::hit("between-append-and-confirm");
                    done
                }
                Err(error) => Err(QueueError::from(error)),
            };
            drop(batches);
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
                map.queued(&account, last);
                // The map was blocked meanwhile and has fallen back below what is now in its queue.
                if map.received < last {
                    self.fall_back(id);
                }
                self.pump(id);
            }
            // The predecessor tells: our own append whose reply was lost, or a Redis that went back (rule 7).
            Err(error) => self.write_failed(id, &error),
        }
    }

    /// A map forgets what is not durable, and takes it once more from where it comes from: the main stream, or its side slot.
    pub(super) fn fall_back(&mut self, id: &MapId) {
        let Some(map) = self.maps.get_mut(id) else { return };
        let current = map.current;
        map.fall_back();
        if map.is_beside() {
            self.feeds.end(id);
        } else if current {
            self.rewind();
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
                self.block(id, effects::queue_gone(after));
            }
            _ => self.block(id, Blocked::QueueUnavailable { message }),
        }
    }

    /// Redis did not take a change: it stays at the source, and is tried again later and later.
    pub(super) fn write_failed(&mut self, id: &MapId, error: &QueueError) {
        let refused = !matches!(error, QueueError::WrongPredecessor | QueueError::NoBeginning);
        if let Some(map) = self.maps.get_mut(id).filter(|_| refused) {
            let cause = match error {
                QueueError::OutOfMemory => Cause::Full,
                error if error.is_away() => Cause::Away,
                _ => Cause::Other,
            };
            map.refused = Some(Refused::again(map.refused, cause, Instant::now()));
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

    /// Stores how far idle maps are, so that the source can be confirmed (rule 1).
    pub(super) fn store_positions(&mut self) {
        self.store_direct();
        let through = self.through;
        let advances: Vec<_> = self
            .maps
            .values()
            .filter(|map| map.takes() && map.gate.route() == Route::Queue && map.appender.is_idle())
            .filter(|map| map.taken(through) > map.stock.account.q)
            .map(|map| {
                (
                    map.id.clone(),
                    map.queue.clone(),
                    map.stock.account.q,
                    map.taken(through),
                    map.counters,
                    map.stock.account.base,
                )
            })
            .collect();
        for (map, queue, from, to, counters, base) in advances {
            if let Some(map) = self.maps.get_mut(&map) {
                map.appender.hold(to);
            }
            self.spawn(async move {
                let result = queue
                    .advance(
                        from,
                        to,
                        counters.beyond(base.unwrap_or_default()),
                        base.is_some(),
                    )
                    .await;
                Event::Advanced { map, to, result }
            });
        }
    }

    pub(super) fn advanced(&mut self, id: &MapId, to: Position, result: Result<Account, QueueError>) {
        let Some(map) = self.maps.get_mut(id) else { return };
        map.appender.ended();
        match result {
            Ok(account) => {
                map.queued(&account, to);
                self.pump(id);
            }
            Err(error) => self.write_failed(id, &error),
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

/// In the queue it is counted from its beginning on: what was counted before may become known later (I5).
fn count_from(batches: &mut [Batch], base: Counters) {
    if base == Counters::default() {
        return;
    }
    for record in batches.iter_mut().flat_map(|batch| &mut batch.records) {
        record.counters = record.counters.beyond(base);
    }
}

/// Each entry names the one before it, and the keys of its records.
fn entries(batches: &[Batch], mut previous: Position, mapping: &Mapping) -> Result<Vec<Packed>, BatchError> {
    let mut entries = Vec::with_capacity(batches.len());
    let mut reader = KeyReader::new(mapping);
    for Batch { records, .. } in batches {
        let keys = records.iter().flat_map(|record| {
            reader
                .keys(&record.change)
                .into_iter()
                .flat_map(|keys| keys.old.into_iter().chain([keys.key]))
        });
        entries.push(encode(records, previous, keys)?);
        previous = records.last().map_or(previous, |record| record.change.position);
    }
    Ok(entries)
}
