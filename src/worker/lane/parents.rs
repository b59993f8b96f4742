//! Which maps of this worker stand behind a record that refers to their tables (rule 10).

use super::task::{Seat, Seating};
use crate::{
    destination::postgres::{Parents, Target},
    record::Position,
    worker::map::MapId,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Where one map stands at its destination.
#[derive(Clone, Debug)]
pub struct Stand {
    pub name: String,
    /// The lane.
    pub destination: String,
    pub table: (String, String),
    /// D.
    pub position: Position,
}

/// Where every map of the worker stands, seated or not: told by the engine, and never ahead of the truth.
#[derive(Clone, Debug, Default)]
pub struct Stands(Arc<Mutex<HashMap<MapId, Stand>>>);

impl Stands {
    /// Replaces all.
    pub fn set(&self, stands: HashMap<MapId, Stand>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stands;
    }

    /// The maps of a destination.
    fn of(&self, destination: &str) -> Vec<(String, Stand)> {
        let stands = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = stands
            .iter()
            .filter(|(_, stand)| stand.destination == destination);
        here.map(|(id, stand)| (id.to_string(), stand.clone())).collect()
    }
}

/// A picture of the maps, taken before a batch.
#[derive(Debug)]
pub struct Standing {
    maps: Vec<(String, Stand)>,
}

impl Standing {
    /// Of seated maps the lane knows best. A direct map that has nothing waiting stands at its mark.
    pub fn of(
        lane: &str,
        stands: &Stands,
        seats: &[Seat],
        targets: &[Target],
        waits: impl Fn(usize) -> bool,
    ) -> Self {
        let mut maps = stands.of(lane);
        for (index, (seat, target)) in seats.iter().zip(targets).enumerate() {
            let idle = seat.seating == Seating::Direct && !waits(index);
            let known = maps.iter_mut().find(|(id, _)| *id == target.map_id);
            if let Some((_, stand)) = known.filter(|_| seat.seating != Seating::Gone) {
                let has = target.progress.position;
                stand.position = if idle { has.max(seat.mark.through) } else { has };
            }
        }
        Self { maps }
    }
}

impl Parents for Standing {
    fn behind(&self, child: &str, table: (&str, &str), record: Position) -> Option<String> {
        self.maps
            .iter()
            .filter(|(id, map)| id != child && map.table.0 == table.0 && map.table.1 == table.1)
            .find(|(_, map)| map.position < record)
            .map(|(_, map)| map.name.clone())
    }
}
