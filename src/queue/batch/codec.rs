//! Packing and unpacking the block of an entry.

use super::{BatchError, EntryMeta, Header, Packed, bloom, wire};
use crate::record::{
    Change, Column, Counted, Counters, OldRow, Operation, Position, Relation, ReplicaIdentity, Row,
};
use bytes::{Buf, BufMut, Bytes};
use std::sync::Arc;

/// The block of one entry may unpack to this much: a row of Postgres ends at 1 GiB.
const MOST: u64 = 2 << 30;
const LEVEL: i32 = 1;

/// Packs records, in order, into one entry. `keys` feed its filter, `previous` is where custody reached before it.
///
/// # Errors
/// The block could not be packed.
pub fn encode<K: AsRef<[u8]>>(
    records: &[Counted],
    previous: Position,
    keys: impl Iterator<Item = K>,
) -> Result<Packed, BatchError> {
    let block = block(records);
    let (Some(first), Some(last)) = (records.first(), records.last()) else {
        return Err(BatchError::Invalid("count"));
    };
    if first.change.position.generation != last.change.position.generation {
        return Err(BatchError::Invalid("generation"));
    }
    let header = Header {
        count: u32::try_from(records.len()).map_err(|_| BatchError::TooLarge)?,
        first: first.change.position,
        last: last.change.position,
        meta: EntryMeta {
            previous,
            counters: last.counters,
        },
        oldest: first.change.commit_time,
        unpacked: block.len() as u64,
    };
    let packed = zstd::bulk::compress(&block, LEVEL).map_err(|_| BatchError::Pack)?;
    drop(block);
    let mut entry = Vec::with_capacity(packed.len() + 64);
    header.write(&mut entry);
    entry.extend_from_slice(&packed);
    Ok(Packed {
        entry: entry.into(),
        filter: bloom::build(keys, records.len()),
    })
}

/// Unpacks an entry. Rows are slices of the one unpacked block.
///
/// # Errors
/// The bytes are not an entry that [`encode`] made.
pub fn decode(mut entry: Bytes) -> Result<Vec<Counted>, BatchError> {
    let header = Header::split_from(&mut entry)?;
    if header.unpacked > MOST {
        return Err(BatchError::TooLarge);
    }
    // The size is only claimed: grow towards it, so that a lie costs nothing.
    let claimed = usize::try_from(header.unpacked).map_err(|_| BatchError::TooLarge)?;
    let size = zstd::zstd_safe::get_frame_content_size(&entry).ok().flatten();
    if size != Some(header.unpacked) {
        return Err(BatchError::Unpack);
    }
    let ratio_is_sane = entry.len() as u64 * 40_000 + 1024 >= header.unpacked;
    if !ratio_is_sane {
        return Err(BatchError::Unpack);
    }
    let block = zstd::bulk::decompress(&entry, claimed).map_err(|_| BatchError::Unpack)?;
    unpack(block.into(), header.count)
}

/// One record alone, as the error store keeps it.
#[must_use]
pub fn encode_one(change: &Change) -> Vec<u8> {
    block(&[Counted {
        change: change.clone(),
        counters: Counters::default(),
    }])
}

/// Reads what [`encode_one`] made.
///
/// # Errors
/// The bytes are of another form.
pub fn decode_one(bytes: Bytes) -> Result<Change, BatchError> {
    let record = unpack(bytes, 1)?.pop().ok_or(BatchError::Truncated)?;
    Ok(record.change)
}

fn block(records: &[Counted]) -> Vec<u8> {
    let size: usize = records.iter().map(|record| record.change.size() + 24).sum();
    let mut out = Vec::with_capacity(size + 256);
    let mut relations: Vec<&Arc<Relation>> = Vec::new();
    let indexes: Vec<usize> = records
        .iter()
        .map(|record| index_of(&mut relations, &record.change.relation))
        .collect();
    wire::put_varint(&mut out, relations.len() as u64);
    for relation in &relations {
        put_relation(&mut out, relation);
    }
    let generation = records
        .first()
        .map_or(0, |record| record.change.position.generation);
    wire::put_varint(&mut out, u64::from(generation));
    let mut previous = Base::default();
    for (Counted { change, counters }, relation) in records.iter().zip(indexes) {
        let Position {
            generation: _,
            commit,
            change: lsn,
            index,
        } = change.position;
        out.put_u8(kind(change));
        wire::put_varint(&mut out, relation as u64);
        wire::put_signed(&mut out, commit.0.wrapping_sub(previous.commit).cast_signed());
        wire::put_signed(&mut out, lsn.0.wrapping_sub(previous.lsn).cast_signed());
        wire::put_varint(&mut out, u64::from(index));
        wire::put_signed(&mut out, change.commit_time.wrapping_sub(previous.time));
        wire::put_varint(
            &mut out,
            counters.received.wrapping_sub(previous.counters.received),
        );
        wire::put_varint(
            &mut out,
            counters.filtered.wrapping_sub(previous.counters.filtered),
        );
        previous = Base {
            generation,
            commit: commit.0,
            lsn: lsn.0,
            time: change.commit_time,
            counters: *counters,
        };
        if let Some(old) = &change.old {
            out.put_slice(old.row().as_bytes());
        }
        if let Some(new) = &change.new {
            out.put_slice(new.as_bytes());
        }
    }
    out
}

