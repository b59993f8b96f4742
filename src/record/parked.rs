//! A record that the destination refused, as it lies in the map's error store.

use super::{Change, ParsePositionError, Position};
use crate::failure::Refusal;
use std::{fmt, str::FromStr};

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
    /// A newer record has replaced it.
    pub superseded: Option<Once>,
    /// Of a key change: a newer record has the old key, so that only the new row is still wanted.
    pub moved: Option<Once>,
    /// A retry has written it.
    pub completed: Option<Once>,
    /// The filter could not judge it when it was taken: that is still to be done.
    pub unjudged: bool,
    /// The operation that has chosen it and has not come to it yet.
    pub operation: Option<String>,
}

impl ParkedRecord {
    /// Whether it waits for a retry, at a destination that is so far.
    #[must_use]
    pub fn waits(&self, has: Has) -> bool {
        let holds = |once: Option<Once>| once.is_some_and(|once| once.holds(has));
        self.change.position <= has.position && !holds(self.superseded) && !holds(self.completed)
    }

    /// Whether it waits as far as its marks tell, of which some may not hold.
    #[must_use]
    pub const fn may_wait(&self) -> bool {
        self.superseded.is_none() && self.completed.is_none()
    }

    /// What has come of it, at a destination that is so far.
    #[must_use]
    pub fn retry_status(&self, has: Has) -> RetryStatus {
        let holds = |once: Option<Once>| once.is_some_and(|once| once.holds(has));
        match self {
            _ if holds(self.completed) => RetryStatus::Completed,
            _ if holds(self.superseded) => RetryStatus::Superseded,
            Self {
                operation: Some(_), ..
            } => RetryStatus::InProgress,
            Self { attempts: 2.., .. } => RetryStatus::Failed,
            _ => RetryStatus::Pending,
        }
    }

    /// From when on its retention counts: when it was refused first, or, if it does not wait any more, tried last.
    #[must_use]
    pub fn kept_since(&self, has: Has) -> i64 {
        if self.waits(has) {
            self.first_time
        } else {
            self.last_time
        }
    }
}

/// What has come of a refused record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryStatus {
    Pending,
    /// An operation has chosen it.
    InProgress,
    /// It was tried again, and refused again.
    Failed,
    Completed,
    Superseded,
}

impl RetryStatus {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::InProgress => "InProgress",
            Self::Failed => "Failed",
            Self::Completed => "Completed",
            Self::Superseded => "Superseded",
        }
    }
}

/// How far a destination is: what is parked or marked beyond is provisional (rule 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Has {
    pub position: Position,
    /// So many parked records were settled there by retries.
    pub settled: u64,
}

/// From when on a mark on a parked record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Once {
    /// The destination has everything up to here.
    Has(Position),
    /// Retries have settled so many records there.
    Settled(u64),
}

impl Once {
    #[must_use]
    pub fn holds(self, has: Has) -> bool {
        match self {
            Self::Has(position) => position <= has.position,
            Self::Settled(count) => count <= has.settled,
        }
    }
}

/// Fixed width, so that Redis can compare the texts of one kind.
impl fmt::Display for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Has(position) => position.fmt(f),
            Self::Settled(count) => write!(f, "#{count:020}"),
        }
    }
}

impl FromStr for Once {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix('#') {
            Some(count) => count.parse().map(Self::Settled).map_err(|_| ParsePositionError),
            None => text.parse().map(Self::Has),
        }
    }
}

/// How many records of a map were refused, as its destination says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parks {
    pub parked: u64,
    /// Those of them that a newer record has replaced.
    pub superseded: u64,
    /// Key changes of which only the new row is still wanted.
    pub moved: u64,
    /// Those that a retry has settled.
    pub settled: u64,
    /// Those that were given up or purged.
    pub gone: u64,
    /// The last one that was parked.
    pub last: Option<Position>,
}

/// A parked record that waits, for the lane (rule 11 and I3).
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
        if record.moved.is_some() && keys.len() > 1 {
            drop(keys.remove(0));
        }
        Self {
            keys,
            position: record.change.position,
        }
    }
}

/// What another record means for a parked one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Nothing of the parked record is wanted any more.
    Superseded { parked: Position, once: Once },
    /// Of a parked key change the new row is still wanted, but the old key has a newer row.
    Moved { parked: Position, once: Once },
}

impl Mark {
    #[must_use]
    pub const fn parked(&self) -> Position {
        match self {
            Self::Superseded { parked, .. } | Self::Moved { parked, .. } => *parked,
        }
    }

    /// The same, to hold from another time on.
    #[must_use]
    pub const fn from(self, once: Once) -> Self {
        match self {
            Self::Superseded { parked, .. } => Self::Superseded { parked, once },
            Self::Moved { parked, .. } => Self::Moved { parked, once },
        }
    }
}

/// What a retry has come to for one parked record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Retried {
    /// It is written, once the destination has settled so many.
    Completed { parked: Position, once: Once },
    /// It was refused again: as it is kept from now on.
    Failed(Box<ParkedRecord>),
}

impl Retried {
    /// Of the parked record.
    #[must_use]
    pub fn position(&self) -> Position {
        match self {
            Self::Completed { parked, .. } => *parked,
            Self::Failed(record) => record.change.position,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Lsn;

    #[test]
    fn a_mark_holds_once_the_destination_is_so_far() {
        let position = |lsn| Position::through(1, Lsn(lsn));
        let has = Has {
            position: position(5),
            settled: 7,
        };
        assert!(Once::Has(position(5)).holds(has) && !Once::Has(position(6)).holds(has));
        assert!(Once::Settled(7).holds(has) && !Once::Settled(8).holds(has));
        for once in [Once::Has(position(5)), Once::Settled(7)] {
            assert_eq!(once.to_string().parse(), Ok(once));
        }
    }
}
