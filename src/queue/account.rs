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
    /// The counters of the map at `q`: with what was counted before the queue began, if that is known.
    pub counters: Counters,
    /// What was counted before, and is not in the counters that its entries carry. None: only the destination knows, and
    /// it could not be asked yet (I5).
    pub base: Option<Counters>,
    /// What was counted since the queue began, at the last record that was trimmed.
    pub trimmed: Counters,
    /// Commit time of the oldest record, in microseconds, as far as it is known.
    pub oldest: Option<i64>,
}

/// The fields, in the order in which the scripts answer.
pub const FIELDS: &[&str] = &[
    "v",
    "q",
    "last",
    "t",
    "seq",
    "records",
    "bytes",
    "received",
    "filtered",
    "oldest",
    "unbased",
    "baseReceived",
    "baseFiltered",
    "trimmedReceived",
    "trimmedFiltered",
];

impl Account {
    /// Reads the fields.
    ///
    /// # Errors
    /// One is missing or has another form.
    pub fn read(fields: &[Option<String>]) -> Result<Self, QueueError> {
        let counters = |first: usize| -> Result<Counters, MetaError> {
            Ok(Counters {
                received: optional(fields, first)?.unwrap_or_default(),
                filtered: optional(fields, first + 1)?.unwrap_or_default(),
            })
        };
        let base = match fields.get(10) {
            Some(Some(_)) => None,
            _ => Some(counters(11)?),
        };
        let since = Counters {
            received: field(fields, 7)?,
            filtered: field(fields, 8)?,
        };
        Ok(Self {
            version: field(fields, 0)?,
            q: field(fields, 1)?,
            last: field(fields, 2)?,
            t: field(fields, 3)?,
            seq: field(fields, 4)?,
            records: field(fields, 5)?,
            bytes: field(fields, 6)?,
            counters: since.after(base.unwrap_or_default()),
            base,
            trimmed: counters(13)?,
            oldest: fields
                .get(9)
                .and_then(Option::as_ref)
                .and_then(|text| text.parse().ok()),
        })
    }
}

fn field<T: FromStr>(fields: &[Option<String>], index: usize) -> Result<T, MetaError> {
    optional(fields, index)?.ok_or(MetaError(name(index)))
}

fn optional<T: FromStr>(fields: &[Option<String>], index: usize) -> Result<Option<T>, MetaError> {
    let text = fields.get(index).and_then(Option::as_ref);
    text.map(|text| text.parse().map_err(|_| MetaError(name(index))))
        .transpose()
}

fn name(index: usize) -> &'static str {
    FIELDS.get(index).copied().unwrap_or("?")
}
