//! Redis is read back: a Redis that was emptied or put back under a live connection is found (rules 1 and 7).

use super::{
    Engine, Event,
    effects::{self, Asked, ReadBack},
};
use crate::{
    gate::{Fence, Route},
    queue::{Meta, QueueError},
    record::Skip,
    worker::map::{Blocked, Counting, Map, MapId, Sweep},
};
use std::time::Instant;

impl Engine {
    /// Reads Redis again for every map: a Redis emptied or put back under a live connection is found (rule 1).
    pub(super) fn read_queues_back(&mut self) {
        let asked = self.asked();
        for asked in &asked {
            self.statuses.read_durability(&asked.map, &asked.queue);
        }
        if !asked.is_empty() {
            self.spawn(async move { Event::ReadBack(effects::read_back(asked).await) });
        }
    }

    /// Reads Redis again for one map.
    pub(super) fn ask_again(&mut self, id: &MapId) {
        let emptied = self.emptied.contains(id);
        let Some(map) = self.maps.get_mut(id).filter(|_| !emptied) else {
            return;
        };
        if std::mem::replace(&mut map.asking, true) {
            return;
        }
        let asked = vec![Asked::of(map)];
        self.spawn(async move { Event::ReadBack(effects::read_back(asked).await) });
    }

    /// Every map that has a position, to be asked about.
    pub(super) fn asked(&self) -> Vec<Asked> {
        let joined = |map: &&Map| map.has_joined() && !self.emptied.contains(&map.id);
        self.maps.values().filter(joined).map(Asked::of).collect()
    }

    pub(super) fn read_back(&mut self, answers: Vec<ReadBack>) {
        for ReadBack { asked, result, kept } in answers {
            if let Some(map) = self.maps.get_mut(&asked.map) {
                map.asking = false;
            }
            match result {
                Ok(Some(meta)) => self.seen(&asked, &meta, kept),
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
    fn seen(&mut self, asked: &Asked, meta: &Meta, kept: Option<Instant>) {
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
        if meta.missing_parks(&asked.parks()) > 0 {
            return self.lose_errors(asked, meta);
        }
        map.restock(&meta.account, None);
        // An answer was lost, and records are gone of which the lane was not told.
        let untold = meta.discarded > map.errors.given_up || meta.purged > map.errors.purged;
        let renews = std::mem::take(&mut map.errors.doubtful) && untold;
        if renews {
            map.gate.renew();
        }
        map.errors.learn(meta);
        let forgets = map.unpublished && !meta.unpublished;
        map.ruling.seen(meta.rules.as_deref());
        let is_known = |skip: &Skip| meta.skips.iter().any(|known| known.operation == skip.operation);
        if !map.skips.iter().all(is_known) {
            map.sweep = Sweep::Due;
        }
        // A failover of Redis took what was counted before the queue began, and nothing else.
        let forgot = meta.account.base.is_none() && map.counting != Counting::SinceBeginning;
        let may_fall = !map.gate.is_direct() && !map.gate.is_stepping();
        if let Some(kept) = kept {
            map.confirmable.seen(meta.account.q, kept, Instant::now());
        }
        let forgotten = meta.fenced.is_some() && map.gate.fence() == Fence::Open && !map.gate.is_stepping();
        let passed = map
            .blocked
            .as_ref()
            .is_some_and(|blocked| matches!(blocked, Blocked::QueueUnavailable { .. }));
        let waits = map.refused.is_some_and(|refused| refused.waits());
        if forgot && may_fall {
            self.fall_back(id);
        }
        let Some(map) = self.maps.get_mut(id) else { return };
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
        if forgets {
            self.remember_unpublished(id);
        }
        if renews {
            self.drive(id);
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
        map.ruling.seen(meta.rules.as_deref());
        map.confirmable = map.fresh_confirmable(delay);
        if let Err(gap) = map.check(confirmed) {
            return self.lose(id, gap);
        }
        if meta.missing_parks(&asked.parks()) > 0 {
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
                Event::ReadBack(vec![ReadBack {
                    asked,
                    result,
                    kept: None,
                }])
            });
        } else if !direct {
            self.rewind();
        }
    }
}
