//! One function a message.

use super::{Begin, Commit, DecodeError, Message, cursor::Cursor};
use crate::record::{Column, OldRow, Relation, ReplicaIdentity};
use bytes::Bytes;

/// Decodes one message: the whole content of one `XLogData`.
///
/// # Errors
/// The bytes are no message of protocol version 1.
pub fn decode(bytes: Bytes) -> Result<Message, DecodeError> {
    let mut cursor = Cursor(bytes);
    let message = match cursor.u8()? {
        b'B' => begin(&mut cursor)?,
        b'C' => commit(&mut cursor)?,
        b'R' => Message::Relation(relation(&mut cursor)?),
        b'I' => insert(&mut cursor)?,
        b'U' => update(&mut cursor)?,
        b'D' => delete(&mut cursor)?,
        b'T' => truncate(&mut cursor)?,
        b'O' => Message::Origin {
            lsn: cursor.lsn()?,
            name: cursor.text()?,
        },
        b'Y' => Message::Type {
            id: cursor.u32()?,
            schema: schema(&mut cursor)?,
            name: cursor.text()?,
        },
        b'M' => logical(&mut cursor)?,
        tag => return Err(DecodeError::UnknownTag(tag)),
    };
    cursor.end()?;
    Ok(message)
}

fn begin(cursor: &mut Cursor) -> Result<Message, DecodeError> {
    Ok(Message::Begin(Begin {
        final_lsn: cursor.lsn()?,
        commit_time: cursor.time()?,
        xid: cursor.u32()?,
    }))
}

fn commit(cursor: &mut Cursor) -> Result<Message, DecodeError> {
    cursor.u8()?; // flags: none are defined
    Ok(Message::Commit(Commit {
        commit_lsn: cursor.lsn()?,
        end_lsn: cursor.lsn()?,
        commit_time: cursor.time()?,
    }))
}

/// An empty schema stands for `pg_catalog`.
fn schema(cursor: &mut Cursor) -> Result<String, DecodeError> {
    let name = cursor.text()?;
    Ok(if name.is_empty() {
        "pg_catalog".to_owned()
    } else {
        name
    })
}

fn relation(cursor: &mut Cursor) -> Result<Relation, DecodeError> {
    let id = cursor.u32()?;
    let schema = schema(cursor)?;
    let name = cursor.text()?;
    let identity = match cursor.u8()? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        tag => return Err(DecodeError::UnknownTag(tag)),
    };
    let count = cursor.u16()?;
    let columns = (0..count).map(|_| column(cursor)).collect::<Result<_, _>>()?;
    Ok(Relation {
        id,
        schema,
        name,
        identity,
        columns,
    })
}

fn column(cursor: &mut Cursor) -> Result<Column, DecodeError> {
    let key = cursor.u8()? & 1 == 1;
    Ok(Column {
        key,
        name: cursor.text()?,
        type_oid: cursor.u32()?,
        type_modifier: cursor.i32()?,
    })
}

fn insert(cursor: &mut Cursor) -> Result<Message, DecodeError> {
    let relation = cursor.u32()?;
    expect(cursor, b'N')?;
    Ok(Message::Insert {
        relation,
        new: cursor.row()?,
    })
}

fn update(cursor: &mut Cursor) -> Result<Message, DecodeError> {
    let relation = cursor.u32()?;
    let old = match cursor.u8()? {
        b'N' => None,
        kind => {
            let old = old_row(cursor, kind)?;
            expect(cursor, b'N')?;
            Some(old)
        }
    };
    Ok(Message::Update {
        relation,
        old,
        new: cursor.row()?,
    })
}

fn delete(cursor: &mut Cursor) -> Result<Message, DecodeError> {
    let relation = cursor.u32()?;
    let kind = cursor.u8()?;
    Ok(Message::Delete {
        relation,
        old: old_row(cursor, kind)?,
    })
}

fn old_row(cursor: &mut Cursor, kind: u8) -> Result<OldRow, DecodeError> {
    match kind {
        b'K' => Ok(OldRow::Key(cursor.row()?)),
        b'O' => Ok(OldRow::Full(cursor.row()?)),
        tag => Err(DecodeError::UnknownTag(tag)),
    }
}

fn expect(cursor: &mut Cursor, tag: u8) -> Result<(), DecodeError> {
    let found = cursor.u8()?;
    if found == tag {
        Ok(())
    } else {
        Err(DecodeError::UnknownTag(found))
    }
}

fn truncate(cursor: &mut Cursor) -> Result<Message, DecodeError> {
    let count = cursor.u32()?;
    cursor.u8()?; // options: CASCADE, RESTART IDENTITY
    // The count is only the sender's word: collecting ends with the bytes, and reserves nothing for it.
    let relations = std::iter::repeat_with(|| cursor.u32())
        .take(usize::try_from(count).unwrap_or(usize::MAX))
        .try_fold(Vec::new(), |mut ids, id| {
            ids.push(id?);
            Ok::<_, DecodeError>(ids)
        })?;
    Ok(Message::Truncate { relations })
}

fn logical(cursor: &mut Cursor) -> Result<Message, DecodeError> {
    let transactional = cursor.u8()? & 1 == 1;
    let lsn = cursor.lsn()?;
    let prefix = cursor.text()?;
    let length = cursor.u32()?;
    Ok(Message::Logical {
        transactional,
        lsn,
        prefix,
        content: cursor.bytes(length)?,
    })
}
