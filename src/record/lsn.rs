//! A byte position in the source's write-ahead log.

use std::{fmt, str::FromStr};

/// A log sequence number, printed as Postgres does: two hexadecimal halves (`3A/7F0012C8`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// The text is not a log sequence number.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a log sequence number")]
pub struct ParseLsnError;

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (high, low) = text.split_once('/').ok_or(ParseLsnError)?;
        let half = |part: &str| u32::from_str_radix(part, 16).map_err(|_| ParseLsnError);
        Ok(Self(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_the_one_postgres_prints() {
        let lsn = Lsn(0x3A_7F00_12C8);
        assert_eq!(lsn.to_string(), "3A/7F0012C8");
        assert_eq!("3A/7F0012C8".parse(), Ok(lsn));
        assert_eq!("3A7F0012C8".parse::<Lsn>(), Err(ParseLsnError));
        assert_eq!("1/100000000".parse::<Lsn>(), Err(ParseLsnError));
    }
}
