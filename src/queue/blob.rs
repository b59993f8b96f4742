//! One parked record as bytes: a version, a card, its keys, and the record itself.

use super::batch::{BatchError, decode_one, encode_one, wire};
use crate::{
    failure::{Class, Refusal},
    record::{Change, ParkedRecord},
};
use bytes::{BufMut, Bytes};
use serde::{Deserialize, Serialize};

const VERSION: u8 = 2;
/// A record has its own key and the one before at most.
const MOST_KEYS: u64 = 16;

/// What is said of the record.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Card {
    class: String,
    code: String,
    object: Option<String>,
    server_text: String,
    remedy: String,
    first_time: i64,
    last_time: i64,
    attempts: u32,
    #[serde(default)]
    unjudged: bool,
}

/// The bytes are no parked record of a form that is known.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("{0}")]
    Card(#[from] serde_json::Error),
    #[error("{0}")]
    Batch(#[from] BatchError),
}

impl Card {
    pub(super) fn of(record: &ParkedRecord) -> Result<Vec<u8>, BlobError> {
        let refusal = record.refusal.clone();
        Ok(serde_json::to_vec(&Self {
            class: refusal.class.to_string(),
            code: refusal.code,
            object: refusal.object,
            server_text: refusal.server_text,
            remedy: refusal.remedy,
            first_time: record.first_time,
            last_time: record.last_time,
            attempts: record.attempts,
            unjudged: record.unjudged,
        })?)
    }

    /// The record of which it speaks.
    pub(super) fn record(&self, id: String, keys: Vec<Vec<u8>>, change: Change) -> ParkedRecord {
        ParkedRecord {
            id,
            keys,
            change,
            refusal: Refusal {
                class: Class::parse(&self.class),
                code: self.code.clone(),
                object: self.object.clone(),
                server_text: self.server_text.clone(),
                remedy: self.remedy.clone(),
            },
            first_time: self.first_time,
            last_time: self.last_time,
            attempts: self.attempts,
            unjudged: self.unjudged,
            superseded: None,
            moved: None,
            completed: None,
            operation: None,
        }
    }
}

pub(super) fn put_keys(out: &mut Vec<u8>, keys: &[Vec<u8>]) {
    wire::put_varint(out, keys.len() as u64);
    for key in keys {
        wire::put_bytes(out, key);
    }
}

pub(super) fn keys(from: &mut Bytes) -> Result<Vec<Vec<u8>>, BlobError> {
    let keys = wire::varint(from)?;
    if keys > MOST_KEYS {
        return Err(BatchError::Invalid("keys").into());
    }
    let keys = (0..keys).map(|_| wire::bytes(from).map(Vec::from));
    Ok(keys.collect::<Result<_, _>>()?)
}

pub fn write(record: &ParkedRecord) -> Result<Vec<u8>, BlobError> {
    let card = Card::of(record)?;
    let change = encode_one(&record.change);
    let mut out = Vec::with_capacity(card.len() + change.len() + 64);
    out.put_u8(VERSION);
    wire::put_bytes(&mut out, &card);
    put_keys(&mut out, &record.keys);
    out.extend_from_slice(&change);
    Ok(out)
}

pub fn read(id: String, mut blob: Bytes) -> Result<ParkedRecord, BlobError> {
    match wire::byte(&mut blob)? {
        VERSION => {}
        version => return Err(BatchError::UnknownVersion(version).into()),
    }
    let card: Card = serde_json::from_slice(&wire::bytes(&mut blob)?)?;
    let keys = keys(&mut blob)?;
    Ok(card.record(id, keys, decode_one(blob)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Cell, Operation, Position, Relation, ReplicaIdentity};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn parked() -> ParkedRecord {
        let relation = Arc::new(Relation {
            id: 1,
            schema: "public".into(),
            name: "items".into(),
            identity: ReplicaIdentity::Default,
            columns: Vec::new(),
        });
        ParkedRecord {
            id: "items-e-00000001".into(),
            keys: vec![b"7".to_vec(), b"a,\\\xc3\xa9".to_vec()],
            change: Change {
                position: Position::ZERO,
                operation: Operation::Insert,
                commit_time: 5,
                origin: None,
                relation,
                old: None,
                new: Some([Cell::Text(b"\x00x"), Cell::Null].into_iter().collect()),
            },
            refusal: Refusal {
                class: Class::Application,
                code: "23503".into(),
                object: Some("public.items/fk".into()),
                server_text: "no \"parent\"".into(),
                remedy: "Write the parent.".into(),
            },
            first_time: 1,
            last_time: 2,
            attempts: 3,
            unjudged: true,
            superseded: None,
            moved: None,
            completed: None,
            operation: None,
        }
    }

    #[test]
    fn a_record_reads_back() {
        let record = parked();
        let bytes = write(&record).unwrap();
        assert_eq!(read(record.id.clone(), bytes.into()).unwrap(), record);
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(at in 0_usize..1000, value in any::<u8>(), length in 0_usize..1000) {
            let mut bytes = write(&parked()).unwrap();
            let at = at % bytes.len();
            bytes[at] = value;
            bytes.truncate(length);
            let _ = read(String::new(), bytes.into());
        }
    }
}
