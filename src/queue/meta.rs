//! The position of a map's queue: all that a worker needs to go on after a restart.

use crate::record::{Era, Position};
use std::collections::HashMap;

/// The queue's own account, written in the same script as what it accounts for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    pub epoch: i64,
    /// False until the map's table has joined the publication.
    pub joined: bool,
    pub era: Era,
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
    pub received: u64,
    pub filtered: u64,
    /// The token at which the destination is fenced.
    pub fenced: Option<i64>,
    /// Records ever parked.
    pub parks: u64,
    pub superseded: u64,
    /// Commit time of the oldest record, in microseconds, as of the first append since the queue was empty.
    pub oldest: Option<i64>,
}

/// A field of the meta cannot be read.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the queue's field `{0}` in Redis cannot be read: did something else write there?")]
pub struct MetaError(&'static str);

impl Meta {
    /// Reads the hash.
    ///
    /// # Errors
    /// A field is missing or has another form.
    pub fn read(epoch: i64, fields: &HashMap<String, String>) -> Result<Self, MetaError> {
        Ok(Self {
            epoch,
            joined: field::<u8>(fields, "joined")? == 1,
            era: field(fields, "era")?,
            q: field(fields, "q")?,
            last: field(fields, "last")?,
            t: field(fields, "t")?,
            seq: field(fields, "seq")?,
            records: field(fields, "records")?,
            bytes: field(fields, "bytes")?,
            received: field(fields, "received")?,
            filtered: field(fields, "filtered")?,
            fenced: optional(fields, "fenced")?,
            parks: field(fields, "parks")?,
            superseded: field(fields, "superseded")?,
            oldest: optional(fields, "oldest")?,
        })
    }
}

fn field<T: std::str::FromStr>(fields: &HashMap<String, String>, name: &'static str) -> Result<T, MetaError> {
    optional(fields, name)?.ok_or(MetaError(name))
}

fn optional<T: std::str::FromStr>(
    fields: &HashMap<String, String>,
    name: &'static str,
) -> Result<Option<T>, MetaError> {
    fields
        .get(name)
        .map(|text| text.parse().map_err(|_| MetaError(name)))
        .transpose()
}
