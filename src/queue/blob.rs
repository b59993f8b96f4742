//! One parked record as bytes.

use super::batch::{decode_one, encode_one};
use crate::{
    failure::{Class, Refusal},
    record::ParkedRecord,
};
use serde::{Deserialize, Serialize};

/// The part that people read, before the record itself.
#[derive(Debug, Serialize, Deserialize)]
struct Card {
    version: u8,
    keys: Vec<Vec<u8>>,
    operation: String,
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
    record: Vec<u8>,
}

pub fn write(record: &ParkedRecord) -> Result<Vec<u8>, serde_json::Error> {
    let Refusal {
        class,
        code,
        object,
        server_text,
        remedy,
    } = record.refusal.clone();
    serde_json::to_vec(&Card {
        version: 1,
        keys: record.keys.clone(),
        operation: format!("{:?}", record.change.operation),
        class: class.to_string(),
        code,
        object,
        server_text,
        remedy,
        first_time: record.first_time,
        last_time: record.last_time,
        attempts: record.attempts,
        unjudged: record.unjudged,
        record: encode_one(&record.change),
    })
}

pub fn read(id: String, blob: &[u8]) -> Result<ParkedRecord, String> {
    let card: Card = serde_json::from_slice(blob).map_err(|error| error.to_string())?;
    let change = decode_one(card.record.into()).map_err(|error| error.to_string())?;
    let refusal = Refusal {
        class: Class::parse(&card.class),
        code: card.code,
        object: card.object,
        server_text: card.server_text,
        remedy: card.remedy,
    };
    Ok(ParkedRecord {
        id,
        keys: card.keys,
        change,
        refusal,
        first_time: card.first_time,
        last_time: card.last_time,
        attempts: card.attempts,
        unjudged: card.unjudged,
        superseded: None,
        moved: None,
        completed: None,
        operation: None,
    })
}
