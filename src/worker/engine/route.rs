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
    time::{Duration, Instant},
};

/// Which maps take a source table's changes.
#[derive(Debug, Default)]
pub struct Routes {
    tables: HashMap<u32, Arc<Table>>,
}

#[derive(Debug)]
struct Table {
    relation: Arc<Relation>,
    maps: Vec<(MapId, Arc<Fit>)>,
}

/// How a table fits a map.
#[derive(Debug)]
pub enum Fit {
    Bound(Binding),
    /// A mapped column is gone: changes are taken, and wait for the mapping to be mended.
    Lacks(Option<Binding>, BindError),
    /// A column of the key or of the filter is gone: changes stay at the source.
    Keyless(Option<Binding>, BindError),
    /// It has another name.
    Renamed(Option<Binding>, String),
    /// It is not the table that the map has joined.
    Another(String),
}

impl Fit {
    pub fn binding(&self) -> Option<&Binding> {
        match self {
            Self::Bound(binding) => Some(binding),
            Self::Lacks(binding, _) | Self::Keyless(binding, _) | Self::Renamed(binding, _) => {
                binding.as_ref()
            }
            Self::Another(_) => None,
        }
    }
}

impl Routes {
    /// Forgets all: the next session describes its tables anew.
    pub fn clear(&mut self) {
        self.tables.clear();
    }

    /// Describes a table for one map alone.
    pub fn add(&mut self, map: &Map, relation: Arc<Relation>) {
        let maps = fit(map, &relation).map(|fit| (map.id.clone(), Arc::new(fit)));
        let id = relation.id;
        let table = Table {
            relation,
            maps: maps.into_iter().collect(),
        };
        self.tables.insert(id, Arc::new(table));
    }

    /// How the table of a change fits the only map.
    pub fn fit(&self, change: &Change) -> Option<Arc<Fit>> {
        let table = self.tables.get(&change.relation.id)?;
        table.maps.first().map(|(_, fit)| fit.clone())
    }
}

