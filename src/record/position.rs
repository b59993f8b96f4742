//! Where a change stands in its source: one order for direct and for queued changes.

use super::Lsn;
use std::{fmt, str::FromStr};

/// A place between or at the changes of one source, in the order in which it commits them.
///
/// The slot's generation comes first: it rises with each [`Era`], so that all of a later era lies above all of an earlier
/// one, whatever their LSNs are. `Position::through(generation, lsn)` lies above every change of a transaction that ended at or below `lsn`, and below every
/// change of a later one: a commit record starts at or after the end of the one before it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(into = "String", try_from = "String")]
pub struct Position {
    /// Our counter in the slot's name.
    pub generation: u32,
    /// Where the transaction's commit record starts (`final_lsn` of pgoutput's Begin), or, with all else 0, the end
    /// of everything that is covered.
    pub commit: Lsn,
    /// The change's own position.
    pub change: Lsn,
    /// Counts the table's rows that share `change`: the rows of one COPY do.
    pub index: u32,
}

impl Position {
    /// Below every change.
    pub const ZERO: Self = Self {
        generation: 0,
        commit: Lsn(0),
        change: Lsn(0),
        index: 0,
    };

    /// Above every change.
    pub const MAX: Self = Self {
        generation: u32::MAX,
        commit: Lsn(u64::MAX),
        change: Lsn(u64::MAX),
        index: u32::MAX,
    };

    /// Everything that ended at or below `end` (`end_lsn` of a Commit, or a keepalive's end).
    #[must_use]
    pub const fn through(generation: u32, end: Lsn) -> Self {
        Self {
            generation,
            commit: end,
            change: Lsn(0),
            index: 0,
        }
    }

    /// Above every change of the transaction that this one belongs to, and below every change of a later one.
    #[must_use]
    pub const fn end_of_transaction(self) -> Self {
        Self {
            change: Lsn(u64::MAX),
            index: u32::MAX,
            ..self
        }
    }

    /// What may be confirmed to the source when everything up to here is durable: Postgres sends again every
    /// transaction whose commit record starts at or above the confirmed position (rule 1).
    #[must_use]
    pub const fn confirmable(self) -> Lsn {
        self.commit
    }
}

/// Fixed width, so that the text sorts as the positions do.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:08X}-{:016X}-{:016X}-{:08X}",
            self.generation, self.commit.0, self.change.0, self.index
        )
    }
}

impl From<Position> for String {
    fn from(position: Position) -> Self {
        position.to_string()
    }
}

impl TryFrom<String> for Position {
    type Error = ParsePositionError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// The text is not a position.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a position")]
pub struct ParsePositionError;

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 51 || !text.is_ascii() {
            return Err(ParsePositionError);
        }
        let part = |range: std::ops::Range<usize>| {
            text.get(range)
                .and_then(|hex| u64::from_str_radix(hex, 16).ok())
                .ok_or(ParsePositionError)
        };
        let short = |number| u32::try_from(number).map_err(|_| ParsePositionError);
        Ok(Self {
            generation: short(part(0..8)?)?,
            commit: Lsn(part(9..25)?),
            change: Lsn(part(26..42)?),
            index: short(part(43..51)?)?,
        })
    }
}

/// What makes positions comparable: one cluster, one slot generation, one timeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Era {
    /// `systemid` of `IDENTIFY_SYSTEM`.
    pub system: String,
    /// Our counter in the slot's name.
    pub generation: u32,
    /// `timeline` of `IDENTIFY_SYSTEM`.
    pub timeline: u32,
}

impl Era {
    /// Whether both are of one server, whose log goes on from one to the other.
    #[must_use]
    pub fn is_of_server(&self, other: &Self) -> bool {
        self.system == other.system && self.timeline == other.timeline
    }
}

impl fmt::Display for Era {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.system, self.generation, self.timeline)
    }
}

impl FromStr for Era {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('/');
        let mut next = || parts.next().ok_or(ParsePositionError);
        let system = next()?.to_owned();
        let generation = next()?.parse().map_err(|_| ParsePositionError)?;
        let timeline = next()?.parse().map_err(|_| ParsePositionError)?;
        Ok(Self {
            system,
            generation,
            timeline,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(commit: u64, change: u64, index: u32) -> Position {
        Position {
            generation: 1,
            commit: Lsn(commit),
            change: Lsn(change),
            index,
        }
    }

    #[test]
    fn all_of_a_later_generation_lies_above() {
        assert!(at(9, 9, 9) < Position::through(2, Lsn(1)));
        assert!(at(9, 9, 9).to_string() < Position::through(2, Lsn(1)).to_string());
        assert!(at(9, 9, 9).end_of_transaction() < Position::through(2, Lsn(1)));
    }

    #[test]
    fn through_lies_between_the_transaction_that_ended_and_the_next() {
        let end = Position::through(1, Lsn(100));
        assert!(at(90, 80, 7) < end);
        assert!(end < at(100, 99, 0));
        assert!(at(90, 89, 7) < at(90, 80, 7).end_of_transaction());
        assert!(at(90, 80, 7).end_of_transaction() < at(100, 1, 0));
        assert_eq!(at(100, 99, 0).confirmable(), Lsn(100));
    }

    #[test]
    fn text_sorts_and_reads_back() {
        let (low, high) = (at(9, 255, 1), at(16, 1, 0));
        assert!(low.to_string() < high.to_string());
        assert_eq!(low.to_string().parse(), Ok(low));
        assert_eq!("x".parse::<Position>(), Err(ParsePositionError));
    }

    #[test]
    fn era_reads_back() {
        let era = Era {
            system: "7423518890212345678".into(),
            generation: 2,
            timeline: 1,
        };
        assert_eq!(era.to_string().parse(), Ok(era));
    }
}
