//! Small parts of the format: variable-length integers, strings, byte strings. Hostile bytes give errors only.

use super::BatchError;
use bytes::{Buf, BufMut, Bytes};

/// LEB128.
pub fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8((value & 0x7F) as u8);
}

pub fn varint(from: &mut Bytes) -> Result<u64, BatchError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = byte(from)?;
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(BatchError::Invalid("integer"))
}

/// Zigzag, so that small negative differences stay short.
pub fn put_signed(out: &mut impl BufMut, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

pub fn signed(from: &mut Bytes) -> Result<i64, BatchError> {
    let value = varint(from)?;
    Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
}

pub fn byte(from: &mut Bytes) -> Result<u8, BatchError> {
    if from.has_remaining() {
        Ok(from.get_u8())
    } else {
        Err(BatchError::Truncated)
    }
}

pub fn put_bytes(out: &mut impl BufMut, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

pub fn bytes(from: &mut Bytes) -> Result<Bytes, BatchError> {
    let length = usize::try_from(varint(from)?).map_err(|_| BatchError::Truncated)?;
    if from.remaining() < length {
        return Err(BatchError::Truncated);
    }
    Ok(from.split_to(length))
}

pub fn text(from: &mut Bytes) -> Result<String, BatchError> {
    String::from_utf8(bytes(from)?.into()).map_err(|_| BatchError::Invalid("text"))
}
