//! What the lanes tell.

use super::{
    Engine, Event,
    drive::{adopt, advance},
};
use crate::{
    destination::postgres::{Aside, Progress},
    failpoint,
    gate::Route,
    queue::QueueError,
    worker::{
        lane::{Durable, Mark, Notice, Order, Parcel, Passed},
        map::{Blocked, MapId, Unusable, UnusableKind},
    },
};

impl Engine {
    pub(super) fn noticed(&mut self, lane: &str, notice: Notice) {
        match notice {
            Notice::Durable(durable) => self.durable(lane, durable),
            Notice::Up(progress) => self.lane_up(lane, progress),
            Notice::Down { reason, message, .. } => self.lane_down(lane, reason, &message),
            Notice::Aside { seat, aside } => self.with_seat(lane, seat, |engine, id| engine.aside(id, aside)),
            Notice::Fenced { seat } => self.with_seat(lane, seat, Self::lane_fenced),
            Notice::WentBack { seat, progress } => {
                self.with_seat(lane, seat, |engine, id| {
                    engine.destination_went_back(id, progress);
                });
            }
            Notice::CannotPark { seat, message } => self.with_seat(lane, seat, |engine, id| {
                engine.expel(id);
                engine.write_failed(id, &QueueError::Unavailable(message));
            }),
            Notice::Corrupt { seat, message } => self.with_seat(lane, seat, |engine, id| {
                engine.expel(id);
                engine.block(id, Blocked::EntryUnreadable { message });
            }),
        }
    }

    fn with_seat(&mut self, lane: &str, seat: usize, act: impl FnOnce(&mut Self, &MapId)) {
        let id = self
            .lanes
            .get(lane)
            .and_then(|seating| seating.seats.get(seat))
            .cloned();
        if let Some(id) = id {
            act(self, &id);
        }
    }

    fn durable(&mut self, lane: &str, durable: Vec<Durable>) {
        for Durable {
            seat,
            progress,
            refused,
            spent,
            passed,
        } in durable
        {
            let Some(id) = self
                .lanes
                .get(lane)
                .and_then(|seating| seating.seats.get(seat))
                .cloned()
            else {
                continue;
            };
            let mut written = 0;
            if let Some(map) = self.maps.get_mut(&id) {
                written = map.written();
                advance(map, progress);
                written = map.written().saturating_sub(written);
            }
            self.judge_trial(&id, spent, &refused);
            self.observe(&id, written, &refused);
            if let Some(passed) = passed {
                self.trim(&id, passed);
            }
        }
        self.look_at_cutovers();
    }

    /// What is flushed at the destination leaves the queue (rule 2).
    fn trim(&mut self, id: &MapId, passed: Passed) {
        let Some(map) = self.maps.get_mut(id) else { return };
        let Passed {
            seq,
            through,
            records,
            partial,
            oldest,
        } = passed;
        if records == 0 {
            map.stock.partial = partial;
            return;
        }
        let queue = map.queue.clone();
        let map = id.clone();
        self.spawn(async move {
            failpoint::hit("between-commit-and-trim");
            let result = queue.trim(seq, through, oldest, None).await;
            Event::Trimmed { map, partial, result }
        });
    }

    fn lane_up(&mut self, lane: &str, up: Vec<(usize, Progress)>) {
        for (seat, progress) in up {
            self.with_seat(lane, seat, |engine, id| {
                let confirmed = engine.link.confirmed();
                let Some(map) = engine.maps.get_mut(id) else {
                    return;
                };
                adopt(map, progress);
                if let Err(gap) = map.check(confirmed) {
                    engine.lose(id, gap);
                }
            });
        }
    }

    fn lane_down(&mut self, lane: &str, reason: &'static str, message: &str) {
        let Some(seating) = self.lanes.get(lane) else {
            return;
        };
        for id in seating.seats.clone() {
            let unusable = Unusable {
                reason,
                message: message.to_owned(),
                kind: UnusableKind::Away,
            };
            if self.maps.get(&id).is_some_and(|map| map.gate.usable()) {
                self.unusable(&id, unusable);
            }
        }
    }

    fn aside(&mut self, id: &MapId, aside: Aside) {
        if matches!(aside, Aside::TooManyErrors { .. }) {
            self.fail_trial(id);
        }
        let (reason, message) = (aside.reason(), aside.to_string());
        let kind = match aside {
            Aside::WaitsForParent {
                name,
                position,
                since,
            } => UnusableKind::Waits {
                parent: name,
                record: position,
                since,
            },
            Aside::Stuck { .. } | Aside::Failing { .. } | Aside::TooManyErrors { .. } => UnusableKind::Stuck,
            Aside::Unfit { .. } => UnusableKind::Unfit,
        };
        self.unusable(
            id,
            Unusable {
                reason,
                message,
                kind,
            },
        );
    }

    /// A token of ours was raised by a pause of ours; or by another worker, and then Redis tells.
    fn lane_fenced(&mut self, id: &MapId) {
        let Some(map) = self.maps.get_mut(id) else { return };
        if map.gate.route() != Route::Lane && !map.gate.draining() {
            return;
        }
        map.gate.recheck();
        let kind = UnusableKind::Stuck;
        let message = "The destination refused this worker's token; looking again.".to_owned();
        self.unusable(
            id,
            Unusable {
                reason: "Fenced",
                message,
                kind,
            },
        );
        self.ask_again(id);
    }

    /// The destination holds less than it had flushed: restored from an older copy. What the source still has heals
    /// by a rewind; else it is lost (rule 1).
    fn destination_went_back(&mut self, id: &MapId, progress: Progress) {
        let confirmed = self.link.confirmed();
        let delay = self.pace.confirm_delay;
        let Some(map) = self.maps.get_mut(id) else { return };
        tracing::warn!(map = %map.plan.name, "the destination went back to an older state");
        map.progress = Some(progress);
        map.confirmable = map.fresh_confirmable(delay);
        let held = map.check(confirmed);
        self.tell_stands();
        self.expel(id);
        if let Some(map) = self.maps.get_mut(id) {
            map.fall_back();
        }
        if let Err(gap) = held {
            self.lose(id, gap);
        } else {
            self.rewind();
            self.drive(id);
        }
    }

    /// Idle maps that write directly store their marks.
    pub(super) fn store_direct(&mut self) {
        let through = self.through;
        for seating in self.lanes.values() {
            let direct = |(seat, id): (usize, &MapId)| {
                let map = self
                    .maps
                    .get(id)
                    .filter(|map| map.takes() && map.gate.route() == Route::Lane)?;
                Some((seat, map.mark(through)))
            };
            let marks: Vec<(usize, Mark)> = seating.seats.iter().enumerate().filter_map(direct).collect();
            if !marks.is_empty() {
                seating.lane.order(Order::Items(Parcel {
                    marks,
                    advance: true,
                    ..Parcel::default()
                }));
            }
        }
    }
}
