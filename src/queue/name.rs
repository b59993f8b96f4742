//! What a queued record is called: its map, its entry, and its place in the source's log, so that no other record ever has
//! the name, whatever a Redis that went back holds under the entry's number.

use crate::record::{Lsn, Position};

/// A name, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuedName<'a> {
    pub map: &'a str,
    pub seq: u64,
    change: Lsn,
    index: u32,
}

/// The name of a record of an entry.
#[must_use]
pub fn queued_name(map: &str, seq: u64, position: Position) -> String {
    format!("{map}-q-{seq}-{:x}-{}", position.change.0, position.index)
}

impl<'a> QueuedName<'a> {
    /// None: no record is called so.
    #[must_use]
    pub fn read(name: &'a str) -> Option<Self> {
        let (rest, index) = name.rsplit_once('-')?;
        let (rest, change) = rest.rsplit_once('-')?;
        let (rest, seq) = rest.rsplit_once('-')?;
        let read = Self {
            map: rest.strip_suffix("-q")?,
            seq: seq.parse().ok()?,
            change: Lsn(u64::from_str_radix(change, 16).ok()?),
            index: index.parse().ok()?,
        };
        let again = format!("{}-q-{}-{:x}-{}", read.map, read.seq, read.change.0, read.index);
        (again == name).then_some(read)
    }

    /// Whether it names the record at this position.
    #[must_use]
    pub fn is_at(&self, position: Position) -> bool {
        (self.change, self.index) == (position.change, position.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back() {
        let position = Position {
            change: Lsn(0x193_c6f8),
            index: 2,
            ..Position::ZERO
        };
        let name = queued_name("a-q-1", 7, position);
        assert_eq!(name, "a-q-1-q-7-193c6f8-2");
        let read = QueuedName::read(&name).unwrap();
        assert_eq!((read.map, read.seq), ("a-q-1", 7));
        assert!(read.is_at(position) && !read.is_at(Position::ZERO));
        for other in [
            "a-e-0000001a",
            "a-q-7-1",
            "a-q-+7-1-1",
            "a-q-7-01-1",
            "a-q-7-1F-1",
        ] {
            assert_eq!(QueuedName::read(other), None, "{other}");
        }
    }
}
