//! A row as a list of cells, kept as the bytes that the source sent.

use bytes::{BufMut, Bytes, BytesMut};

/// One column's value in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    Null,
    /// An unchanged TOAST value that the source did not send.
    NotSent,
    /// The source's text form.
    Text(&'a [u8]),
}

/// A row in pgoutput's `TupleData` encoding (`PostgreSQL` manual, "Logical Replication Message Formats"): a 16-bit
/// count, then for each column `n`, `u`, or `t` with a 32-bit length and the text. Checked once when made, so that
/// reading it cannot fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row(Bytes);

/// The bytes are not a row.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RowError {
    #[error("the row ends in the middle of a cell")]
    Truncated,
    #[error("the row holds a cell of unknown kind {0:#04x}")]
    UnknownKind(u8),
}

impl Row {
    /// Splits the row at the front of `bytes` off, without copying it.
    ///
    /// # Errors
    /// The bytes are cut short, or hold a cell of another kind than the three above.
    pub fn split_from(bytes: &mut Bytes) -> Result<Self, RowError> {
        let length = measure(bytes)?;
        Ok(Self(bytes.split_to(length)))
    }

    /// The encoded bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The number of columns.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(u16::from_be_bytes([self.0[0], self.0[1]]))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The cells in column order.
    #[must_use]
    pub fn cells(&self) -> Cells<'_> {
        Cells { rest: &self.0[2..] }
    }
}

/// The length in bytes of the row at the front.
fn measure(bytes: &[u8]) -> Result<usize, RowError> {
    let count = bytes.get(..2).ok_or(RowError::Truncated)?;
    let count = u16::from_be_bytes([count[0], count[1]]);
    let mut at = 2;
    for _ in 0..count {
        match bytes.get(at).ok_or(RowError::Truncated)? {
            b'n' | b'u' => at += 1,
            b't' => {
                let length = bytes.get(at + 1..at + 5).ok_or(RowError::Truncated)?;
                let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
                at += 5;
                if bytes.len() - at < length {
                    return Err(RowError::Truncated);
                }
                at += length;
            }
            kind => return Err(RowError::UnknownKind(*kind)),
        }
    }
    Ok(at)
}

/// The cells of a [`Row`], in column order.
#[derive(Clone, Debug)]
pub struct Cells<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Cells<'a> {
    type Item = Cell<'a>;

    fn next(&mut self) -> Option<Cell<'a>> {
        let (kind, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(match kind {
            b'n' => Cell::Null,
            b'u' => Cell::NotSent,
            _ => {
                let (length, rest) = rest.split_first_chunk::<4>()?;
                let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
                self.rest = rest;
                Cell::Text(text)
            }
        })
    }
}

/// Writes a row cell by cell.
#[derive(Debug, Default)]
pub struct RowBuilder {
    bytes: BytesMut,
    count: u16,
}

impl RowBuilder {
    #[must_use]
    pub fn new() -> Self {
        let mut bytes = BytesMut::new();
        bytes.put_u16(0);
        Self { bytes, count: 0 }
    }

    /// Appends one cell. A text over 4 GiB cannot come from Postgres, whose values end at 1 GiB.
    pub fn push(&mut self, cell: Cell<'_>) {
        self.count += 1;
        match cell {
            Cell::Null => self.bytes.put_u8(b'n'),
            Cell::NotSent => self.bytes.put_u8(b'u'),
            Cell::Text(text) => {
                self.bytes.put_u8(b't');
                self.bytes.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
                self.bytes.put_slice(text);
            }
        }
    }

    #[must_use]
    pub fn finish(mut self) -> Row {
        self.bytes[..2].copy_from_slice(&self.count.to_be_bytes());
        Row(self.bytes.freeze())
    }
}

impl<'a> FromIterator<Cell<'a>> for Row {
    fn from_iter<I: IntoIterator<Item = Cell<'a>>>(cells: I) -> Self {
        let mut row = RowBuilder::new();
        cells.into_iter().for_each(|cell| row.push(cell));
        row.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cells_read_back_as_they_were_written() {
        let cells = [Cell::Text(b"a"), Cell::Null, Cell::NotSent, Cell::Text(b"")];
        let row: Row = cells.into_iter().collect();
        assert_eq!(row.len(), 4);
        assert_eq!(row.cells().collect::<Vec<_>>(), cells);
    }

    #[test]
    fn a_row_is_split_off_and_the_rest_stays() {
        let row: Row = [Cell::Text(b"key")].into_iter().collect();
        let mut bytes = Bytes::from([row.as_bytes(), b"rest"].concat());
        assert_eq!(Row::split_from(&mut bytes), Ok(row));
        assert_eq!(&bytes[..], b"rest");
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(row) = Row::split_from(&mut Bytes::from(bytes)) {
                prop_assert_eq!(row.cells().count(), row.len());
            }
        }
    }
}
