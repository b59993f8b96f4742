//! From the reader to each map's gate.

use super::Engine;
use crate::{
    destination::postgres::Item,
    gate::Route,
    mapping::{BindError, Binding, Decision, into_exit},
    record::{Change, Counted, Position, Relation},
    worker::{
        budget::Share,
        lane::{Order, Parcel},
        map::{Blocked, Map, MapId, Unusable, UnusableKind},
        reader::Read,
    },
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Which maps take a source table's changes.
#[derive(Debug, Default)]
pub struct Routes {
    tables: HashMap<u32, Table>,
}

#[derive(Debug)]
struct Table {
    relation: Arc<Relation>,
    maps: Vec<(MapId, Option<Binding>)>,
}

impl Routes {
    /// Forgets all: the next session describes its tables anew.
    pub fn clear(&mut self) {
        self.tables.clear();
    }
}

impl Engine {
    /// Hands a chunk's changes to the gates of the maps that take them.
    pub(super) fn route(&mut self, read: Read) {
        if !self.link.is_current(read.session) {
            return;
        }
        for relation in read.chunk.relations {
            self.describe(relation);
        }
        for relation in read.chunk.truncates {
            self.truncated(relation);
        }
        let mut parcels: BTreeMap<String, Parcel> = BTreeMap::new();
        let mut queued: Vec<MapId> = Vec::new();
        for change in read.chunk.changes {
            self.hand_out(change, read.share.as_ref(), &mut parcels, &mut queued);
        }
        if let Some(through) = read.chunk.through {
            self.through = self.through.max(through);
        }
        self.deliver(parcels, read.share);
        queued.dedup();
        for map in queued {
            self.pump(&map);
        }
        self.tell_tails();
    }

    fn hand_out(
        &mut self,
        change: Change,
        share: Option<&Share>,
        parcels: &mut BTreeMap<String, Parcel>,
        queued: &mut Vec<MapId>,
    ) {
        let Some(table) = self.routes.tables.get(&change.relation.id) else {
            return;
        };
        for (id, binding) in &table.maps {
            let Some(map) = self.maps.get_mut(id) else {
                continue;
            };
            if !map.takes() || change.position <= map.received {
                continue;
            }
            let Some(taken) = admit(map, binding.as_ref(), &change) else {
                continue;
            };
            match map.gate.route() {
                Route::Lane => {
                    let parcel = parcels.entry(map.plan.destination.clone()).or_default();
                    parcel.items.push(item(map, taken));
                    if !parcel.marks.iter().any(|(seat, _)| *seat == map.seat) {
                        parcel.marks.push((map.seat, map.mark(Position::ZERO)));
                    }
                }
                Route::Queue => {
                    let record = Counted {
                        change: taken,
                        counters: map.counters,
                    };
                    map.appender.push(record, share.cloned());
                    if queued.last() != Some(id) {
                        queued.push(id.clone());
                    }
                }
                Route::Leaving | Route::Cutover => {
                    map.held_bytes += taken.size();
                    let held = item(map, taken);
                    map.held.push((held, share.cloned()));
                }
                Route::Nowhere => {}
            }
        }
    }

    fn deliver(&mut self, parcels: BTreeMap<String, Parcel>, share: Option<Share>) {
        for (lane, mut parcel) in parcels {
            let Some(seating) = self.lanes.get(&lane) else {
                self.undelivered(&lane);
                continue;
            };
            parcel.share.clone_from(&share);
            for (seat, mark) in &mut parcel.marks {
                let map = seating.seats.get(*seat).and_then(|id| self.maps.get(id));
                if let Some(map) = map {
                    *mark = map.mark(self.through);
                }
            }
            seating.lane.order(Order::Items(parcel));
        }
    }

    /// A gate that says Lane without a lane would be a mistake of ours. Nothing may be dropped all the same: the maps
    /// fall back to what is durable, and read it again.
    fn undelivered(&mut self, lane: &str) {
        tracing::error!(
            lane,
            "changes were routed to a lane that does not run; reading them again"
        );
        let direct = |map: &&mut Map| map.plan.destination == lane && map.gate.is_direct();
        for map in self.maps.values_mut().filter(direct) {
            map.gate.expel();
            map.fall_back();
        }
        self.rewind();
    }

    /// A table's description, at its first change in a session and whenever it changed.
    fn describe(&mut self, relation: Arc<Relation>) {
        let ids: Vec<MapId> = self
            .maps
            .values()
            .filter(|map| {
                map.plan.source_table.0 == relation.schema && map.plan.source_table.1 == relation.name
            })
            .map(|map| map.id.clone())
            .collect();
        let mut maps = Vec::new();
        for id in ids {
            let bound = self.maps.get(&id).map(|map| map.plan.mapping.bind(&relation));
            match bound {
                Some(Ok(binding)) => {
                    self.source_fits(&id);
                    maps.push((id, Some(binding)));
                }
                Some(Err(error)) => {
                    self.source_unfit(&id, &error);
                    maps.push((id, None));
                }
                None => {}
            }
        }
        self.routes.tables.insert(relation.id, Table { relation, maps });
    }

    /// A changed mapping, or a map that has joined, is bound again to the tables that are known.
    pub(super) fn bind_again(&mut self) {
        let known: Vec<Arc<Relation>> = self
            .routes
            .tables
            .values()
            .map(|table| table.relation.clone())
            .collect();
        for relation in known {
            self.describe(relation);
        }
    }

    fn source_fits(&mut self, id: &MapId) {
        let confirmed = self.link.confirmed();
        let Some(map) = self.maps.get_mut(id) else { return };
        if matches!(map.blocked, Some(Blocked::KeyColumnsGone { .. })) {
            return self.unblock(id, confirmed);
        }
        if map
            .unusable
            .as_ref()
            .is_some_and(|unusable| unusable.kind == UnusableKind::SourceUnfit)
        {
            map.unusable = None;
            map.gate.set_usable(true);
            self.drive(id);
        }
    }

    /// A column of the key is gone: Blocked. Any other: the changes are queued, and heal once the mapping is mended.
    fn source_unfit(&mut self, id: &MapId, error: &BindError) {
        let message = error.to_string();
        let concerns_key = self
            .maps
            .get(id)
            .is_some_and(|map| error.concerns_key(&map.plan.mapping));
        if concerns_key {
            self.block(id, Blocked::KeyColumnsGone { message });
        } else {
            self.unusable(
                id,
                Unusable {
                    reason: "SourceColumnMissing",
                    message,
                    kind: UnusableKind::SourceUnfit,
                },
            );
        }
    }

    fn truncated(&mut self, relation: u32) {
        let Some(table) = self.routes.tables.get(&relation) else {
            return;
        };
        for (id, _) in &table.maps {
            if let Some(map) = self.maps.get(id) {
                self.statuses.warn(
                    &map.plan,
                    crate::api::reasons::TRUNCATE_NOT_REPLICATED,
                    "The source table was truncated; TRUNCATE is not replicated, the destination keeps its rows.",
                );
            }
        }
    }

    /// Tells the replays how far their queues reach.
    pub(super) fn tell_tails(&self) {
        for map in self
            .maps
            .values()
            .filter(|map| map.gate.draining() && map.takes())
        {
            map.tell_tail(self.through);
        }
    }
}

/// Counts a change where it arrives (I5), and applies the filter.
fn admit(map: &mut Map, binding: Option<&Binding>, change: &Change) -> Option<Change> {
    map.received = change.position;
    map.counters.received += 1;
    map.commit_time = Some(change.commit_time);
    match binding.map_or(Decision::Take, |binding| binding.decide(change)) {
        // A record that the filter cannot judge is refused where it is written, so that custody passes it in order.
        Decision::Take | Decision::TakeAsUpdateOnly | Decision::Refuse(_) => Some(change.clone()),
        Decision::Exit => Some(into_exit(change.clone())),
        Decision::Filtered => {
            map.counters.filtered += 1;
            None
        }
    }
}

pub(super) fn item(map: &Map, change: Change) -> Item {
    Item {
        map: map.seat,
        change,
        counters: map.counters,
    }
}
