//! A record that the destination refused, as it lies in the map's error store.

use super::{Change, Position};
use crate::failure::Refusal;

/// A refused record. One map and one position: parking it twice is parking it once (rule 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedRecord {
    /// `<map>-e-<8 hex>`; empty until the store has given it.
    pub id: String,
    /// Canonical bytes of the integration keys it belongs to: two for a key change.
    pub keys: Vec<Vec<u8>>,
    pub change: Change,
    pub refusal: Refusal,
    /// Microseconds since the Unix epoch.
    pub first_time: i64,
    pub last_time: i64,
    pub attempts: u32,
    /// The position of the newer record that replaced this one; it holds only once that position is written.
    pub superseded_by: Option<Position>,
    /// Of a key change: the newer record that has the old key, so that only the new row is still wanted. It holds as
    /// `superseded_by` does.
    pub moved_by: Option<Position>,
}

/// How many records of a map were refused, as its destination says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parks {
    pub parked: u64,
    /// Those of them that a newer record has replaced.
    pub superseded: u64,
    /// The last one that was parked.
    pub last: Option<Position>,
}

/// A parked record that is not superseded, for the lane (rule 11 and I3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedKey {
    pub keys: Vec<Vec<u8>>,
    pub position: Position,
}

impl ParkedKey {
    /// Of a key change whose old key has a newer row, only the new key is left.
    #[must_use]
    pub fn of(record: ParkedRecord) -> Self {
        let mut keys = record.keys;
        if record.moved_by.is_some() && keys.len() > 1 {
            drop(keys.remove(0));
        }
        Self {
            keys,
            position: record.change.position,
        }
    }
}

/// What a later record means for a parked one. It holds once the destination has the later record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Nothing of the parked record is wanted any more.
    Superseded { parked: Position, by: Position },
    /// Of a parked key change the new row is still wanted, but the old key has a newer row.
    Moved { parked: Position, by: Position },
}

impl Mark {
    #[must_use]
    pub const fn parked(&self) -> Position {
        match self {
            Self::Superseded { parked, .. } | Self::Moved { parked, .. } => *parked,
        }
    }
}
