//! Queued records that are not to be written: a person skips to what is live.

use super::Position;
use std::{fmt, str::FromStr};

/// What becomes of queued records that are skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They are given up.
    Discard,
    /// They are kept as errors.
    Park,
}

/// Every queued record of a map up to here is skipped. It is remembered in Redis from before it acts (rule 15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip {
    pub fate: Fate,
    pub upto: Position,
    /// Records that waited when it began.
    pub selected: u64,
    /// What the destination had given up, or parked, by then.
    pub base: u64,
    /// Names the operation.
    pub operation: String,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fate = match self.fate {
            Fate::Discard => "discard",
            Fate::Park => "park",
        };
        let Self {
            upto,
            selected,
            base,
            operation,
            ..
        } = self;
        write!(f, "{fate} {upto} {selected} {base} {operation}")
    }
}

/// The text is no skip.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a skip")]
pub struct ParseSkipError;

impl FromStr for Skip {
    type Err = ParseSkipError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(' ');
        let mut next = || parts.next().ok_or(ParseSkipError);
        let fate = match next()? {
            "discard" => Fate::Discard,
            "park" => Fate::Park,
            _ => return Err(ParseSkipError),
        };
        let upto = next()?.parse().map_err(|_| ParseSkipError)?;
        let number = |text: &str| text.parse().map_err(|_| ParseSkipError);
        Ok(Self {
            fate,
            upto,
            selected: number(next()?)?,
            base: number(next()?)?,
            operation: next()?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Lsn;

    #[test]
    fn text_reads_back() {
        let skip = Skip {
            fate: Fate::Park,
            upto: Position::through(1, Lsn(7)),
            selected: 3,
            base: 2,
            operation: "0b7e".into(),
        };
        assert_eq!(skip.to_string().parse(), Ok(skip));
        assert_eq!("drop 1".parse::<Skip>(), Err(ParseSkipError));
    }
}
