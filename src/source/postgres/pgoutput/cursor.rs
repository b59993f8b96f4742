//! Reads the fields of a message from its front.

use crate::record::{Lsn, Row, RowError};
use bytes::{Buf, Bytes, TryGetError};

/// The bytes are not a message of pgoutput. It quotes none of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("a message of the source ends too early")]
    Truncated,
    #[error("a message of the source is longer than its fields")]
    Trailing,
    #[error("a message of the source holds the unknown tag {0:#04x}")]
    UnknownTag(u8),
    #[error("a name sent by the source is not UTF-8")]
    NotUtf8,
    #[error("a row sent by the source is malformed")]
    Row,
}

impl From<TryGetError> for DecodeError {
    fn from(_: TryGetError) -> Self {
        Self::Truncated
    }
}

impl From<RowError> for DecodeError {
    fn from(_: RowError) -> Self {
        Self::Row
    }
}

/// What is left of a message.
pub(super) struct Cursor(pub(super) Bytes);

impl Cursor {
    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.0.try_get_u8()?)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(self.0.try_get_u16()?)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(self.0.try_get_u32()?)
    }

    pub(super) fn i32(&mut self) -> Result<i32, DecodeError> {
        Ok(self.0.try_get_i32()?)
    }

    pub(super) fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        Ok(Lsn(self.0.try_get_u64()?))
    }

    /// A time, as microseconds since the Unix epoch.
    pub(super) fn time(&mut self) -> Result<i64, DecodeError> {
        Ok(self.0.try_get_i64()?.saturating_add(super::POSTGRES_EPOCH))
    }

    /// A text that ends with a zero byte.
    pub(super) fn text(&mut self) -> Result<String, DecodeError> {
        let end = self
            .0
            .iter()
            .position(|byte| *byte == 0)
            .ok_or(DecodeError::Truncated)?;
        let text = self.0.split_to(end);
        self.0.advance(1);
        String::from_utf8(text.into()).map_err(|_| DecodeError::NotUtf8)
    }

    pub(super) fn bytes(&mut self, length: u32) -> Result<Bytes, DecodeError> {
        match usize::try_from(length) {
            Ok(length) if length <= self.0.len() => Ok(self.0.split_to(length)),
            _ => Err(DecodeError::Truncated),
        }
    }

    pub(super) fn row(&mut self) -> Result<Row, DecodeError> {
        Ok(Row::split_from(&mut self.0)?)
    }

    pub(super) fn end(&self) -> Result<(), DecodeError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::Trailing)
        }
    }
}
