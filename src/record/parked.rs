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
}
