//! Which maps of this lane stand behind a record that refers to their tables (rule 10).

use super::task::{Seat, Seating};
use crate::{
    destination::postgres::{Parents, Target},
    record::Position,
};

/// A picture of the lane's maps, taken before a batch.
#[derive(Debug)]
pub struct Standing {
    maps: Vec<Stand>,
}

#[derive(Debug)]
struct Stand {
    map_id: String,
    name: String,
    schema: String,
    table: String,
    position: Position,
}

impl Standing {
    /// A direct map that has nothing waiting stands at its mark.
    pub fn of(seats: &[Seat], targets: &[Target], waits: impl Fn(usize) -> bool) -> Self {
        let stand = |(index, (seat, target)): (usize, (&Seat, &Target))| {
            let idle = seat.seating == Seating::Direct && !waits(index);
            let position = target.progress.position;
            Stand {
                map_id: target.map_id.clone(),
                name: target.name.clone(),
                schema: target.table.0.clone(),
                table: target.table.1.clone(),
                position: if idle {
                    position.max(seat.mark.through)
                } else {
                    position
                },
            }
        };
        Self {
            maps: seats.iter().zip(targets).enumerate().map(stand).collect(),
        }
    }
}

impl Parents for Standing {
    fn behind(&self, child: &str, table: (&str, &str), record: Position) -> Option<String> {
        self.maps
            .iter()
            .filter(|map| map.map_id != child && map.schema == table.0 && map.table == table.1)
            .find(|map| map.position < record)
            .map(|map| map.name.clone())
    }
}
