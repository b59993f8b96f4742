//! What is in a map's queue, as Redis counts it.

use super::{QueueError, meta::MetaError};
use crate::record::{Counters, Position};
use std::str::FromStr;

/// The queue's own count. Every script that changes it answers with all of it and a version that only rises, so that
/// of two answers which overtook each other the newer is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub version: u64,
    /// Q: custody reaches up to here.
    pub q: Position,
    /// The last record that was appended.
    pub last: Position,
    /// T: everything at or below it is not in the queue.
    pub t: Position,
    /// The last entry: ids come from this counter, never from LSNs.
    pub seq: u64,
    pub records: u64,
    pub bytes: u64,
    /// The counters of the map at `q`.
    pub counters: Counters,
    /// Commit time of the oldest record, in microseconds, as far as it is known.
    pub oldest: Option<i64>,
}

/// The fields, in the order in which the scripts answer.
pub const FIELDS: &[&str] = &[
    "v", "q", "last", "t", "seq", "records", "bytes", "received", "filtered", "oldest",
];

impl Account {
    /// Reads the fields.
    ///
    /// # Errors
    /// One is missing or has another form.
    pub fn read(fields: &[Option<String>]) -> Result<Self, QueueError> {
        Ok(Self {
            version: field(fields, 0)?,
            q: field(fields, 1)?,
            last: field(fields, 2)?,
            t: field(fields, 3)?,
            seq: field(fields, 4)?,
            records: field(fields, 5)?,
            bytes: field(fields, 6)?,
            counters: Counters {
                received: field(fields, 7)?,
                filtered: field(fields, 8)?,
            },
            oldest: fields
                .get(9)
                .and_then(Option::as_ref)
                .and_then(|text| text.parse().ok()),
        })
    }
}

fn field<T: FromStr>(fields: &[Option<String>], index: usize) -> Result<T, MetaError> {
    let text = fields.get(index).and_then(Option::as_ref);
    let name = FIELDS.get(index).copied().unwrap_or("?");
    text.and_then(|text| text.parse().ok()).ok_or(MetaError(name))
}
