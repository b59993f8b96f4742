//! What stands before an entry's block.

use super::{BatchError, EntryMeta, wire};
use crate::{
    failpoint,
    record::{Counters, Lsn, Position},
};
use bytes::{Buf, BufMut, Bytes};

const MAGIC: u8 = b'T';
/// The version that is written. The next one is of tests only: it has a further field, and shows what an upgrade and going back
/// do to a queue.
pub const VERSION: u8 = 2;
const NEXT: u8 = VERSION + 1;

fn is_next_written() -> bool {
    failpoint::is_broken("newer-entries")
}

/// The header of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub count: u32,
    pub first: Position,
    pub last: Position,
    pub meta: EntryMeta,
    /// Of the first record: microseconds since the Unix epoch.
    pub oldest: i64,
    /// Bytes of the block once unpacked.
    pub unpacked: u64,
}

impl Header {
    /// What follows the two bytes of magic and version in every entry whose last record is at `last`, whatever its version: a trim
    /// compares it (rule 7), also of entries that another version of this program has written.
    #[must_use]
    pub fn place(last: Position) -> Vec<u8> {
        let mut out = Vec::new();
        put_position(&mut out, last);
        out
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_u8(MAGIC);
        out.put_u8(if is_next_written() { NEXT } else { VERSION });
        out.put_slice(&Self::place(self.last));
        wire::put_varint(out, u64::from(self.count));
        for position in [self.first, self.meta.previous] {
            put_position(out, position);
        }
        wire::put_varint(out, self.meta.counters.received);
        wire::put_varint(out, self.meta.counters.filtered);
        wire::put_signed(out, self.oldest);
        wire::put_varint(out, self.unpacked);
        if is_next_written() {
            wire::put_varint(out, 0);
        }
    }

    /// Reads the header and leaves the block.
    ///
    /// # Errors
    /// The bytes are not an entry of a version that is known.
    pub fn split_from(from: &mut Bytes) -> Result<Self, BatchError> {
        if from.remaining() < 2 || wire::byte(from)? != MAGIC {
            return Err(BatchError::Invalid("magic"));
        }
        let version = wire::byte(from)?;
        if version != VERSION && !(version == NEXT && is_next_written()) {
            return Err(BatchError::UnknownVersion(version));
        }
        let last = position(from)?;
        let count = u32::try_from(wire::varint(from)?).map_err(|_| BatchError::Invalid("count"))?;
        let (first, previous) = (position(from)?, position(from)?);
        let meta = EntryMeta {
            previous,
            counters: Counters {
                received: wire::varint(from)?,
                filtered: wire::varint(from)?,
            },
        };
        let oldest = wire::signed(from)?;
        let unpacked = wire::varint(from)?;
        if version == NEXT {
            wire::varint(from)?;
        }
        Ok(Self {
            count,
            first,
            last,
            meta,
            oldest,
            unpacked,
        })
    }
}

pub(super) fn put_position(out: &mut impl BufMut, position: Position) {
    wire::put_varint(out, u64::from(position.generation));
    wire::put_varint(out, position.commit.0);
    wire::put_varint(out, position.change.0);
    wire::put_varint(out, u64::from(position.index));
}

pub(super) fn position(from: &mut Bytes) -> Result<Position, BatchError> {
    Ok(Position {
        generation: u32::try_from(wire::varint(from)?).map_err(|_| BatchError::Invalid("generation"))?,
        commit: Lsn(wire::varint(from)?),
        change: Lsn(wire::varint(from)?),
        index: u32::try_from(wire::varint(from)?).map_err(|_| BatchError::Invalid("index"))?,
    })
}
