//! Queued records that are not to be written: a person skips to what is live.

use super::Position;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// What becomes of queued records that are skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They are given up.
    Discard,
    /// They are kept as errors.
    Park,
}

/// Which queued records are meant, where not all are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Only {
    /// Those at these places.
    Positions(BTreeSet<Position>),
    /// Those of these keys, canonical as the queue's filters have them.
    Keys(BTreeSet<String>),
    /// Those that an expression takes.
    Match(String),
}

/// Every queued record of a map between two positions is skipped, or some are. It is remembered in Redis from before it acts (rule 15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    pub fate: Fate,
    /// What comes again from before it, to a destination that was put back, is written.
    pub after: Position,
    pub upto: Position,
    /// Records that waited when it began, of those that are meant.
    pub selected: u64,
    /// Of two that mean a record, the one with the lower number came first, and has it.
    pub number: u64,
    /// Names the operation.
    pub operation: String,
    /// None: all.
    pub only: Option<Only>,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fate = match self.fate {
            Fate::Discard => "discard",
            Fate::Park => "park",
        };
        let Self {
            after,
            upto,
            selected,
            number,
            operation,
            only,
            ..
        } = self;
        write!(f, "{fate} {after} {upto} {selected} {number} {operation}")?;
        let Some(only) = only else { return Ok(()) };
        let only = serde_json::to_string(only).map_err(|_| fmt::Error)?;
        write!(f, " {only}")
    }
}

/// The text is no skip.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a skip")]
pub struct ParseSkipError;

impl FromStr for Skip {
    type Err = ParseSkipError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(7, ' ');
        let mut next = || parts.next().ok_or(ParseSkipError);
        let fate = match next()? {
            "discard" => Fate::Discard,
            "park" => Fate::Park,
            _ => return Err(ParseSkipError),
        };
        let (after, upto) = (position(next()?)?, position(next()?)?);
        let number = |text: &str| text.parse().map_err(|_| ParseSkipError);
        Ok(Self {
            fate,
            after,
            upto,
            selected: number(next()?)?,
            number: number(next()?)?,
            operation: next()?.to_owned(),
            only: next()
                .ok()
                .map(|only| serde_json::from_str(only).map_err(|_| ParseSkipError))
                .transpose()?,
        })
    }
}

fn position(text: &str) -> Result<Position, ParseSkipError> {
    text.parse().map_err(|_| ParseSkipError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Lsn;

    #[test]
    fn text_reads_back() {
        let upto = Position::through(1, Lsn(7));
        let some = [
            None,
            Some(Only::Positions([upto].into())),
            Some(Only::Keys(["a b".into(), "c\u{1f}d".into()].into())),
            Some(Only::Match("row.id == 3 && row.name == ' x'".into())),
        ];
        for only in some {
            let skip = Skip {
                fate: Fate::Park,
                after: Position::ZERO,
                upto,
                selected: 3,
                number: 2,
                operation: "0b7e".into(),
                only,
            };
            assert_eq!(skip.to_string().parse(), Ok(skip));
        }
        assert_eq!("park 1 2 3 x {".parse::<Skip>(), Err(ParseSkipError));
        assert_eq!("drop 1".parse::<Skip>(), Err(ParseSkipError));
    }
}
