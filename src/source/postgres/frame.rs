//! Splits what was received into the messages of the protocol.

use super::SourceError;
use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::backend::Header;

/// What is read at once.
pub(super) const READ_SIZE: usize = 128 * 1024;

/// One message of the server: its tag and what follows the length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

/// Splits the frame at the front off, without copying it. If it is not there whole, room for the rest of it is
/// made: a large row is so received into one allocation of its own size.
pub(super) fn split_frame(inbox: &mut BytesMut) -> Result<Option<Frame>, SourceError> {
    let Some(length) = frame_length(inbox)? else {
        return Ok(None);
    };
    if inbox.len() < length {
        inbox.reserve(length - inbox.len());
        return Ok(None);
    }
    let mut body = inbox.split_to(length).freeze();
    let tag = body.get_u8();
    body.advance(4);
    Ok(Some(Frame { tag, body }))
}

/// Postgres allocates a message as one `StringInfo`, of at most 1 GiB.
const MESSAGE_LIMIT: usize = (1 << 30) + (1 << 16);

/// The whole length of the frame at the front, if its header is there.
fn frame_length(inbox: &[u8]) -> Result<Option<usize>, SourceError> {
    let too_long = || SourceError::Protocol("a message of impossible length".to_owned());
    let Some(header) = Header::parse(inbox).map_err(|_| too_long())? else {
        return Ok(None);
    };
    let length = usize::try_from(header.len()).map_err(|_| too_long())? + 1;
    if length > MESSAGE_LIMIT {
        Err(too_long())
    } else {
        Ok(Some(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_of_impossible_length_is_refused() {
        assert_eq!(frame_length(b"d\0\0"), Ok(None));
        assert_eq!(frame_length(b"d\0\0\0\x08rest"), Ok(Some(9)));
        assert!(frame_length(b"d\x7F\xFF\xFF\xFF").is_err());
        assert!(frame_length(b"d\0\0\0\x01").is_err());
    }
}
