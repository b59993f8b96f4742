use super::*;
use crate::record::{Cell, Column, ReplicaIdentity};
use bytes::{BufMut, BytesMut};
use proptest::prelude::*;

fn row(cells: &[Cell<'_>]) -> Row {
    cells.iter().copied().collect()
}

fn message(tag: u8, write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(tag);
    write(&mut bytes);
    bytes.freeze()
}

/// One of each, as Postgres sends them.
#[allow(clippy::too_many_lines, reason = "a table: one sample a kind of message")]
fn samples() -> Vec<(Bytes, Message)> {
    let (key, full) = (
        row(&[Cell::Text(b"1"), Cell::Null]),
        row(&[Cell::Text(b"1"), Cell::NotSent]),
    );
    let begin = message(b'B', |b| {
        b.put_u64(100);
        b.put_i64(5);
        b.put_u32(7);
    });
    let commit = message(b'C', |b| {
        b.put_u8(0);
        b.put_u64(100);
        b.put_u64(148);
        b.put_i64(5);
    });
    let relation = message(b'R', |b| {
        b.put_u32(16384);
        b.put_slice("käse\0a.\"b\"\0".as_bytes());
        b.put_slice(b"d\0\x01\x01id\0");
        b.put_u32(23);
        b.put_i32(-1);
    });
    let update = message(b'U', |b| {
        b.put_u32(16384);
        b.put_u8(b'K');
        b.put_slice(key.as_bytes());
        b.put_u8(b'N');
        b.put_slice(full.as_bytes());
    });
    let rest = |tag, kind, row: &Row| {
        message(tag, |b| {
            b.put_u32(16384);
            b.put_u8(kind);
            b.put_slice(row.as_bytes());
        })
    };
    vec![
        (
            begin,
            Message::Begin(Begin {
                final_lsn: Lsn(100),
                commit_time: POSTGRES_EPOCH + 5,
                xid: 7,
            }),
        ),
        (
            commit,
            Message::Commit(Commit {
                commit_lsn: Lsn(100),
                end_lsn: Lsn(148),
                commit_time: POSTGRES_EPOCH + 5,
            }),
        ),
        (
            relation,
            Message::Relation(Relation {
                id: 16384,
                schema: "käse".into(),
                name: "a.\"b\"".into(),
                identity: ReplicaIdentity::Default,
                columns: vec![Column {
                    name: "id".into(),
                    type_oid: 23,
                    type_modifier: -1,
                    key: true,
                }],
            }),
        ),
        (
            rest(b'I', b'N', &full),
            Message::Insert {
                relation: 16384,
                new: full.clone(),
            },
        ),
        (
            update,
            Message::Update {
                relation: 16384,
                old: Some(OldRow::Key(key.clone())),
                new: full.clone(),
            },
        ),
        (
            rest(b'U', b'N', &full),
            Message::Update {
                relation: 16384,
                old: None,
                new: full.clone(),
            },
        ),
        (
            rest(b'D', b'K', &key),
            Message::Delete {
                relation: 16384,
                old: OldRow::Key(key),
            },
        ),
        (
            rest(b'D', b'O', &full),
            Message::Delete {
                relation: 16384,
                old: OldRow::Full(full),
            },
        ),
        (
            message(b'T', |b| b.put_slice(&[0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 2])),
            Message::Truncate {
                relations: vec![1, 2],
            },
        ),
        (
            message(b'O', |b| b.put_slice(b"\0\0\0\0\0\0\0\x09o\0")),
            Message::Origin {
                lsn: Lsn(9),
                name: "o".into(),
            },
        ),
        (
            message(b'Y', |b| b.put_slice(b"\0\0\0\x01\0mood\0")),
            Message::Type {
                id: 1,
                schema: "pg_catalog".into(),
                name: "mood".into(),
            },
        ),
        (
            message(b'M', |b| b.put_slice(b"\x01\0\0\0\0\0\0\0\x09p\0\0\0\0\x02hi")),
            Message::Logical {
                transactional: true,
                lsn: Lsn(9),
                prefix: "p".into(),
                content: Bytes::from_static(b"hi"),
            },
        ),
    ]
}

#[test]
fn every_message_is_read_as_it_was_sent() {
    for (bytes, message) in samples() {
        assert_eq!(decode(bytes), Ok(message));
    }
}

#[test]
fn a_message_cut_short_anywhere_or_too_long_is_an_error() {
    for (bytes, message) in samples() {
        for end in 0..bytes.len() {
            assert!(decode(bytes.slice(..end)).is_err(), "{message:?} cut at {end}");
        }
        let longer = Bytes::from([&bytes[..], b"x"].concat());
        assert!(decode(longer).is_err(), "{message:?} with one byte more");
    }
}

#[test]
fn counts_and_lengths_beyond_the_bytes_are_errors() {
    let truncate = message(b'T', |b| b.put_slice(&[0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 1]));
    assert_eq!(decode(truncate), Err(DecodeError::Truncated));
    let relation = message(b'R', |b| b.put_slice(b"\0\0\0\x01s\0t\0d\xFF\xFF"));
    assert_eq!(decode(relation), Err(DecodeError::Truncated));
}

#[test]
fn rows_are_slices_of_what_was_received() {
    let (bytes, _) = samples().swap_remove(3);
    let Ok(Message::Insert { new, .. }) = decode(bytes.clone()) else {
        panic!("an insert")
    };
    assert!(bytes.as_ptr_range().contains(&new.as_bytes().as_ptr()));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(Bytes::from(bytes));
    }

    #[test]
    fn changed_messages_never_panic(
        sample in 0..12_usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = samples()[sample].0.to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        let length = bytes.len();
        match decode(Bytes::from(bytes)) {
            Ok(Message::Truncate { relations }) => prop_assert!(relations.len() <= length),
            Ok(Message::Relation(relation)) => prop_assert!(relation.columns.len() <= length),
            _ => {}
        }
    }
}
