//! Many parked records as bytes: a version, a card that holds for all of them, each record's keys, and the records as they
//! lay in the queue.

use super::{
    batch::{BatchError, decode, encode, wire},
    blob::{self, BlobError, Card},
};
use crate::record::{Counted, Counters, KeyHash, Once, PackId, PackKeys, ParkedRecord, Position, key_hash};
use bytes::{BufMut, Bytes};
use std::collections::HashSet;

const VERSION: u8 = 1;

/// What is known of a pack without its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    pub id: PackId,
    pub last: Position,
    pub count: u64,
    /// So many sleep.
    pub left: u64,
    /// When they were parked: microseconds since the Unix epoch.
    pub time: i64,
    /// The map's name then: ids begin with it.
    pub name: String,
    /// It has chosen all that sleep.
    pub operation: Option<String>,
    /// What sleeps is not wanted any more: it cannot be told whether it was replaced.
    pub superseded: Option<Once>,
}

impl Pack {
    /// Of the text that the script has written.
    pub(super) fn read(first: &str, cells: &[Option<Bytes>; 4]) -> Option<Self> {
        let text = |cell: &Option<Bytes>| Some(String::from_utf8_lossy(cell.as_ref()?).into_owned());
        let [meta, left, operation, superseded] = cells.each_ref().map(text);
        let meta = meta?;
        let mut words = meta.split(' ');
        let (last, count, time, base, name) = (
            words.next()?.parse().ok()?,
            words.next()?.parse().ok()?,
            words.next()?.parse().ok()?,
            words.next()?.parse().ok()?,
            words.next()?.to_owned(),
        );
        let first = first.parse().ok()?;
        Some(Self {
            id: PackId { first, base },
            last,
            count,
            left: left?.parse().ok()?,
            time,
            name,
            operation,
            superseded: superseded.and_then(|once| once.parse().ok()),
        })
    }

    /// Whether what sleeps in it waits for a retry, at a destination that is so far.
    pub(super) fn waits(&self, upto: Position) -> bool {
        self.last <= upto && self.superseded.is_none()
    }

    /// The id of the record at a place, as a record that lies alone would have it.
    fn id_of(&self, place: usize) -> String {
        format!("{}-e-{:08x}", self.name, self.id.base + place as u64)
    }

    /// The id of its last record.
    #[must_use]
    pub fn last_id(&self) -> String {
        self.id_of(
            usize::try_from(self.count)
                .unwrap_or(usize::MAX)
                .saturating_sub(1),
        )
    }

    /// Whether a record of this id lies in it, or lay.
    pub(super) fn has(&self, id: &str) -> bool {
        let number = |(name, number): (&str, &str)| {
            let number = u64::from_str_radix(number, 16).ok()?;
            (name == self.name).then_some(number)
        };
        let number = id.rsplit_once("-e-").and_then(number);
        number.is_some_and(|number| (self.id.base..self.id.base + self.count).contains(&number))
    }
}

/// Records of one refusal and one time, in order, and of one era.
pub(super) fn write(records: &[ParkedRecord]) -> Result<Vec<u8>, BlobError> {
    let first = records.first().ok_or(BatchError::Invalid("count"))?;
    let mut out = vec![VERSION];
    wire::put_bytes(&mut out, &Card::of(first)?);
    let mut keys = Vec::with_capacity(16 * records.len());
    for record in records {
        blob::put_keys(&mut keys, &record.keys);
    }
    wire::put_bytes(&mut out, &keys);
    let counted = |record: &ParkedRecord| Counted {
        change: record.change.clone(),
        counters: Counters::default(),
    };
    let counted: Vec<Counted> = records.iter().map(counted).collect();
    let packed = encode(&counted, Position::ZERO, std::iter::empty::<&[u8]>())?;
    out.put_slice(&packed.entry);
    Ok(out)
}

/// What sleeps in a pack. `woken` tells of each place whether it was woken: `1`.
pub(super) fn read(pack: &Pack, bytes: Bytes, woken: &[u8]) -> Result<Vec<Sleeper>, BlobError> {
    let (card, mut keys, entry) = split(bytes)?;
    let records = decode(entry)?;
    let mut sleepers = Vec::with_capacity(records.len());
    for (place, Counted { change, .. }) in records.into_iter().enumerate() {
        let keys = blob::keys(&mut keys)?;
        let mut record = card.record(pack.id_of(place), keys, change);
        record.operation.clone_from(&pack.operation);
        record.superseded = pack.superseded;
        let is_awake = woken.get(place) == Some(&b'1');
        sleepers.push(Sleeper {
            place,
            is_awake,
            record,
        });
    }
    Ok(sleepers)
}

/// The pack without rows and keys of those at these positions.
pub(super) fn without(mut sleepers: Vec<Sleeper>, gone: &HashSet<Position>) -> Result<Vec<u8>, BlobError> {
    let is_gone = |sleeper: &&mut Sleeper| gone.contains(&sleeper.record.change.position);
    for Sleeper { record, .. } in sleepers.iter_mut().filter(is_gone) {
        record.keys.clear();
        (record.change.old, record.change.new) = (None, None);
    }
    let records: Vec<ParkedRecord> = sleepers.into_iter().map(|sleeper| sleeper.record).collect();
    write(&records)
}