/// What the numbers of a record are told as differences from: those of the record before it.
#[derive(Clone, Copy, Default)]
struct Base {
    /// The same for all: an entry holds records of one era.
    generation: u32,
    commit: u64,
    lsn: u64,
    time: i64,
    counters: Counters,
}

fn index_of<'a>(relations: &mut Vec<&'a Arc<Relation>>, relation: &'a Arc<Relation>) -> usize {
    let known = relations
        .iter()
        .rposition(|known| Arc::ptr_eq(known, relation) || *known == relation);
    known.unwrap_or_else(|| {
        relations.push(relation);
        relations.len() - 1
    })
}

const OLD_KEY: u8 = 4;
const OLD_FULL: u8 = 8;
const NEW: u8 = 16;

fn kind(change: &Change) -> u8 {
    let operation = match change.operation {
        Operation::Insert => 0,
        Operation::Update => 1,
        Operation::Delete => 2,
    };
    let old = match change.old {
        None => 0,
        Some(OldRow::Key(_)) => OLD_KEY,
        Some(OldRow::Full(_)) => OLD_FULL,
    };
    operation | old | if change.new.is_some() { NEW } else { 0 }
}

fn unpack(mut from: Bytes, count: u32) -> Result<Vec<Counted>, BatchError> {
    let relations = (0..wire::varint(&mut from)?).map_while(|_| {
        if from.has_remaining() {
            Some(relation(&mut from).map(Arc::new))
        } else {
            None
        }
    });
    let relations: Vec<Arc<Relation>> = relations.collect::<Result<_, _>>()?;
    let generation =
        u32::try_from(wire::varint(&mut from)?).map_err(|_| BatchError::Invalid("generation"))?;
    // A record takes at least eight bytes: no more than that many can be there.
    let mut records = Vec::with_capacity((count as usize).min(from.remaining() / 8 + 1));
    let mut previous = Base {
        generation,
        ..Base::default()
    };
    for _ in 0..count {
        records.push(record(&mut from, &relations, &mut previous)?);
    }
    if from.has_remaining() {
        Err(BatchError::Invalid("length"))
    } else {
        Ok(records)
    }
}

fn record(from: &mut Bytes, relations: &[Arc<Relation>], previous: &mut Base) -> Result<Counted, BatchError> {
    let kind = wire::byte(from)?;
    let operation = match kind & 3 {
        0 => Operation::Insert,
        1 => Operation::Update,
        2 => Operation::Delete,
        _ => return Err(BatchError::Invalid("operation")),
    };
    let relation = usize::try_from(wire::varint(from)?)
        .ok()
        .and_then(|index| relations.get(index));
    let relation = relation.ok_or(BatchError::Invalid("relation"))?.clone();
    let commit = previous.commit.wrapping_add_signed(wire::signed(from)?);
    let lsn = previous.lsn.wrapping_add_signed(wire::signed(from)?);
    let index = u32::try_from(wire::varint(from)?).map_err(|_| BatchError::Invalid("index"))?;
    let time = previous.time.wrapping_add(wire::signed(from)?);
    let counters = Counters {
        received: previous.counters.received.wrapping_add(wire::varint(from)?),
        filtered: previous.counters.filtered.wrapping_add(wire::varint(from)?),
    };
    let generation = previous.generation;
    *previous = Base {
        generation,
        commit,
        lsn,
        time,
        counters,
    };
    let mut row = || Row::split_from(from).map_err(|_| BatchError::Invalid("row"));
    let old = match kind & (OLD_KEY | OLD_FULL) {
        0 => None,
        OLD_KEY => Some(OldRow::Key(row()?)),
        OLD_FULL => Some(OldRow::Full(row()?)),
        _ => return Err(BatchError::Invalid("old row")),
    };
    let new = if kind & NEW == 0 { None } else { Some(row()?) };
    let position = Position {
        generation,
        commit: crate::record::Lsn(commit),
        change: crate::record::Lsn(lsn),
        index,
    };
    let change = Change {
        position,
        operation,
        commit_time: time,
        origin: None,
        relation,
        old,
        new,
    };
    Ok(Counted { change, counters })
}

