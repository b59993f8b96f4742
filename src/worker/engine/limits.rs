//! Holds every map to what it may have queued: at the hard limit its changes stay at the source.

use super::Engine;
use crate::{
    api::reasons::SOFT_LIMIT,
    clock,
    worker::{
        limits::{Crossed, Level, Limits, Reached, Usage},
        map::{Blocked, Map, MapId},
    },
};
use std::time::Duration;

impl Engine {
    pub(super) fn look_at_limits(&mut self) {
        let now = clock::now();
        let ceiling = self.pace.ceiling;
        let mut crossed = Vec::new();
        for map in self.maps.values_mut().filter(|map| map.has_joined()) {
            let limits = Limits {
                hard: map.plan.limits.hard.within(ceiling),
                soft: map.plan.limits.soft.within(ceiling.soft()),
            };
            let usage = usage(map, now);
            let change = map.meter.read(limits, usage);
            // A look at Redis that has ended well may have opened it.
            let reopened = map.meter.is_closed() && map.blocked.is_none();
            if change.soft || change.closed || change.opened || reopened {
                crossed.push((map.id.clone(), change));
            }
        }
        for (id, change) in crossed {
            self.crossed(&id, change);
        }
    }

    fn crossed(&mut self, id: &MapId, change: Crossed) {
        let Some(map) = self.maps.get(id) else { return };
        let level = map.meter.level();
        if let (true, Level::Soft(reached) | Level::Hard(reached)) = (change.soft, level) {
            let note = format!("{reached} At the hard limit changes stay at the source.");
            self.statuses.warn(&map.plan, SOFT_LIMIT, note);
        }
        match level {
            Level::Hard(reached) => {
                let message = self.hard_limit(map, reached);
                self.block(id, Blocked::QueueLimit { message });
            }
            _ if matches!(map.blocked, Some(Blocked::QueueLimit { .. })) => {
                self.unblock(id, self.link.confirmed());
            }
            _ => self.report(id),
        }
    }

    fn hard_limit(&self, map: &Map, reached: Reached) -> String {
        let kept = match self.kept_for(map) {
            Some((retained, Some(safe))) => format!(
                " The source keeps {} MiB of its log, and {} MiB more are safe.",
                retained >> 20,
                safe.max(0) >> 20
            ),
            Some((retained, None)) => format!(" The source keeps {} MiB of its log.", retained >> 20),
            None => String::new(),
        };
        format!(
            "{reached} Resume the map, or raise spec.queue.limits.hard.{}: changes are taken again at half of the limit.{kept}",
            reached.field()
        )
    }
}

fn usage(map: &Map, now: i64) -> Usage {
    let records = map.waiting();
    if records == 0 {
        return Usage::default();
    }
    let oldest = map.stock.account.oldest.unwrap_or(now);
    Usage {
        records,
        bytes: map.stock.account.bytes,
        age: Duration::from_micros((now - oldest).max(0).unsigned_abs()),
    }
}