/// The keys of a pack: its records are not unpacked. Those of what was woken are among them, since Redis may lose that (I3).
pub(super) fn hashes(pack: &Pack, bytes: Bytes) -> Result<PackKeys, BlobError> {
    let (_, mut keys, _) = split(bytes)?;
    let mut hashes: Vec<KeyHash> = Vec::new();
    for _ in 0..pack.count {
        let keys = blob::keys(&mut keys)?;
        if pack.superseded.is_none() {
            hashes.extend(keys.iter().map(|key| key_hash(key)));
        }
    }
    Ok(PackKeys { id: pack.id, hashes })
}

fn split(mut bytes: Bytes) -> Result<(Card, Bytes, Bytes), BlobError> {
    match wire::byte(&mut bytes)? {
        VERSION => {}
        version => return Err(BatchError::UnknownVersion(version).into()),
    }
    let card = serde_json::from_slice(&wire::bytes(&mut bytes)?)?;
    let keys = wire::bytes(&mut bytes)?;
    Ok((card, keys, bytes))
}

/// A record of a pack.
#[derive(Clone, Debug)]
pub(super) struct Sleeper {
    pub place: usize,
    pub is_awake: bool,
    pub record: ParkedRecord,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        failure::{Class, Refusal},
        record::{Cell, Change, Lsn, Operation, Relation, ReplicaIdentity},
    };
    use proptest::prelude::*;
    use std::sync::Arc;

    fn records() -> Vec<ParkedRecord> {
        let relation = Arc::new(Relation {
            id: 1,
            schema: "public".into(),
            name: "items".into(),
            identity: ReplicaIdentity::Default,
            columns: Vec::new(),
        });
        let record = |(place, keys): (u64, &[&str])| ParkedRecord {
            id: format!("items-e-{:08x}", 9 + place),
            keys: keys.iter().map(|key| key.as_bytes().to_vec()).collect(),
            change: Change {
                position: Position::through(1, Lsn(100 + place)),
                operation: Operation::Insert,
                commit_time: 5,
                origin: None,
                relation: relation.clone(),
                old: None,
                new: Some([Cell::Text(b"secret"), Cell::Null].into_iter().collect()),
            },
            refusal: Refusal {
                class: Class::Application,
                code: "Skipped".into(),
                object: None,
                server_text: String::new(),
                remedy: "Retry it.".into(),
            },
            first_time: 7,
            last_time: 7,
            attempts: 1,
            unjudged: false,
            superseded: None,
            moved: None,
            completed: None,
            operation: None,
        };
        let keys: [&[&str]; 4] = [&["a"], &["b"], &["a", "c"], &["a"]];
        (0..).zip(keys).map(record).collect()
    }

    fn pack() -> Pack {
        let position = |lsn| Position::through(1, Lsn(lsn));
        let meta = format!("{} 4 7 9 items", position(103));
        let cells = [Some(Bytes::from(meta)), Some("4".into()), None, None];
        Pack::read(&position(100).to_string(), &cells).unwrap()
    }

    #[test]
    fn records_read_back_each_with_its_id() {
        let (pack, bytes) = (pack(), Bytes::from(write(&records()).unwrap()));
        let sleepers = read(&pack, bytes.clone(), b"0100").unwrap();
        let awake: Vec<bool> = sleepers.iter().map(|sleeper| sleeper.is_awake).collect();
        assert_eq!(awake, [false, true, false, false]);
        let read: Vec<ParkedRecord> = sleepers.into_iter().map(|sleeper| sleeper.record).collect();
        assert_eq!(read, records());
        let hashes: Vec<KeyHash> = ["a", "b", "a", "c", "a"]
            .map(|key| key_hash(key.as_bytes()))
            .into();
        assert_eq!(super::hashes(&pack, bytes).unwrap().hashes, hashes);
        assert!(
            pack.has("items-e-0000000c") && !pack.has("items-e-0000000d") && !pack.has("other-e-00000009")
        );
        assert_eq!(pack.last_id(), "items-e-0000000c");
    }

    #[test]
    fn what_was_given_up_leaves_nothing() {
        let pack = pack();
        let sleepers = read(&pack, write(&records()).unwrap().into(), b"1011").unwrap();
        let gone = [0, 2, 3].map(|place: usize| records()[place].change.position);
        let left = without(sleepers, &gone.into()).unwrap();
        let left: Vec<ParkedRecord> = read(&pack, left.into(), b"1011")
            .unwrap()
            .into_iter()
            .map(|sleeper| sleeper.record)
            .collect();
        assert_eq!(left[1], records()[1]);
        for place in [0, 2, 3] {
            let record = &left[place];
            assert!(record.keys.is_empty() && record.change.new.is_none());
            assert_eq!(record.change.position, records()[place].change.position);
        }
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(at in 0_usize..1000, value in any::<u8>(), length in 0_usize..1000) {
            let mut bytes = write(&records()).unwrap();
            let at = at % bytes.len();
            bytes[at] = value;
            bytes.truncate(length);
            let bytes = Bytes::from(bytes);
            let _ = read(&pack(), bytes.clone(), b"0100");
            let _ = hashes(&pack(), bytes);
        }
    }
}