fn put_relation(out: &mut Vec<u8>, relation: &Relation) {
    wire::put_varint(out, u64::from(relation.id));
    wire::put_bytes(out, relation.schema.as_bytes());
    wire::put_bytes(out, relation.name.as_bytes());
    out.put_u8(match relation.identity {
        ReplicaIdentity::Default => b'd',
        ReplicaIdentity::Nothing => b'n',
        ReplicaIdentity::Full => b'f',
        ReplicaIdentity::Index => b'i',
    });
    wire::put_varint(out, relation.columns.len() as u64);
    for column in &relation.columns {
        wire::put_bytes(out, column.name.as_bytes());
        wire::put_varint(out, u64::from(column.type_oid));
        wire::put_signed(out, i64::from(column.type_modifier));
        out.put_u8(u8::from(column.key));
    }
}

fn relation(from: &mut Bytes) -> Result<Relation, BatchError> {
    let small = |value: u64, what| u32::try_from(value).map_err(|_| BatchError::Invalid(what));
    let id = small(wire::varint(from)?, "relation")?;
    let (schema, name) = (wire::text(from)?, wire::text(from)?);
    let identity = match wire::byte(from)? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        _ => return Err(BatchError::Invalid("identity")),
    };
    let count = wire::varint(from)?;
    let mut columns = Vec::new();
    for _ in 0..count {
        columns.push(Column {
            name: wire::text(from)?,
            type_oid: small(wire::varint(from)?, "type")?,
            type_modifier: i32::try_from(wire::signed(from)?).map_err(|_| BatchError::Invalid("modifier"))?,
            key: wire::byte(from)? != 0,
        });
    }
    Ok(Relation {
        id,
        schema,
        name,
        identity,
        columns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Cell, Lsn};
    use proptest::prelude::*;

    fn sample(count: u64) -> Vec<Counted> {
        let relation = Arc::new(Relation {
            id: 7,
            schema: "public".into(),
            name: "Kunden".into(),
            identity: ReplicaIdentity::Default,
            columns: vec![Column {
                name: "nr".into(),
                type_oid: 20,
                type_modifier: -1,
                key: true,
            }],
        });
        let row = |text: &str| -> Row {
            [Cell::Text(text.as_bytes()), Cell::Null, Cell::NotSent]
                .into_iter()
                .collect()
        };
        (1..=count)
            .map(|i| Counted {
                counters: Counters {
                    received: 100 + i + i / 7,
                    filtered: i / 7,
                },
                change: Change {
                    position: Position {
                        generation: 5,
                        commit: Lsn(1000 + i / 3),
                        change: Lsn(i * 17),
                        index: u32::from(i % 2 == 0),
                    },
                    operation: [Operation::Insert, Operation::Update, Operation::Delete]
                        [usize::try_from(i % 3).unwrap()],
                    commit_time: 1_700_000_000_000_000 + i64::try_from(i).unwrap(),
                    origin: None,
                    relation: relation.clone(),
                    old: (i % 3 != 0).then(|| OldRow::Key(row("old"))),
                    new: (i % 3 != 2).then(|| row(&format!("value {i}"))),
                },
            })
            .collect()
    }

    #[test]
    fn records_read_back_as_they_were_written() {
        let records = sample(500);
        let keys = ["a", "b"];
        let previous = Position::through(5, Lsn(7));
        let Packed { entry: bytes, filter } = encode(&records, previous, keys.iter()).unwrap();
        let header = Header::split_from(&mut bytes.clone()).unwrap();
        let (first, last) = (&records[0], &records[499]);
        let counters = last.counters;
        assert_eq!(
            (header.count, header.meta),
            (500, EntryMeta { previous, counters })
        );
        assert_eq!(
            (header.first, header.last),
            (first.change.position, last.change.position)
        );
        assert!(bytes[2..].starts_with(&Header::place(last.change.position)));
        assert!(bloom::may_hold(&filter, b"a"));
        assert_eq!(decode(bytes).unwrap(), records);
        let change = &records[3].change;
        assert_eq!(decode_one(encode_one(change).into()).unwrap(), *change);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(Bytes::from(bytes.clone()));
            let _ = unpack(Bytes::from(bytes), u32::MAX);
        }

        #[test]
        fn a_damaged_entry_never_panics(at in 0_usize..400, value in any::<u8>()) {
            let packed = encode(&sample(40), Position::ZERO, ["k"].iter()).unwrap();
            let mut bytes = packed.entry.to_vec();
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = decode(bytes.into());
        }
    }
}