/// So many replays can be told of each chunk.
const FEW: usize = 32;
/// Else they are told at least so long apart, and at each tick of the engine's clock.
const BETWEEN_TAILS: Duration = Duration::from_millis(20);

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
            self.reached = change.position;
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
        let Some(table) = self.routes.tables.get(&change.relation.id).cloned() else {
            return;
        };
        for (id, fit) in &table.maps {
            if !self.may_be_taken(id, fit, change.position) {
                continue;
            }
            let Some(map) = self.maps.get_mut(id) else {
                continue;
            };
            let Some(taken) = admit(map, fit.binding(), &change) else {
                continue;
            };
            let route = match map.gate.route() {
                Route::Cutover if map.goes_on_in_queue(taken.position) => Route::Queue,
                route => route,
            };
            match route {
                Route::Lane => {
                    let parcel = parcels.entry(map.plan.destination.clone()).or_default();
                    parcel.items.push(item(map, taken));
                    if !parcel.marks.iter().any(|(seat, _)| *seat == map.seat) {
                        parcel.marks.push((map.seat, map.mark(Position::ZERO)));
                    }
                }
                Route::Queue => {
                    map.queued = taken.position;
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

    /// Whether the map takes a change of this position now, as the table is that it belongs to.
    fn may_be_taken(&mut self, id: &MapId, fit: &Fit, position: Position) -> bool {
        let awaits = |map: &Map| map.takes() && position > map.received;
        self.maps.get(id).is_some_and(awaits) && self.is_fit(id, fit, position)
    }

    /// The same of a change that the map awaits.
    pub(super) fn is_fit(&mut self, id: &MapId, fit: &Fit, position: Position) -> bool {
        let Some(map) = self.maps.get(id) else {
            return false;
        };
        match fit {
            Fit::Bound(_) if !map.lacks_a_column() => true,
            Fit::Bound(_) => {
                self.source_fits(id);
                true
            }
            Fit::Lacks(..) if map.lacks_a_column() => true,
            Fit::Lacks(_, error) => {
                let unusable = Unusable {
                    reason: "SourceColumnMissing",
                    message: error.to_string(),
                    kind: UnusableKind::SourceUnfit,
                };
                self.unusable(id, unusable);
                true
            }
            // What has no key is refused where it is written.
            Fit::Keyless(..) | Fit::Renamed(..) if position <= map.unfit_until => true,
            Fit::Keyless(_, error) => {
                let message = error.to_string();
                self.block(id, Blocked::KeyColumnsGone { message });
                false
            }
            Fit::Renamed(_, message) | Fit::Another(message) => {
                let message = message.clone();
                self.block(id, Blocked::TableGone { message });
                false
            }
        }
    }

    fn deliver(&mut self, parcels: BTreeMap<String, Parcel>, share: Option<Share>) {
        for (lane, mut parcel) in parcels {
            let Some(seating) = self.lanes.get_mut(&lane) else {
                self.undelivered(&lane);
                continue;
            };
            parcel.share.clone_from(&share);
            parcel.through = self.through;
            for (seat, mark) in &mut parcel.marks {
                let map = seating.seats.get(*seat).and_then(|id| self.maps.get(id));
                if let Some(map) = map {
                    *mark = map.mark(self.through);
                }
            }
            let last = parcel.items.last().map(|item| item.change.position);
            seating.lane.order(Order::Items(parcel));
            seating.open = last.filter(|last| last.commit >= self.through.commit);
        }
        self.close_transactions();
    }

    /// A transaction may end in a chunk that has nothing for the lane.
    fn close_transactions(&mut self) {
        let through = self.through;
        for seating in self.lanes.values_mut() {
            if seating
                .open
                .take_if(|open| open.commit < through.commit)
                .is_some()
            {
                seating.lane.order(Order::Items(Parcel {
                    through,
                    ..Parcel::default()
                }));
            }
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
        let fits = self.maps.values().filter_map(|map| {
            let fit = fit(map, &relation)?;
            Some((map.id.clone(), Arc::new(fit)))
        });
        let maps = fits.collect();
        let table = Table {
            relation: relation.clone(),
            maps,
        };
        self.routes.tables.insert(relation.id, Arc::new(table));
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

    /// A mapped source column was missing, and is not any more; or the mapping does without it.
    pub(super) fn source_fits(&mut self, id: &MapId) {
        let lacking = self.maps.get_mut(id).filter(|map| map.lacks_a_column());
        if let Some(map) = lacking {
            map.unusable = None;
            map.gate.set_usable(true);
            self.drive(id);
        }
    }

    fn truncated(&mut self, relation: u32) {
        let Some(table) = self.routes.tables.get(&relation) else {
            return;
        };
        for (id, _) in &table.maps {
            if let Some(map) = self.maps.get_mut(id).filter(|map| map.takes()) {
                map.truncates += 1;
                self.statuses.warn(
                    &map.plan,
                    crate::api::reasons::TRUNCATE_NOT_REPLICATED,
                    "The source table was truncated; TRUNCATE is not replicated, the destination keeps its rows.".into(),
                );
            }
        }
    }

    /// Tells the replays how far their queues reach: each of them wakes up, so of many not at each chunk.
    pub(super) fn tell_tails(&mut self) {
        let now = Instant::now();
        if self.maps.len() > FEW && now.duration_since(self.tails_told) < BETWEEN_TAILS {
            return;
        }
        self.tails_told = now;
        for map in self
            .maps
            .values()
            .filter(|map| map.gate.draining() && map.takes())
        {
            map.tell_tail(self.through);
        }
    }
}

/// How a table fits a map. None: it is not the map's.
fn fit(map: &Map, relation: &Arc<Relation>) -> Option<Fit> {
    let (schema, name) = &map.plan.source_table;
    let named = *schema == relation.schema && *name == relation.name;
    let joined = map.table.map(|table| table == relation.id);
    let table = format!("{schema}.{name}");
    match (named, joined) {
        (false, Some(true)) => {
            let message = format!(
                "The source table {table} is called {}.{} now: rename it back, or delete the TableMap and make one for \
                 the new name.",
                relation.schema, relation.name
            );
            Some(Fit::Renamed(map.plan.mapping.bind_stored(relation).ok(), message))
        }
        (false, _) => None,
        (true, Some(false)) => Some(Fit::Another(format!(
            "The source table {table} is not the one that the map has joined: it was dropped and made anew. Delete the \
             TableMap and make it anew."
        ))),
        (true, _) => Some(match map.plan.mapping.bind(relation) {
            Ok(binding) => Fit::Bound(binding),
            Err(error) => {
                let stored = map.plan.mapping.bind_stored(relation).ok();
                if error.concerns_key(&map.plan.mapping) {
                    Fit::Keyless(stored, error)
                } else {
                    Fit::Lacks(stored, error)
                }
            }
        }),
    }
}

/// Counts a change where it arrives (I5), leaves out what an opposite map has brought (rule 16), and applies the filter.
pub(super) fn admit(map: &mut Map, binding: Option<&Binding>, change: &Change) -> Option<Change> {
    map.received = change.position;
    map.counters.received += 1;
    map.commit_time = Some(change.commit_time);
    if change.origin.as_ref() == Some(&map.destination) {
        map.counters.filtered += 1;
        return None;
    }
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
